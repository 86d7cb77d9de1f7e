"""The text of a file as somebody copied it off a machine: compressed, coloured, or wrapped by a container's runtime."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

from harness.served.names import by_name, unnumbered
from harness.served.observed import MOST_POSITIONS
from harness.served.queried import exported, scrapes_of
from simulator.errors import InputError
from simulator.numbers import counted

_MOST_BYTES: Final = 1 << 30
"""The largest file that is held whole: JSON takes several times as much."""
LONG_BYTES: Final = 64 << 20
"""Where a file is longer, only that is held which says something here: lines of a log, JSON objects without their texts."""
_PACKED: Final = 8
"""How many times as long as a compressed file its text is taken to be."""
_LONG_WORD: Final = 256
"""Characters of a text that is no name."""
_HEAD: Final = 400
"""Characters in which a document's first keys stand."""
_EVERY: Final = 100_000
"""Lines after which progress is told."""
_GZIP: Final = b"\x1f\x8b"
_PACKERS: Final[Mapping[bytes, Callable[[BinaryIO], io.BufferedIOBase]]] = {b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile}
"""What else files are compressed by, as their first bytes say."""
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
NO_TEXT: Final = "it is no text"
"""The note of a file in a folder of which nothing was read."""
DOCUMENT: Final = "by its name somebody's document; name it itself where a server wrote it"
"""The note of a file in a folder that is called as people call what they write."""
_DOCUMENTS: Final = frozenset({".adoc", ".htm", ".html", ".ipynb", ".md", ".py", ".rst", ".sh"})
"""How files are called that somebody wrote: they quote what servers write."""
_FIRST: Final = 1024
"""Bytes that tell what is no text."""
_CONTROL: Final = re.compile(rb"[\x01-\x06\x0e-\x1a]|^\x80|\x89PNG")
"""Characters that no text has; how a pickle and a picture begin."""
_METRIC: Final = re.compile(r"\s*(?:(?:ray_)?(?:vllm|sglang|llamacpp|trtllm)|process|python)[:_]\w+[{ ]\S*[\w\"{]")
"""A sample of metrics, told from a log by a name of its own: `vllm_1  | …` is a line of one."""
_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_END: Final = re.compile(r"\r?\n|\r")
_BEGINS: Final = re.compile(r"\s*(?:\{|\[\s*[\[{\"\]])")
"""How JSON begins that says something here: a time in brackets is no list."""
_VALUE: Final = re.compile(r"[^\s,]")
"""Where the next JSON value begins."""
_CRI: Final = re.compile(r"^\d{4}-\d\d-\d\dT\S+ (?:stdout|stderr) ([FP]) ?")
_WRAPPED: Final = ("log", "message", "MESSAGE", "textPayload", "line", "msg", "LogMessage", "_raw", "event", "body")
"""Under which a runtime or a collector keeps the line itself, where it writes JSON: Docker's, vLLM's own formatter's,
journald's, Google's, Loki's, Azure's, Splunk's, structlog's, OpenTelemetry's."""
_HEADERS: Final = re.compile(r"\A(?:HTTP/\d(?:\.\d)? \d{3}[^\n]*\n(?:[\w-]+:[^\n]*\n)*\n)+")
"""What `curl -i` writes before an answer, once for every proxy."""
_INNER: Final = ("jsonPayload", "_source", "content", "result")
"""Under which Google's, Elastic's, Datadog's and Splunk's rows keep those."""
_WHOSE: Final = (
    ("kubernetes", "pod_name"), ("kubernetes", "container_name"), ("resource", "labels", "pod_name"), ("labels", "pod"),
    ("labels", "instance"), ("labels", "container"), ("PodName",), ("pod",), ("CONTAINER_NAME",), ("container_name",),
    ("_HOSTNAME",), ("_SYSTEMD_UNIT",), ("hostname",), ("host",), ("content", "host"), ("result", "host"),
)  # fmt: skip
"""Where those rows say which server wrote a line."""
_TIMES: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]?|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b|\b[A-Z][a-z]{2} [ \d]\d |\d\d:\d\d:\d\d(?:[.,]\d+)?"
    r"|\[\d+\]|Z\b|(?<=[\d\s])[+-]\d\d:?\d\d\b|\[?\s*(?<![\d.])\b\d+\.\d{3,}(?![\d.])\]?|\b\d{10,}\b"
)
"""Dates and times of the day, seconds since 1970 or since a start, and process ids; no part of an address."""
_LOGGER: Final = re.compile(r"\b(?:vllm|sglang|tensorrt_llm)(?:\.\w+)+(?::\d+)?")
"""The part of an engine that writes a line, where a format of one's own says it: no server's name."""
_BAR: Final = re.compile(r"(?:(?<![^\s|\]])[^\W\d_][^\d|\]:<>]{0,60}:?\s*)?(?:\d{1,3}%|\d{1,9}it \[).*", re.DOTALL)
"""A bar of progress that has no end of line, and words before it: all that stands between a name and a server's line."""
_ANSWERS: Final = frozenset({
    "metrics", "timings", "choices", "object", "usage", "response", "meta_info", "internal_states", "predicted_n",
    "output_throughput",
})  # fmt: skip
"""What an answer of a server has, an error's too, a gateway's row of one, or a bench's: what else it has is no line."""


