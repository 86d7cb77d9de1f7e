"""The text of a file as somebody copied it off a machine: compressed, coloured, or wrapped by a container's runtime."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from simulator.errors import InputError

_MOST_BYTES: Final = 4 << 30
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


def read_texts(paths: list[Path]) -> Iterator[tuple[Text, bool]]:
    """The texts of files, and of the files in folders; whether it was named itself. Raises InputError."""
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            if not inside:
                raise InputError(f"{path}: is a folder without files")
            for file in inside:
                yield read_text(file), False
        else:
            yield read_text(path), True


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
    first = text.lstrip().partition("\n")[0]
    if not first.startswith("{"):
        return text
    try:
        head = json.loads(first)
    except (ValueError, RecursionError):
        return text
    key = next((k for k in _WRAPPED if _line(head.get(k)) is not None), None) if isinstance(head, dict) else None
    if key is None or (len(head) > 1 and {"metrics", "timings", "choices"} & head.keys()):
        return text
    lines = list[str]()
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and (said := _line(row.get(key))) is not None:
            lines.append(said.rstrip("\n"))
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
        match = _CRI.match(line)
        begun += line if match is None else line[match.end() :]
        if match is None or match[1] == "F":
            lines.append(begun)
            begun = ""
    return _ANSI.sub("", "\n".join([*lines, begun]) + "\n")
