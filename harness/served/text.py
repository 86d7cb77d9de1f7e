"""The text of a file as somebody copied it off a machine: compressed, coloured, or wrapped by a container's runtime."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from simulator.errors import InputError

_MOST_BYTES: Final = 4 << 30
"""Of a file that is held whole."""
LONG_BYTES: Final = 64 << 20
"""Of a file that is longer, if it is a log, only the lines are held that say something here."""
_EVERY: Final = 100_000
"""Lines after which progress is told."""
_GZIP: Final = b"\x1f\x8b"
_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CRI: Final = re.compile(r"^\d{4}-\d\d-\d\dT\S+ (?:stdout|stderr) ([FP]) ?")
_WRAPPED: Final = ("log", "message", "MESSAGE", "textPayload", "line", "msg")
"""Under which a runtime or a collector keeps the line itself, where it writes JSON: Docker's, vLLM's own formatter's,
journald's, Google's, Loki's."""


@dataclass(frozen=True)
class Text:
    """A file's text, as the program wrote it."""

    file: Path
    text: str
    notes: tuple[str, ...] = ()
    """What had to be done to read it."""
    _parsed: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The file, as users call it."""
        return str(self.file)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without their ends."""
        return self.text.splitlines()

    @cached_property
    def whole(self) -> Any:
        """What it holds as one JSON value; None where it is none."""
        if not self.text.lstrip().startswith(("{", "[")):
            return None
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The objects of its lines, where most lines are JSON objects; a last line that was cut is left out."""
        found, broken = list[dict[str, Any]](), 0
        for line in self.lines:
            if not (stripped := line.strip()):
                continue
            try:
                value = json.loads(stripped)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                found.append(value)
            else:
                broken += 1
        return found if broken <= max(1, len(found) // 20) else []

    @property
    def cut_rows(self) -> int:
        """Lines that are no JSON object, of a file of such lines."""
        return sum(1 for line in self.lines if line.strip()) - len(self.rows) if self.rows else 0

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The JSON objects of a stream of server-sent events."""
        found = list[dict[str, Any]]()
        for line in self.lines:
            if line.startswith("data:") and line[5:].strip().startswith("{"):
                try:
                    found.append(json.loads(line[5:]))
                except ValueError:
                    continue
        return found

    def documents(self) -> list[dict[str, Any]]:
        """The JSON objects it holds, however: one, a list, a line each, a stream of events."""
        if isinstance(self.whole, dict):
            return [self.whole]
        if isinstance(self.whole, list):
            return [one for one in self.whole if isinstance(one, dict)]
        return self.rows or self.events


Progress = Callable[[Path, int, int], None]
"""Hears the file that is read, and how many of its bytes are, of how many."""


def read_texts(paths: list[Path], counts: re.Pattern[str], progress: Progress) -> Iterator[tuple[Text, bool]]:
    """The texts of files, and of the files in folders; whether it was named itself. Raises InputError.

    Of a long log only the lines are kept in which `counts` is found.
    """
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            if not inside:
                raise InputError(f"{path}: is a folder without files")
            for file in inside:
                yield _read(file, counts, progress), False
        else:
            yield _read(path, counts, progress), True


def _read(file: Path, counts: re.Pattern[str], progress: Progress) -> Text:
    """Raises InputError."""
    try:
        if file.is_file() and file.stat().st_size > LONG_BYTES and (found := _read_long(file, counts, progress)) is not None:
            return found
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from None
    return read_text(file)


def _read_long(file: Path, counts: re.Pattern[str], progress: Progress) -> Text | None:
    """The lines of a long log that count; None where it is no log but JSON, or metrics, which are read whole.

    Raises OSError, and InputError where nothing in it counts.
    """
    total, kept, notes, begun = file.stat().st_size, list[str](), list[str](), ""
    unwrap: Callable[[str], tuple[str, bool]] | None = None
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        stream = io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, "utf-8-sig", "replace", newline="\n")
        try:
            for number, line in enumerate(stream):
                if number % _EVERY == 0:
                    progress(file, raw.tell(), total)
                if unwrap is None and (not line.strip() or (unwrap := _wrapping(line)) is None):
                    if line.strip():
                        return None
                    continue
                said, ends = unwrap(line.rstrip("\r\n"))
                begun += said
                if ends:
                    if counts.search(begun):
                        kept.append(_ANSI.sub("", begun))
                    begun = ""
        except (EOFError, gzip.BadGzipFile, zlib.error):
            notes.append("the compressed file ends early: what is there was read")
    if not kept:
        raise InputError(f"{file}: is a long log in which no line is one that is read here")
    return Text(file, "\n".join(kept) + "\n", tuple(notes))


