"""Requests made hostile: values that no field expects, and bytes that are no message any more.

Everything comes from the `random.Random` that is given, so a request can be made again.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

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

Generator = random.Random


def hostile_text(rng: Generator) -> str:
    """Any of the above, or characters from everywhere."""
    if not rng.randrange(LONG_TEXTS_ONE_IN):
        return rng.choice(LONG_TEXTS)
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    codes = (rng.randrange(0x11_0000) for _ in range(rng.randrange(60)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def mutate_fields(rng: Generator, message: Message, pictures: Sequence[bytes]) -> None:
    """Set one field to three, of the message or of one inside it, to what is not expected."""
    for _ in range(rng.randint(1, 3)):
        field = rng.choice(message.DESCRIPTOR.fields)
        if _is_map(field):
            _mutate_map(rng, message, field, pictures)
        elif field.is_repeated:
            _mutate_repeated(rng, message, field, pictures)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            mutate_fields(rng, getattr(message, field.name), pictures)
        else:
            setattr(message, field.name, _value(rng, field, pictures))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _mutate_map(
    rng: Generator, message: Message, field: FieldDescriptor, pictures: Sequence[bytes]
) -> None:
    value = getattr(message, field.name)[hostile_text(rng)]
    if isinstance(value, Message):
        mutate_fields(rng, value, pictures)


def _mutate_repeated(
    rng: Generator, message: Message, field: FieldDescriptor, pictures: Sequence[bytes]
) -> None:
    """Emptied, one more, or more than any limit."""
    members: Any = getattr(message, field.name)
    kind = rng.randrange(8)
    if kind == 0:
        del members[:]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if kind < 4 or not members:
            members.add()
        mutate_fields(rng, members[rng.randrange(len(members))], pictures)
    elif kind == 1:
        members.extend([type(_value(rng, field, pictures))()] * rng.choice((65, 1024, 1025)))
    else:
        members.append(_value(rng, field, pictures))


def _value(rng: Generator, field: FieldDescriptor, pictures: Sequence[bytes]) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        return hostile_bytes(rng, pictures) if is_bytes else hostile_text(rng)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FRACTIONS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    return rng.choice([number for number in (*SMALL, *EXTREME) if _fits(number, kind)])


def _fits(number: int, kind: int) -> bool:
    bits = 64 if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return 0 <= number < 2**bits
    return -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)


def hostile_bytes(rng: Generator, pictures: Sequence[bytes]) -> bytes:
    """A broken picture, as it is or broken further."""
    content = rng.choice(pictures)
    return content if rng.random() < 0.5 else mutate_bytes(rng, content)


def mutate_bytes(rng: Generator, content: bytes) -> bytes:
    """One to four changes anywhere."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(BYTE_MUTATIONS)(rng, content)
    return content


def _flip(rng: Generator, content: bytes) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _cut(rng: Generator, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def _insert(rng: Generator, content: bytes) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + rng.randbytes(rng.randint(1, 16)) + content[place:]


def _overwrite(rng: Generator, content: bytes) -> bytes:
    """With a number that never ends, a length of gigabytes, half a character, a group's end."""
    replacement = rng.choice(OVERWRITES)
    place = rng.randint(0, len(content))
    return content[:place] + replacement + content[place + len(replacement) :]


def _repeat(rng: Generator, content: bytes) -> bytes:
    begin = rng.randint(0, len(content))
    return content + content[begin : begin + rng.randint(0, 200)]


def _replace(rng: Generator, content: bytes) -> bytes:
    return rng.randbytes(rng.randint(0, 200))


BYTE_MUTATIONS: tuple[Callable[[Generator, bytes], bytes], ...] = (
    *(_flip, _flip, _flip, _cut, _insert, _overwrite, _repeat, _replace),
)

JSON_FRAGMENTS = (
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b'"\\ud800"', b'"\\u0000"', b"[" * 20_000, b"{}"),
    *(b'{"a":' * 500, b"9" * 5_000, b'"contents"', b'"options"', b",", b"\xff\xfe", b"\\"),
)


def mutate_json(rng: Generator, content: bytes) -> bytes:
    """A fragment in place of what stands between two marks, or changed bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    places = [place for place, byte in enumerate(content) if byte in b":,[]{}"]
    if not places:
        return rng.choice(JSON_FRAGMENTS)
    begin = rng.choice(places) + 1
    end = min([place for place in places if place >= begin], default=len(content))
    return content[:begin] + rng.choice(JSON_FRAGMENTS) + content[end:]
