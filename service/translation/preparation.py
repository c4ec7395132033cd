"""From a caller's text to the pieces that the model decodes, or to that text's error."""

import threading
import unicodedata
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from service.bundle import Direction
from service.errors import AttendantError, InvalidOption, InvalidText, Overloaded, TextTooLong
from service.translation.options import DecodingOptions, Segmentation
from service.translation.segmenter import Segments, split_text
from service.translation.tokenizer import Tokenizer

# A token is seldom longer than this; a piece with more characters a token is cut all the same.
MAX_CHARACTERS_A_TOKEN = 20

# Unicode's general categories of what leaves no mark.
_INVISIBLE = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))


@dataclass(frozen=True, slots=True)
class PreparedText:
    """The segments of one text, and the source ids of each piece; none for one without tokens.

    A piece without tokens is its own translation.
    """

    segments: Segments
    source_ids: tuple[tuple[int, ...], ...]

    @property
    def num_sequences(self) -> int:
        """Pieces that have to be decoded."""
        return sum(map(bool, self.source_ids))


@dataclass(frozen=True, slots=True)
class TextPreparer:
    """Segments and tokenizes the texts of one model. Holds no state: any thread may use it."""

    tokenizer: Tokenizer
    max_source_tokens: int
    max_text_bytes: int
    max_sequences: int  # of a call

    def least_sequences(self, contents: SequenceOf[str]) -> int:
        """So many sequences texts have, or more, by a look at them: one each that begins visibly.

        1 where they may have more than could ever wait, which `prepare` refuses in other words.
        """
        if sum(map(len, contents)) > self.max_sequences:
            return 1
        return max(1, sum(not _is_invisible(text[:1]) for text in contents))

    def prepare(
        self,
        contents: SequenceOf[str],
        direction: Direction,
        options: DecodingOptions,
        segmentation: Segmentation,
        abandoned: threading.Event | None = None,
    ) -> list[PreparedText | AttendantError]:
        """Every text, or what is wrong with it; it ends early once nobody waits for it.

        Raises Overloaded as soon as the call has more sequences than could ever wait.
        """
        prepared: list[PreparedText | AttendantError] = []
        num_sequences = 0
        for text in contents:
            if abandoned is not None and abandoned.is_set():
                break
            one = self._prepare_one(text, direction, options, segmentation)
            prepared.append(one)
            num_sequences += one.num_sequences if isinstance(one, PreparedText) else 0
            if num_sequences > self.max_sequences:
                raise Overloaded(
                    f"the first {len(prepared)} of {len(contents)} texts have {num_sequences} "
                    f"sequences, the queue takes {self.max_sequences}"
                )
        return prepared

    def _prepare_one(
        self,
        text: str,
        direction: Direction,
        options: DecodingOptions,
        segmentation: Segmentation,
    ) -> PreparedText | AttendantError:
        try:
            num_bytes = len(text.encode())
        except UnicodeEncodeError as error:
            found = ord(text[error.start])
            return InvalidText(f"text has U+{found:04X} at {error.start}, half of a character")
        if num_bytes > self.max_text_bytes:
            return TextTooLong(f"text has {num_bytes} bytes, the limit is {self.max_text_bytes}")
        known: dict[str, tuple[int, ...]] = {}

        def encode(piece: str) -> tuple[int, ...]:
            if piece not in known:
                invisible = _is_invisible(piece)
                known[piece] = () if invisible else self._source_ids(piece, direction)
            return known[piece]

        segments = split_text(
            text,
            language=direction.source.code.partition("-")[0],  # de-AT has the rules of de
            sentences=segmentation is Segmentation.SENTENCES,
            max_characters=self.max_source_tokens * MAX_CHARACTERS_A_TOKEN,
            fits=lambda piece: len(encode(piece)) <= self.max_source_tokens,
        )
        prepared = PreparedText(segments, tuple(map(encode, segments.pieces)))
        if prepared.num_sequences > self.max_sequences:
            return TextTooLong(
                f"text has {prepared.num_sequences} sequences, the queue takes {self.max_sequences}"
            )
        if options.num_hypotheses > 1 and prepared.num_sequences > 1:
            return InvalidOption(
                f"num_hypotheses is {options.num_hypotheses}, but the text is decoded as "
                f"{prepared.num_sequences} sequences, which have one joint hypothesis"
            )
        return prepared

    def _source_ids(self, piece: str, direction: Direction) -> tuple[int, ...]:
        """What the encoder reads of a piece; nothing where it would read only the template."""
        ids = self.tokenizer.encode([piece], direction)[0]
        return tuple(ids) if len(ids) > self.tokenizer.num_added else ()


def _is_invisible(piece: str) -> bool:
    """Whether there is nothing to translate: control and format characters, and spaces, alone.

    To some tokenizers a NUL is an unknown word, and the model makes up a sentence about it.
    """
    return all(unicodedata.category(character) in _INVISIBLE for character in piece)
