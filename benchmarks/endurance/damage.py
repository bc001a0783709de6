"""Ways to damage a file, and whether a damaged one is another whole file of its format, so that nothing could be told.

`damaged` draws one: bytes exchanged, cut off, put in, doubled or removed; another encoding; a value of a JSON text
exchanged for a strange one, a record or a key twice, a key renamed or gone; a number of a safetensors header; a member
of an archive twice, or none at its end.
"""

import io
import json
import math
import random
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

STRANGE: list[Any] = [
    None, True, -1, 0, 10**30, 10**400, 1e308, 1e999, math.nan, -math.inf, "", " ", "?!", "\ud800", "../../etc/passwd",
    "/etc/passwd", "a\0b", "\x1b[2Jx", "x" * 5000, [], {}, [[]], [None], [1, 2, 3, 4], {"a": 1}, [[0, 0, 1e9, 1e9]],
    2**63, 1.5,
]  # fmt: skip
NUMBERS = (b"NaN", b"-1", b"1e999", b"99999999999999999999", b"null", b'"x"', b"[]", b"true", b"4611686018427387904")
Damage = Callable[[bytes, random.Random], bytes]


# Bytes


def flip(data: bytes, rng: random.Random) -> bytes:
    """A byte is another one; often one of the first, where headers are."""
    at = rng.randrange(min(len(data), rng.choice((16, 400, len(data)))))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def cut_near_end(data: bytes, rng: random.Random) -> bytes:
    return data[: max(0, len(data) - rng.randrange(1, 40))]


def blank(data: bytes, rng: random.Random) -> bytes:
    """Zeros, as of a block that never reached the disk."""
    at, size = rng.randrange(len(data)), rng.choice((1, 64, 512, 4096))
    return data[:at] + b"\0" * min(size, len(data) - at) + data[at + size :]


def put_in(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]


