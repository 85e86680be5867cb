"""What is done to a file to break it: to its bytes, or to the words and numbers of its text. The same seed does the same."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable

__all__ = ["mutate"]

_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e38, 5e-324, -0.0)

# What stands where a name was, and would do something where a name is evaluated; `touch` is seen by the fuzzer's audit hook.
_PAYLOADS = (
    b"__import__('os').system('touch /tmp/evaluated')",
    b"');import os;os.system('touch /tmp/evaluated')#",
    b"cos\nsystem\n(S'touch /tmp/evaluated'\ntR.",
    b"../../../../../../etc/passwd",
    b"file:///etc/passwd",
    b"http://127.0.0.1:9/x",
    b"%s%n{0.__class__}${HOME}",
)
_RUN = re.compile(rb"[\x20-\x7e]{3,}")


def mutate(data: bytes, is_text: bool, rng: random.Random) -> bytes:
    """The content of a file after one to three changes.

    Args:
        is_text: whether words and numbers of a text are changed too, besides bytes.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changes = _TEXT if is_text and rng.random() < 0.75 else _BYTES
        data = rng.choice(changes)(data, rng)
    return data


def _place(data: bytes, rng: random.Random, width: int = 1) -> int:
    """Where to write: anywhere, or, as often, near the two ends, where headers and footers are."""
    last = max(0, len(data) - width)
    if rng.random() < 0.5:
        return rng.randint(0, last)
    near = min(last, rng.choice((64, 512, 2048)))
    return rng.choice((rng.randint(0, near), last - rng.randint(0, near)))


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if out else 0):
        out[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _set_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4)) if out else 0):
        out[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out)


def _integer(data: bytes, rng: random.Random) -> bytes:
    width = rng.choice(tuple(_WIDTHS))
    bits = 8 * width
    value = rng.choice(
        (0, 1, -1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 2**31, 2**31 - 1, 2**32 - 1, 2**16, 2**63, 2**40, len(data))
    )
    packed = struct.pack(rng.choice("<>") + _WIDTHS[width], value % 2**bits)
    return _put(data, _place(data, rng, width), packed)


def _real(data: bytes, rng: random.Random) -> bytes:
    kind = rng.choice("fd")
    value = rng.choice(_FLOATS)
    packed = struct.pack(rng.choice("<>") + kind, value if kind == "d" or abs(value) < 3e38 else float("inf"))
    return _put(data, _place(data, rng, len(packed)), packed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((rng.randint(0, len(data)), max(0, len(data) - rng.randint(1, 64))))]


def _more(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((rng.randbytes(rng.randint(1, 200)), bytes(rng.randint(1, 4096)), data))


def _part(data: bytes, rng: random.Random, longest: int = 512) -> bytes:
    at = rng.randint(0, max(0, len(data) - 1))
    return data[at : at + rng.randint(1, longest)]


def _removed(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.randint(1, 256) :]


def _repeated(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.randint(1, 256)
    return data[:at] + data[at : at + size] * rng.choice((2, 3, 16, 64)) + data[at + size :]


def _spliced(data: bytes, rng: random.Random) -> bytes:
    return _put(data, _place(data, rng), _part(data, rng))


def _zeroed(data: bytes, rng: random.Random) -> bytes:
    return _put(data, _place(data, rng), rng.choice((b"\0", b"\xff")) * rng.randint(2, 512))


def _renamed(data: bytes, rng: random.Random) -> bytes:
    """One of the words in the file in place of another, or something evil, of the same length."""
    runs = list(_RUN.finditer(data))
    if not runs:
        return _bits(data, rng)
    run = rng.choice(runs)
    new = rng.choice((rng.choice(runs)[0], rng.choice(_PAYLOADS)))
    size = len(run[0])
    return _put(data, run.start(), new[:size].ljust(size))


Change = Callable[[bytes, random.Random], bytes]

_BYTES: tuple[Change, ...] = (
    *(_bits, _set_bytes, _integer, _integer, _integer, _real, _cut, _more, _removed, _repeated, _spliced, _zeroed),
    *(_renamed, _renamed),
)

_TOKEN = re.compile(rb'"[^"\n]*"|[-+]?\.?\d[\w.+-]*|[A-Za-z_]\w*')
_NUMBERS = (
    *(b"0", b"-1", b"1", b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"-1e308", b"1e-400", b"2147483648", b"-2147483649"),
    *(b"9223372036854775808", b"18446744073709551616", b"1e18", b"3.5", b"007", b"0x10", b"1_000", b"true", b"null", b'""', b"[]"),
    *(b"{}", b"'1'", b"9" * 400, b"9" * 5000, b"1e", b"--1", b"1:30:00", b"2001-01-01"),
)  # fmt: skip
_WORDS = (
    *(b"null", b"true", b"[]", b"{}", b'""', b"0", b"-1", b"1e300", b"'", b'"', b"[", b"{", b"}", b"]", b":", b",", b"#", b"&a", b"*a"),
    *(b"\xff\xfe", b"\x00", b"\\u0000", b'"\\ud800"', b"x" * 70000, b'"' + b"x" * 70000 + b'"', b"../../etc/passwd", b"__proto__"),
    *(b"!!python/object/apply:os.system ['touch /tmp/evaluated']", b"!!python/name:os.system", b"!!binary aGk=", b"!!set {a}"),
    *(b"!!float .nan", b"!!int 0", b"<<: *a", b"? [a, b]", b"&a [*a]", b"|", b">", b"%YAML 9.9", b"--- ", b"... ", b"@", b"`"),
    *_PAYLOADS,
)  # fmt: skip


def _token(data: bytes, rng: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return _bits(data, rng)
    token = rng.choice(tokens)
    is_number = token[0][:1] in b"+-.0123456789"
    new = rng.choice(_NUMBERS if is_number and rng.random() < 0.8 else (*_WORDS, rng.choice(tokens)[0], b""))
    if token[0].startswith(b'"') and rng.random() < 0.5:
        new = b'"' + new.strip(b'"') + b'"'
    return data[: token.start()] + new + data[token.end() :]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(to, lines[at])
    elif kind == 2:
        lines[at], lines[to] = lines[to], lines[at]
    elif kind == 3:
        lines[at] = b" " * rng.choice((1, 2, 3, 8)) + lines[at]
    else:
        lines[at : at + 1] = [lines[at]] * rng.choice((2, 50))
    return b"\n".join(lines)


def _nested(data: bytes, rng: random.Random) -> bytes:
    """Brackets deeper than a parser's stack, or an anchor that stands for a billion things."""
    deep = rng.choice((100, 1500, 20_000))
    laughs = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
    )
    if rng.random() < 0.3:
        token = rng.choice(list(_TOKEN.finditer(data)) or [re.match(b"", data)])
        return laughs + data[: token.start()] + b"*a11" + data[token.end() :]
    new = rng.choice((b"[" * deep, b"[" * deep + b"]" * deep, b'{"a":' * deep, b"- " * deep, b"(" * deep))
    at = rng.choice([0, len(data), *(token.start() for token in _TOKEN.finditer(data))])
    return data[:at] + new + data[at:]


_TEXT: tuple[Change, ...] = (_token, _token, _token, _token, _token, _token, _lines, _lines, _nested)
