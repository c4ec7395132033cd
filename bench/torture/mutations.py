"""Requests made hostile: values that no field expects, and bytes that are no message any more.

All that is chosen is drawn from Hypothesis, which makes the simplest request of one that fails.
What is drawn as 0, or as the first of several, is therefore the least hostile.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

LONG_WORD = "x" * 65_536
SMALL = (0, 1, -1, 2, 7, 255, 256, 1024, 1025)
EXTREME = (2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
FRACTIONS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3.4e38, -3.4e38, math.nan, math.inf, -math.inf)
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # one emoji of seven
TEXTS = (
    *("", " ", "\t\r\n", "\0", "\x7f\x1b[2J", "\u200b\u200d\ufeff", "\u202eevil\u202c", "\ufffe"),
    *("مرحبا بالعالم", "שלום", FAMILY, "漢字かな交じり文。", "ﬃ", "e\u0301" * 40, "A\u0338" * 40),
    *("</s>", "<pad><s>", ">>fra<<", "__de__", "<mask>", "{{7*7}}", "%s%n", "'; DROP TABLE"),
    *("../../etc/passwd", "captions-en-de/../../x", "captions-en-de/999", "en-" + "x" * 100),
    *("nan", "a" * 300, "word " * 60, ".", "?!" * 50, "A dog.\n\n\nA cat.\r\n", "A" + "\n" * 500),
)
# Long ones cost a server seconds: seldom.
LONG_TEXTS = (LONG_WORD, LONG_WORD + "x", "\u200b" * 21_000, "語" * 21_845, "a b " * 4_000)
LONG_TEXTS_ONE_IN = 1500

OVERWRITES = (b"\xff" * 11, b"\xff\xff\xff\xff\x0f", b"\xed\xa0\x80", b"\x0c", b"\xc0")

Draw = st.DrawFn

_BYTE = st.integers(0, 255)
_BIT = st.integers(0, 7)
_FEW_BYTES = st.binary(min_size=1, max_size=16)
_MANY_BYTES = st.binary(max_size=200)
_LUCK = st.integers(0, LONG_TEXTS_ONE_IN - 1)
_USUAL_TEXTS = st.sampled_from(TEXTS) | st.text(max_size=60)
_MUTATIONS_OF_FIELDS = st.integers(1, 3)
_COUNTS = st.sampled_from([65, 1024, 1025])  # more than any limit
_KINDS = st.integers(0, 7)

Field = FieldDescriptor
_LIMITS = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def _integers(smallest: int, largest: int) -> st.SearchStrategy[int]:
    known = [number for number in (*SMALL, *EXTREME) if smallest <= number <= largest]
    return st.sampled_from(known) | st.integers(smallest, largest)


_VALUES: dict[int, st.SearchStrategy[Any]] = {
    **{kind: _integers(*limits) for kind, limits in _LIMITS.items()},
    Field.CPPTYPE_FLOAT: st.sampled_from(FRACTIONS) | st.floats(width=32),
    Field.CPPTYPE_DOUBLE: st.sampled_from(FRACTIONS) | st.floats(),
    Field.CPPTYPE_BOOL: st.booleans(),
}


def hostile_text(draw: Draw) -> str:
    """Any of the above, or characters from everywhere."""
    if draw(_LUCK) == LONG_TEXTS_ONE_IN // 2:  # not at the ends, which are drawn more often
        return draw(st.sampled_from(LONG_TEXTS))
    return draw(_USUAL_TEXTS)


def mutate_fields(draw: Draw, message: Message, pictures: Sequence[bytes]) -> None:
    """Set one field to three, of the message or of one inside it, to what is not expected."""
    for _ in range(draw(_MUTATIONS_OF_FIELDS)):
        field = draw(_fields(message.DESCRIPTOR))
        if _is_map(field):
            _mutate_map(draw, message, field, pictures)
        elif field.is_repeated:
            _mutate_repeated(draw, message, field, pictures)
        elif field.type == Field.TYPE_MESSAGE:
            mutate_fields(draw, getattr(message, field.name), pictures)
        else:
            setattr(message, field.name, _value(draw, field, pictures))


@cache
def _fields(descriptor: Descriptor) -> st.SearchStrategy[FieldDescriptor]:
    return st.sampled_from(list(descriptor.fields))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _mutate_map(
    draw: Draw, message: Message, field: FieldDescriptor, pictures: Sequence[bytes]
) -> None:
    value = getattr(message, field.name)[hostile_text(draw)]
    if isinstance(value, Message):
        mutate_fields(draw, value, pictures)


def _mutate_repeated(
    draw: Draw, message: Message, field: FieldDescriptor, pictures: Sequence[bytes]
) -> None:
    """Emptied, one more, or more than any limit."""
    members: Any = getattr(message, field.name)
    kind = draw(_KINDS)
    if kind == 0:
        del members[:]
    elif field.type == Field.TYPE_MESSAGE:
        if kind < 4 or not members:
            members.add()
        place = draw(st.integers(0, len(members) - 1))
        mutate_fields(draw, members[place], pictures)
    elif kind == 1:
        members.extend([type(_value(draw, field, pictures))()] * draw(_COUNTS))
    else:
        members.append(_value(draw, field, pictures))


def _value(draw: Draw, field: FieldDescriptor, pictures: Sequence[bytes]) -> Any:
    if field.type == Field.TYPE_BYTES:
        return hostile_bytes(draw, pictures)
    if field.type == Field.TYPE_STRING:
        return hostile_text(draw)
    return draw(_VALUES[field.cpp_type])


def hostile_bytes(draw: Draw, pictures: Sequence[bytes]) -> bytes:
    """A broken picture, as it is or broken further."""
    content = draw(st.sampled_from(pictures))
    return mutate_bytes(draw, content) if draw(st.booleans()) else content


def mutate_bytes(draw: Draw, content: bytes) -> bytes:
    """One to four changes anywhere."""
    for mutation in draw(_BYTE_MUTATIONS):
        content = mutation(draw, content)
    return content


def _flip(draw: Draw, content: bytes) -> bytes:
    if not content:
        return content
    place = draw(st.integers(0, len(content) - 1))
    return content[:place] + bytes([content[place] ^ 1 << draw(_BIT)]) + content[place + 1 :]


def _cut(draw: Draw, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _insert(draw: Draw, content: bytes) -> bytes:
    place = _place(draw, content)
    return content[:place] + draw(_FEW_BYTES) + content[place:]


def _overwrite(draw: Draw, content: bytes) -> bytes:
    """With a number that never ends, a length of gigabytes, half a character, a group's end."""
    replacement = draw(st.sampled_from(OVERWRITES))
    place = _place(draw, content)
    return content[:place] + replacement + content[place + len(replacement) :]