def left_out(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((1, 7, 512, len(data)))
    return data[:at] + data[at + size :]


def piece_twice(data: bytes, rng: random.Random) -> bytes:
    first, last = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return data[:last] + data[first:]


def pieces_swapped(data: bytes, rng: random.Random) -> bytes:
    size = max(1, len(data) // 8)
    first, second = rng.randrange(len(data) - size), rng.randrange(len(data) - size)
    part = bytearray(data)
    part[first : first + size], part[second : second + size] = data[second : second + size], data[first : first + size]
    return bytes(part)


def all_twice(data: bytes, rng: random.Random) -> bytes:
    return data + data


def emptied(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\0" * 64, b"{}", b"[" * 5000, b"\x80\x04N.", b"PK\x05\x06" + b"\0" * 18, b"\xff" * 100))


BYTES: tuple[Damage, ...] = (
    flip, flip, bit, cut, cut_near_end, blank, put_in, left_out, piece_twice, pieces_swapped, all_twice, emptied,
)  # fmt: skip


# Texts


def other_encoding(data: bytes, rng: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32-le", "cp037", "utf-7")), "replace")


def line_twice(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return b"".join([*lines[: at + 1], b"" if lines[at].endswith(b"\n") else b"\n", *lines[at:]])


def line_gone(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def quote_put_in(data: bytes, rng: random.Random) -> bytes:
    at = rng.choice([0, *(found.end() for found in re.finditer(rb"[,\n:]", data))])
    return data[:at] + rng.choice((b'"', b"'", b",", b"\n", b"\r")) + data[at:]


TEXTS: tuple[Damage, ...] = (other_encoding, line_twice, quote_put_in)


# JSON


def _places(content: Any, wanted: Callable[[Any], bool]) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON content that is wanted."""
    found, level = [], [content]
    while level:
        node = level.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        found += [(node, key) for key in keys if wanted(node[key])]
        level += [node[key] for key in keys]
    return found


def _one(content: Any, rng: random.Random, wanted: Callable[[Any], bool] = lambda _: True) -> tuple[Any, Any]:
    places = _places(content, wanted)
    return rng.choice(places) if places else ([content], 0)


def strange_value(content: Any, rng: random.Random) -> Any:
    node, key = _one(content, rng)
    node[key] = rng.choice(STRANGE)
    return content


def other_type(content: Any, rng: random.Random) -> Any:
    node, key = _one(content, rng, lambda value: isinstance(value, str | int | float))
    value = node[key]
    node[key] = [value] if rng.random() < 0.3 else f"{value} " if not isinstance(value, str) else len(value) + 0.5
    return content


def gone(content: Any, rng: random.Random) -> Any:
    node, key = _one(content, rng)
    del node[key]
    return content


def renamed(content: Any, rng: random.Random) -> Any:
    node, key = _one(content, rng)
    if isinstance(node, dict):
        node[f"{key}_"] = node.pop(key)
    return content


def entry_twice(content: Any, rng: random.Random) -> Any:
    """A record, or whatever else stands in a list, twice."""
    lists = [content] if isinstance(content, list) else []
    lists += [node[key] for node, key in _places(content, lambda value: isinstance(value, list))]
    listed = rng.choice([one for one in lists if one] or [[0]])
    listed.append(listed[rng.randrange(len(listed))])
    return content


def same_identity(content: Any, rng: random.Random) -> Any:
    """The identity of one record is that of another."""
    names = [
        key
        for node, key in _places(content, lambda _: True)
        if isinstance(key, str) and key.lower().endswith(("id", "identifier", "image", "name"))
    ]
    if names:
        name = rng.choice(names)
        places = [(node, key) for node, key in _places(content, lambda _: True) if key == name]
        (one, key), (other, _) = rng.choice(places), rng.choice(places)
        one[key] = other[key]
    return content


JSON: tuple[Callable[[Any, random.Random], Any], ...] = (
    strange_value, strange_value, other_type, gone, renamed, entry_twice, same_identity,
)  # fmt: skip


def key_twice(data: bytes, rng: random.Random) -> bytes:
    """`"key": other, ` before a key of an object."""
    found = rng.choice(list(re.finditer(rb'"(?:[^"\\\n]|\\.)*" ?:', data)) or [re.match(b"", data)])
    assert found is not None
    return data[: found.start()] + found[0] + rng.choice((b" null, ", b' "other", ', b" 7, ")) + data[found.start() :]


def in_json(data: bytes, rng: random.Random) -> bytes:
    """A damage of the content of a JSON text, or of one line of many."""
    try:
        return json.dumps(rng.choice(JSON)(json.loads(data), rng)).encode()
    except ValueError:
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(rng.choice(JSON)(json.loads(lines[at]), rng)).encode()
        return b"\n".join([*lines, b""])


# Archives


def in_header(data: bytes, rng: random.Random) -> bytes:
    """A number, a name or a type in the header of a safetensors file; its length is put right."""
    length = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + length], data[8 + length :]
    words = list(re.finditer(rb"\d+", text))
    found = rng.choice(words)
    kinds = [(found[0], rng.choice(NUMBERS)), (b"F32", b"I32"), (b'"F16"', b'"BF16"'), (b"weight", b"weihgt")]
    old, new = rng.choice(kinds)
    at = found.start() if old == found[0] else text.find(old)
    text = text[:at] + new + text[at + len(old) :] if at >= 0 else text.rstrip()[:-1]
    return len(text).to_bytes(8, "little") + text + rest


def tensors_swapped(data: bytes, rng: random.Random) -> bytes:
    """Two tensors of a safetensors file change names, or types and shapes; of one alone the header is damaged."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    if len(names) < 2:
        return in_header(data, rng)
    one, other = rng.sample(names, 2)
    header[one], header[other] = header[other], header[one]
    if rng.random() < 0.3 and len(header[one]["shape"]) > 1:
        header[one]["shape"] = header[one]["shape"][::-1]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def member_twice(data: bytes, rng: random.Random) -> bytes:
    """A member of a tar stands in it again, with some of its bytes exchanged."""
    content = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=content, mode=_mode(data)) as new:
        members = [member for member in old if member.isreg()]
        again = rng.choice(members)
        for member in [*members, again]:
            new.addfile(member, old.extractfile(member))
    return content.getvalue()


def no_end(data: bytes, rng: random.Random) -> bytes:
    """A tar without the last of its members, or without its end mark alone."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = rng.choice(list(archive)[1:])
    return data[: member.offset] if rng.random() < 0.5 else data.rstrip(b"\0") + b"\0" * rng.randrange(600)


def _mode(data: bytes) -> Any:
    return "w:gz" if data[:2] == b"\x1f\x8b" else "w"


def part_changed(data: bytes, rng: random.Random) -> bytes:
    """A member of a zip (a checkpoint, arrays) twice, or gone."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(content, "w") as new:
        parts = [(info.filename, old.read(info)) for info in old.infolist()]
        name, part = rng.choice(parts)
        kept = [one for one in parts if one[0] != name]
        for one, written in kept if rng.random() < 0.5 else [*parts, (name, bit(part, rng) if part else b"x")]:
            new.NameToInfo.pop(one, None)  # which warns of a second one
            new.writestr(one, written)
    return content.getvalue()


FORMS: dict[str, tuple[Damage, ...]] = {
    "member": (*BYTES, *TEXTS, in_json, key_twice),
    "json": (*BYTES, *TEXTS, in_json, in_json, in_json, in_json, in_json, in_json, key_twice, key_twice),
    "settings": (*BYTES, *TEXTS, in_json, in_json, in_json, in_json, in_json, in_json, key_twice, key_twice),
    "lines": (*BYTES, *TEXTS, *TEXTS, in_json, in_json, in_json, key_twice, key_twice),
    "text": (*BYTES, *TEXTS, *TEXTS, *TEXTS),
    "free": (*BYTES, *TEXTS),
    "yaml": (*BYTES, *TEXTS, *TEXTS, *TEXTS, line_twice, line_gone),
    "safetensors": (*BYTES, in_header, in_header, in_header, tensors_swapped, tensors_swapped),
    "tar": (*BYTES, member_twice, member_twice, no_end, no_end),
    "tar.gz": (*BYTES, member_twice, member_twice),
    "zip": (*BYTES, part_changed, part_changed, part_changed),
    "bytes": BYTES,
}


# Is it another whole file?


def another(form: str, whole: bytes, damaged: bytes) -> bool:
    """Whether nothing in a damaged file shows that it is not what was written.

    A file without a checksum is whole if it says as much as before in the same form: other letters in a text, another
    number in the place of one, fewer lines where there is a line for each record.
    """
    try:
        return _ANOTHER.get(form, _never)(whole, damaged)
    except (ValueError, KeyError, tarfile.TarError, EOFError, OSError, YAMLError):
        return False


def _never(whole: bytes, damaged: bytes) -> bool:
    return False


def _json(whole: bytes, damaged: bytes) -> bool:
    return same_shape(_strict(whole.decode()), _strict(damaged.decode("utf-8-sig")))


def _strict(text: str) -> Any:
    """The content; ValueError for a key that stands twice and for what is no JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def none(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, object_pairs_hook=once, parse_constant=none)


def same_shape(one: Any, other: Any) -> bool:
    """Whether the second says nothing in another form: its entries have the keys and types of entries of the first.

    There may be more or fewer of them, but no identity and no entry of a list stands oftener than before.
    """
    return _shapes(other) <= _shapes(one) and not (_again(other) - _again(one))


def _shapes(content: Any) -> set[str]:
    """What stands anywhere: keys of objects by their path, and types of values."""
    found, level = set(), [("", content)]
    while level:
        path, node = level.pop()
        if isinstance(node, dict) and not _is_table(node):
            found.add(f"{path} {sorted(node)}")
            level += [(f"{path}.{key}", value) for key, value in node.items()]
        elif isinstance(node, dict | list):
            level += [(f"{path}[]", value) for value in (node.values() if isinstance(node, dict) else node)]
        else:
            found.add(f"{path} {'number' if type(node) in (int, float) else type(node).__name__}")
    return found


def _is_table(node: dict[str, Any]) -> bool:
    """Whether the keys of an object are identities: all its values are alike, and objects."""
    values = list(node.values())
    return bool(values) and all(isinstance(value, dict) and {*value} == {*values[0]} for value in values)


def _again(content: Any) -> Counter[str]:
    """How often identities and entries of lists stand beside equal ones."""
    total: Counter[str] = Counter()
    for node, key in [([content], 0), *_places(content, lambda value: isinstance(value, list | str | int))]:
        if isinstance(node[key], list) and not all(isinstance(entry, int | float) for entry in node[key]):
            total["entries"] += len(node[key]) - len({json.dumps(entry, sort_keys=True) for entry in node[key]})
        elif key in IDENTITIES and not isinstance(node[key], list):
            total[f"{key} {node[key]}"] += 1
    twice = Counter({name: n - 1 for name, n in total.items() if name != "entries"})
    return twice + Counter(entries=total["entries"])


IDENTITIES = {"id", "question_id", "qa_id", "identifier", "cocoid", "imgid", "answer_id"}


def _lines(whole: bytes, damaged: bytes) -> bool:
    """Lines of JSON: each is as before, or as one before in its shape; some may be gone, none is there twice."""
    before = [_strict(line) for line in whole.decode().split("\n") if line.strip()]
    after = [_strict(line) for line in damaged.decode("utf-8-sig").split("\n") if line.strip()]
    return same_shape(before, after)


def _text(whole: bytes, damaged: bytes) -> bool:
    """Lines of as many words and commas each, none oftener than before."""
    before, after = (list(filter(None, data.decode("utf-8-sig").split("\n"))) for data in (whole, damaged))
    shapes = {_columns(line, b"," in whole) for line in before}
    return _free(whole, damaged) and all(_columns(line, b"," in whole) in shapes for line in after)


def _columns(line: str, table: bool) -> int:
    return line.count(",") if table else len(line.split())


def _settings(whole: bytes, damaged: bytes) -> bool:
    """Any object that says no key twice: what it lacks has a default in its library, and what is unknown is kept."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    return isinstance(json.loads(damaged.decode("utf-8-sig"), object_pairs_hook=once), dict)


def _yaml(whole: bytes, damaged: bytes) -> bool:
    """Any YAML that says no key twice: keys and values of a configuration have defaults, and comments say nothing."""
    OmegaConf.create(damaged.decode())
    return True


def _free(whole: bytes, damaged: bytes) -> bool:
    """Any text, no line of which stands oftener than before."""
    before, after = (list(map(str.strip, data.decode("utf-8-sig").split("\n"))) for data in (whole, damaged))
    lines = [line for line in after if line]
    return len(lines) - len({*lines}) <= len(before) - len({*before}) and not re.search(
        "[\0-\x08\x0e-\x1f]", "".join(after)
    )


def _picture(whole: bytes, damaged: bytes) -> bool:
    """A JPEG has no checksum, nor have CIFAR's pixels: whatever can be decoded may have been meant."""
    return True


def _tar(whole: bytes, damaged: bytes) -> bool:
    """The same headers and the same end; members of JSON in the same shape."""
    before, after = list(_members(whole)), list(_members(damaged))
    if len(whole) != len(damaged) or [name for name, _ in before] != [name for name, _ in after]:
        return False
    return all(not name.endswith(".json") or _json(a, b) for (name, a), (_, b) in zip(before, after, strict=True))


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            yield member.name, content.read() if content else b""


def _safetensors(whole: bytes, damaged: bytes) -> bool:
    """Always, where the caller compares a hash of the file: numbers of weights are of any size."""
    return True


def _pixels(whole: bytes, damaged: bytes) -> bool:
    return len(whole) == len(damaged)


def _member(whole: bytes, damaged: bytes) -> bool:
    """An object with a caption; nothing else of it is read."""
    return "caption" in _strict(damaged.decode())


_ANOTHER: dict[str, Callable[[bytes, bytes], bool]] = {
    "json": _json, "lines": _lines, "text": _text, "free": _free, "tar": _tar, "safetensors": _safetensors,
    "yaml": _yaml, "settings": _settings, "jpeg": _picture, "pixels": _pixels, "member": _member,
}  # fmt: skip