@dataclass(frozen=True)
class Text:
    """A file's text, as the program wrote it."""

    file: Path
    text: str
    notes: tuple[str, ...] = ()
    """What had to be done to read it."""
    held: Sequence[dict[str, Any]] | None = None
    """The JSON objects of a long file of them, of which no text is kept."""

    @property
    def name(self) -> str:
        """The file, as users call it."""
        return str(self.file)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without their ends; a bar of progress ends with a carriage return. U+2028 and others that
        `str.splitlines` knows are characters of an answer."""
        found = _END.split(self.text)
        return found if found[-1] else found[:-1]

    @cached_property
    def whole(self) -> Any:
        """What it holds as one JSON value; None where it is none."""
        if self.held is not None:
            return self.held[0] if len(self.held) == 1 else None
        if not self._is_json:
            return None
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @property
    def _is_json(self) -> bool:
        return _BEGINS.match(self.text) is not None

    @cached_property
    def _parsed(self) -> tuple[list[dict[str, Any]], int]:
        """(the JSON objects it holds, how many are left out: cut or no objects)."""
        if self.held is not None:
            return list(self.held), 0
        if self.whole is not None:
            values = self.whole if isinstance(self.whole, list) else [self.whole]
            return [one for one in values if isinstance(one, dict)], 0
        lines = [value for line in self.lines if (stripped := line.strip()) for value in [_object(stripped)]]
        found = [value for value in lines if value is not None]
        if found and len(lines) - len(found) <= max(1, len(found) // 20):
            return found, len(lines) - len(found)
        if self._is_json:
            return _one_after_another(self.text)
        return [value for line in self.lines if line.startswith("data:") and (value := _object(line[5:]))], 0

    def documents(self) -> list[dict[str, Any]]:
        """The JSON objects it holds, however: one, a list, a line each, one after another, a stream of events."""
        return self._parsed[0]

    @property
    def broken(self) -> str:
        """What of its JSON could not be read, in a sentence; empty where all could, or where it is none."""
        if not self._is_json or not (broken := self._parsed[1]):
            return ""
        return left_out(broken)


def left_out(broken: int) -> str:
    """What to say of so many values that are no JSON objects."""
    return f"{counted(broken, 'value')} that {'is' if broken == 1 else 'are'} cut, or no JSON object, left out"


def _one_after_another(text: str) -> tuple[list[dict[str, Any]], int]:
    """(JSON objects that follow each other over several lines, as `jq` prints them; 1 where what follows is none)."""
    decoder, at, found = json.JSONDecoder(), 0, list[dict[str, Any]]()
    while (start := _VALUE.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return found, 1
        found += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
    return found, 0


def by_writer(lines: Iterable[str], says: re.Pattern[str]) -> tuple[dict[str, list[str]], int]:
    """(lines by the container or the host that a collector has put before them, how many are left out): before where what a
    server writes begins, as `says` finds it. See `by_name`; numbers of lines and bars of progress are taken off."""
    return by_name([_named(line, says) for line in unnumbered(list(lines))])


def _named(line: str, says: re.Pattern[str]) -> tuple[str, str, bool]:
    """(what stands before what the server writes, the line without a bar of progress, whether it had one)."""
    if (own := says.search(line)) is None:
        return "", line, False
    said = line[: own.start()]
    before = _BAR.sub("", said).lstrip() if "%" in said or "it [" in said else said
    return _TIMES.sub("", _LOGGER.sub("", before)).strip(" \t:|"), before + line[own.start() :], before != said


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
                yield _inside(file, counts, progress), False
        else:
            if path.is_file() and _is_binary(path):
                raise _no_text(path)
            yield _read(path, counts, progress), True


def _inside(file: Path, counts: re.Pattern[str], progress: Progress) -> Text:
    """A file of a folder, without a text where it has none that can be read: others beside it may have."""
    if _is_binary(file):
        return Text(file, "", (NO_TEXT,))
    if file.suffix.lower() in _DOCUMENTS:
        return Text(file, "", (DOCUMENT,))
    try:
        return _read(file, counts, progress)
    except InputError as error:
        return Text(file, "", (f"it {str(error).removeprefix(f'{file}: ')}",))


def _read(file: Path, counts: re.Pattern[str], progress: Progress) -> Text:
    """Raises InputError."""
    try:
        if file.is_file() and _is_long(file) and (found := _read_long(file, counts, progress)) is not None:
            return found
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from None
    return read_text(file)


def _is_binary(file: Path) -> bool:
    """Whether its first bytes are no text's: a NUL within, and another byte that no log has. A log that was rotated while it
    was written begins with NULs, and one whose machine went down has some within."""
    try:
        with file.open("rb") as raw:
            head = raw.read(_FIRST)
    except OSError:
        return False  # is told where it is read
    if head.startswith((_GZIP, *_PACKERS, _ZSTD, *_UTF16)):
        return False
    head = head.strip(b"\x00")
    return b"\x00" in head and (b"\xff" in head or _CONTROL.search(head) is not None)


def _is_long(file: Path) -> bool:
    with file.open("rb") as raw:
        first = raw.read(8)
    if first.startswith((*_PACKERS, _ZSTD)):
        return False
    packed = first.startswith(_GZIP)
    return file.stat().st_size > (LONG_BYTES // _PACKED if packed else LONG_BYTES)


def _read_long(file: Path, counts: re.Pattern[str], progress: Progress) -> Text | None:
    """The lines of a long log that count, or of a long file of JSON objects what is read of them; None where it is one JSON
    value, or metrics, which are read whole.

    Raises OSError, and InputError where nothing in it counts.
    """
    total, notes = file.stat().st_size, list[str]()
    with file.open("rb") as raw:
        stream = _decompressed(raw)

        def lines() -> Iterator[str]:
            try:
                for number, line in enumerate(iter(lambda: stream.readline(_MOST_BYTES + 1), "")):
                    if len(line) > _MOST_BYTES:
                        raise _too_large(file)
                    if number % _EVERY == 0 or len(line) > LONG_BYTES // 64:
                        progress(file, raw.tell(), total)
                    if line.strip("\x00\r\n\t "):
                        yield line.lstrip("\x00")
            except (EOFError, gzip.BadGzipFile, zlib.error):
                notes.append("the compressed file ends early: what is there was read")

        every = lines()
        if (first := next(every, None)) is None:
            raise InputError(f"{file}: is empty")
        both = itertools.chain([first], every)
        if (unwrap := _wrapping(first)) is not None:
            kept = _lines_that_count(both, unwrap, counts)
            if not kept:
                raise InputError(f"{file}: is a long log in which no line is one that is read here")
            return Text(file, "\n".join(kept) + "\n", tuple(notes))
        if _object(first) is None:
            return None
        held, broken = list[dict[str, Any]](), 0
        for line in both:
            if (value := _object(line, _slim)) is not None:
                held.append(value)
            else:
                broken += 1
        if broken > max(1, len(held) // 20):
            raise InputError(f"{file}: begins with a JSON object, and most of its lines are none")
    return Text(file, "", (*notes, *([left_out(broken)] if broken else [])), held)


def _decompressed(raw: BinaryIO) -> io.TextIOWrapper:
    packed = raw.read(2) == _GZIP
    raw.seek(0)
    plain = gzip.GzipFile(fileobj=raw) if packed else raw
    wide = plain.read(2) in _UTF16
    plain.seek(0)
    return io.TextIOWrapper(plain, "utf-16" if wide else "utf-8-sig", "replace", newline="\n")


def _lines_that_count(lines: Iterable[str], unwrap: Callable[[str], tuple[str, bool]], counts: re.Pattern[str]) -> list[str]:
    kept, begun = list[str](), ""
    for line in lines:
        said, ends = unwrap(line.rstrip("\r\n"))
        begun += said
        if ends:
            if counts.search(begun):
                kept.append(_ANSI.sub("", begun))
            begun = ""
    return kept


def _slim(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object without what nothing here reads: texts, and long lists of times or of tokens' own values."""
    return {name: one for name, one in value.items() if not _is_heavy(one)}