def _wrapping(first: str) -> Callable[[str], tuple[str, bool]] | None:
    """How a log's lines are wrapped, by its first: a function from a line to (what the program wrote, whether it ends)."""
    if _CRI.match(first):
        return _cri
    if not first.lstrip().startswith(("{", "[{", "#", "vllm:", "vllm_", "sglang:", "llamacpp:", "process_", "python_")):
        return lambda line: (line, True)
    head = _object(first)
    key = None if head is None else _key(head)
    if key is None:
        return None
    return lambda line: (_line((_object(line) or {}).get(key)) or "", True)


def _cri(line: str) -> tuple[str, bool]:
    match = _CRI.match(line)
    return (line, True) if match is None else (line[match.end() :], match[1] == "F")


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _key(head: Mapping[str, Any]) -> str | None:
    """Under which a collector's row keeps the line; None where it is no such row."""
    key = next((k for k in _WRAPPED if _line(head.get(k)) is not None), None)
    return None if len(head) > 1 and {"metrics", "timings", "choices"} & head.keys() else key


def read_text(file: Path) -> Text:
    """Raises InputError for a file that cannot be read, or is no text."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InputError(f"{file}: has more than {_MOST_BYTES >> 30} GiB; give the part that matters")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from None
    notes = list[str]()
    if data.startswith(_GZIP):
        data = _unzipped(file, data, notes)
    if not data.strip():
        raise InputError(f"{file}: is empty")
    text = _decoded(file, data)
    plain = _ANSI.sub("", text).replace("\r\n", "\n")
    return Text(file, _unwrapped(plain), tuple(notes))


def _unzipped(file: Path, data: bytes, notes: list[str]) -> bytes:
    """What of a compressed file can be read: one that was cut, or is still written, ends early."""
    parts, left = list[bytes](), data
    size = 0
    try:
        while left.startswith(_GZIP):
            one = zlib.decompressobj(16 + zlib.MAX_WBITS)
            parts.append(one.decompress(left, _MOST_BYTES - size))
            size += len(parts[-1])
            if one.unconsumed_tail:
                raise InputError(f"{file}: has more than {_MOST_BYTES >> 30} GiB; give the part that matters")
            if not one.eof:
                notes.append("the compressed file ends early: what is there was read")
                break
            left = one.unused_data
    except zlib.error as error:
        if not any(parts):
            raise InputError(f"{file}: is damaged: {error}") from None
        notes.append("the compressed file is damaged: what is before that was read")
    return b"".join(parts)


def _decoded(file: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(f"{file}: is no text") from None
    if data.count(b"\x00") > len(data) // 1000:
        raise InputError(f"{file}: is no text; a log, metrics, JSON or JSON lines are read")
    return data.decode("utf-8-sig", errors="replace")


def _unwrapped(text: str) -> str:
    """Lines as the program wrote them, of a runtime's file of them."""
    if _CRI.match(text.lstrip()):
        return _joined(text)
    head = _object(text.lstrip().partition("\n")[0])
    if head is None or (key := _key(head)) is None:
        return text
    rows = (_object(line) for line in text.splitlines())
    lines = [said.rstrip("\n") for row in rows if row is not None and (said := _line(row.get(key))) is not None]
    return _ANSI.sub("", "\n".join(lines) + "\n")


def _line(value: Any) -> str | None:
    """A line as a collector keeps it; journald has those with colours as their bytes."""
    if isinstance(value, list) and value and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
        return bytes(value).decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None


def _joined(text: str) -> str:
    """Lines of a container's runtime: P is a part of a longer line, which the next one continues."""
    lines, begun = list[str](), ""
    for line in text.splitlines():
        said, ends = _cri(line)
        begun += said
        if ends:
            lines.append(begun)
            begun = ""
    return _ANSI.sub("", "\n".join([*lines, begun]) + "\n")