def _repeat(draw: Draw, content: bytes) -> bytes:
    begin = _place(draw, content)
    return content + content[begin : begin + draw(_BYTE)]


def _replace(draw: Draw, content: bytes) -> bytes:
    return draw(_MANY_BYTES)


def _place(draw: Draw, content: bytes) -> int:
    return draw(st.integers(0, len(content)))


Mutation = Callable[[Draw, bytes], bytes]
_ALL: tuple[Mutation, ...] = (_flip, _flip, _flip, _cut, _insert, _overwrite, _repeat, _replace)
_BYTE_MUTATIONS = st.lists(st.sampled_from(_ALL), min_size=1, max_size=4)

JSON_FRAGMENTS = (
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b'"\\ud800"', b'"\\u0000"', b"[" * 20_000, b"{}"),
    *(b'{"a":' * 500, b"9" * 5_000, b'"contents"', b'"options"', b",", b"\xff\xfe", b"\\"),
)
_MARKS = b":,[]{}"


def mutate_json(draw: Draw, content: bytes) -> bytes:
    """A fragment in place of what stands between two marks, or changed bytes."""
    if draw(st.booleans()):
        return mutate_bytes(draw, content)
    fragment = draw(st.sampled_from(JSON_FRAGMENTS))
    places = [place for place, byte in enumerate(content) if byte in _MARKS]
    if not places:
        return fragment
    begin = draw(st.sampled_from(places)) + 1
    end = min([place for place in places if place >= begin], default=len(content))
    return content[:begin] + fragment + content[end:]