def _is_heavy(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > _LONG_WORD
    return isinstance(value, list) and len(value) > MOST_POSITIONS and isinstance(value[0], float | str)


def _wrapping(first: str) -> Callable[[str], tuple[str, bool]] | None:
    """How a log's lines are wrapped, by its first: a function from a line to (what the program wrote, whether it ends)."""
    if _CRI.match(first):
        return _cri
    if not first.lstrip().startswith(("{", "[{", "[\n", "[\r", "#", "data:")) and not _METRIC.match(first):
        return lambda line: (line, True)
    head = _object(first)
    if head is None or not _is_wrapper(head):
        return None
    return lambda line: ((_said(_object(line) or {}) or "").rstrip("\n"), True)


def _cri(line: str) -> tuple[str, bool]:
    match = _CRI.match(line)
    return (line, True) if match is None else (line[match.end() :], match[1] == "F")


def _object(line: str, hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any] | None:
    try:
        found = json.loads(line, object_hook=hook)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_wrapper(head: Any) -> bool:
    """Whether it is a collector's row of a line, and no answer of a server's."""
    return isinstance(head, dict) and not _ANSWERS & head.keys() and _said(head) is not None


def _said(row: Mapping[str, Any]) -> str | None:
    """The line that a collector's row keeps, whose it is before it."""
    if (line := _line(row)) is None:
        return None
    names = [] if _BEGINS.match(line) else [name for path in _WHOSE if (name := _at(row, path))]
    return f"{' '.join(dict.fromkeys(names))} | {line}" if names else line


def _at(row: Any, path: Sequence[str]) -> str:
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row if isinstance(row, str) else ""


def _line(row: Mapping[str, Any]) -> str | None:
    """The line itself; journald has those with colours as their bytes."""
    for held in (row, *(inner for name in _INNER if isinstance(inner := row.get(name), dict))):
        for value in (held.get(name) for name in _WRAPPED):
            if isinstance(value, list) and value and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
                return bytes(value).decode("utf-8", errors="replace")
            if isinstance(value, str):
                return value
    return None


def read_text(file: Path) -> Text:
    """Raises InputError for a file that cannot be read, or is no text."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise _too_large(file)
        data = file.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from None
    notes = list[str]()
    if data.startswith(_GZIP):
        data = _unzipped(file, data, notes)
    elif data.startswith((*_PACKERS, _ZSTD)):
        data = _unpacked(file, data)
    if not data.strip(b"\x00\r\n\t "):
        raise InputError(f"{file}: is empty")
    text = _decoded(file, data)
    plain = _HEADERS.sub("", _ANSI.sub("", text).replace("\r\n", "\n"))
    return Text(file, _unwrapped(plain), tuple(notes))


def _no_text(file: Path) -> InputError:
    return InputError(f"{file}: is no text; a log, metrics, JSON or JSON lines are read")


def _too_large(file: Path) -> InputError:
    return InputError(
        f"{file}: has more than {_MOST_BYTES >> 20:,} MiB, and is held whole as it is no log and no file of a JSON object a "
        "line; give the part that matters"
    )


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
                raise _too_large(file)
            if not one.eof:
                notes.append("the compressed file ends early: what is there was read")
                break
            left = one.unused_data
    except zlib.error as error:
        if not any(parts):
            raise InputError(f"{file}: is damaged: {error}") from None
        notes.append("the compressed file is damaged: what is before that was read")
    return b"".join(parts)


def _unpacked(file: Path, data: bytes) -> bytes:
    """Raises InputError."""
    if data.startswith(_ZSTD):
        raise InputError(f"{file}: is compressed by zstd, which is not read: unpack it (zstd -d)")
    try:
        packer = next(packer for first, packer in _PACKERS.items() if data.startswith(first))
        found = packer(io.BytesIO(data)).read(_MOST_BYTES + 1)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise InputError(f"{file}: is damaged: {error}") from None
    if len(found) > _MOST_BYTES:
        raise _too_large(file)
    return found


def _decoded(file: Path, data: bytes) -> str:
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(f"{file}: is no text") from None
    data = data.strip(b"\x00")  # of a log that was rotated, or whose machine went down, while it was written
    if data.count(b"\x00") > len(data) // 1000:
        raise _no_text(file)
    return data.decode("utf-8-sig", errors="replace")


def _unwrapped(text: str) -> str:
    """Lines as the program wrote them, of a runtime's or a collector's file of them."""
    start = text.lstrip()
    if _CRI.match(start):
        return _joined(text)
    rows: Any
    if start.startswith("[") or '"events"' in start[:_HEAD] or '"resultType"' in start[:_HEAD]:
        try:
            whole = json.loads(start)
        except (ValueError, RecursionError):
            return text
        if isinstance(whole, dict) and isinstance(data := whole.get("data"), dict):
            return scrapes_of(data) or text
        rows = whole.get("events") if isinstance(whole, dict) else whole
        if not isinstance(rows, list):
            return text
        head = next(iter(rows), None)
    else:
        head, rows = _object(start.partition("\n")[0]), (_object(line) for line in _END.split(text))
    if isinstance(head, dict) and head.keys() == {"metric", "values", "timestamps"}:
        return scrapes_of({"result": [exported(row) for row in rows if isinstance(row, dict)]}) or text
    if not _is_wrapper(head):
        return text
    lines = [said.rstrip("\n") for row in rows if isinstance(row, dict) and (said := _said(row)) is not None]
    return _ANSI.sub("", "\n".join(lines) + "\n")


def _joined(text: str) -> str:
    """Lines of a container's runtime: P is a part of a longer line, which the next one continues."""
    lines, begun = list[str](), ""
    for line in _END.split(text):
        said, ends = _cri(line)
        begun += said
        if ends:
            lines.append(begun)
            begun = ""
    return _ANSI.sub("", "\n".join([*lines, begun]) + "\n")
