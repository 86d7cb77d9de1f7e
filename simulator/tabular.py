"""Rows of text files as they are downloaded: CSV, JSON lines or one JSON document, plain or compressed."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

from simulator.errors import InputError

Row = Mapping[str, Any]
_PACKED: Final[tuple[tuple[bytes, Callable[[Path], Any]], ...]] = (
    (b"\x1f\x8b", gzip.GzipFile), (b"BZh", bz2.BZ2File), (b"\xfd7zXZ", lzma.LZMAFile),
)  # fmt: skip
"""How compressed files begin."""
_NO_READER: Final = (
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unzip, or export it as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unzstd"),
)
"""How files begin that the standard library does not read as one text, and what unpacks them."""
_OF_TWO_BYTES = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = (",", ";", "\t", "|")
_LONGEST_FIELD = 1 << 30
"""Characters of a table's cell, which may hold a whole conversation."""
_HEAD = 1 << 16
_CRI = re.compile(r"^\d{4}-\d\d-\d\dT\S+ std(?:out|err) ([FP]) ")
"""What Kubernetes writes before each line: F before a whole one or its last part, P before the others."""
_NAMED = re.compile(r"^[^\s{\"]{1,99}(?:\s+\|)?\s+(?=\{.*\}$)")
"""What others write before a line that is an object: its time, or whose it is, as `kubectl --prefix` and compose do."""
_INNER = ("log", "message", "line", "msg", "_source", "jsonPayload", "_raw")
"""Fields in which collectors keep a line as it was written: Fluent Bit's, Filebeat's, Loki's, Elasticsearch's, Google's and
Splunk's."""
_DEEPEST = 3
"""Collectors that keep each other's lines."""
_LISTS: Final = ("data", "result", "results", "events", "logs", "entries", "records", "rows", "items", "value", "runs")
"""Under which APIs answer with many rows at once, or with an object that has them so."""
_OF_ONE: Final = frozenset({
    "usage", "model", "time", "timestamp", "ts", "messages", "starttime", "createdat", "requests", "starttimeunixnano",
    "timeunixnano", "startedat", "arrivals", "arrivaltime", "t", "created", "msec", "timelocal", "timeiso8601", "datetime",
    "traceid", "spanid", "prompttokens", "inputtokens",
})  # fmt: skip
"""Fields, as `folded` has them, of objects that are a row themselves, whatever list they hold."""
_NO_TEXT = 0.05
"""Share of a file's beginning that is no UTF-8 from which on it is no text with a foreign letter in it."""
_RULE = re.compile(r"[\s|+:]*-[|+:\s-]*|\s*\(\d+ rows?\)\s*")
"""Lines that tables are drawn with, and what a database says below."""
_HEX = re.compile(r"((?<!\\)(?:\\\\)*)\\x([0-9A-Fa-f]{2})")
"""How nginx writes signs that it does not trust, as no JSON does."""
_DECIMAL = re.compile(r"\s*-?\d+,\d+\s*")

_EXPORTS: Final = (
    ("resourceSpans", "scopeSpans", "spans"), ("batches", "scopeSpans", "spans"),
    ("resourceLogs", "scopeLogs", "logRecords"),
)  # fmt: skip
"""How OpenTelemetry's collectors, and Tempo, write a batch of spans, and one of lines."""


class NotCsv(InputError):
    """What is no JSON is no CSV either."""


@lru_cache(maxsize=4096)
def folded(name: object) -> str:
    """A column's name without case, spaces and signs: `Request tokens` and `request_tokens` are one."""
    return "".join(c for c in str(name).casefold() if c.isalnum())


def rows(file: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[int, Row]]:
    """(line, columns) of a file, one by one; of a JSON document, which has no lines, (place, columns).

    A JSON object that holds a list of `requests` is those, each with what the object says of all, and `within` the object
    where that is one of such a list itself. Lines that a container's runtime has wrapped are those within.

    Args:
        file: to be read.
        left_out: counts lines that are no JSON among those that are, as a program's own words, and a last one that was cut;
            without it they are errors. With it, rows of a collector have what the line that it keeps says, too.

    Raises InputError for what is neither CSV nor JSON, OSError where the file cannot be read.
    """
    try:
        with text_of(file, newline="\n", foreign=left_out is not None) as stream:
            head = stream.read(_HEAD)
        if head.count("\ufffd") > _NO_TEXT * len(head):
            raise InputError(f"{file}: is not UTF-8 text")
        if _is_document(head):
            yield from _document_rows(file, left_out)
        elif head.lstrip()[:1] == "{" or _mostly_json(head):
            yield from _json_rows(file, left_out)
        else:
            yield from _csv_rows(file, head, left_out)
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error):
        raise InputError(f"{file}: is compressed, and broken or cut off") from None


def text_of(file: Path, newline: str, *, foreign: bool = False) -> io.TextIOWrapper:
    """A file's text, without the mark that may begin it; lines end as `newline` says. Letters of another encoding than
    UTF-8 are an error, or with `foreign` a sign that stands for them. Raises InputError for a folder, or an archive."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give a file, as `jq -c . {file}/*.json >requests.jsonl` makes one of JSON")
    with file.open("rb") as raw:
        begins = raw.read(6)
    if (packed := next((one for one in _NO_READER if begins.startswith(one[0])), None)) is not None:
        raise InputError(f"{file}: is {packed[1]}; unpack it first ({packed[2]})")
    unpacked = next((opens for magic, opens in _PACKED if begins.startswith(magic)), lambda file: file.open("rb"))
    with unpacked(file) as raw:
        begins = _peeked(raw)
    encoding = "utf-16" if begins.startswith(_OF_TWO_BYTES) else "utf-8-sig"
    return io.TextIOWrapper(unpacked(file), encoding=encoding, newline=newline, errors="replace" if foreign else "strict")


def _peeked(raw: BinaryIO) -> bytes:
    try:
        return raw.read(2)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return b""  # whoever reads on says what is wrong


def _csv_rows(file: Path, head: str, left_out: Counter[str] | None) -> Iterator[tuple[int, Row]]:
    before, first = _before_the_head(head, lenient=left_out is not None)
    csv.field_size_limit(_LONGEST_FIELD)
    with text_of(file, newline="", foreign=left_out is not None) as stream:
        for _ in range(before):
            stream.readline()
        lines = _Lines(stream, drawn=left_out is not None)
        delimiter = max(_SEPARATORS, key=first.count)
        reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            for row in reader:
                if all(name == value for name, value in row.items()):
                    continue  # a second head, where tables were put one behind the other
                if None in row and not any(value.strip() for value in row[None]):
                    del row[None]  # a separator at the end
                if None in row.values() and left_out is not None and not lines.whole:
                    left_out["cut"] += 1
                    continue
                if None in row or None in row.values():
                    more = "more" if None in row else "fewer"
                    raise NotCsv(f"{file}, line {before + reader.line_num}: has {more} columns than the first")
                if any(value.strip() for value in row.values()):  # tables are exported with empty rows at the end
                    decimal = delimiter == ";" and left_out is not None
                    yield before + reader.line_num, _with_points(row) if decimal else row
        except csv.Error as error:
            raise NotCsv(f"{file}, line {before + reader.line_num}: is no CSV ({error})") from None


def _with_points(row: dict[str, Any]) -> Row:
    """A row of a table whose columns are parted by semicolons, for commas stand in its numbers, with points there."""
    return {
        name: value.replace(",", ".") if isinstance(value, str) and _DECIMAL.fullmatch(value) else value
        for name, value in row.items()
    }


class _Lines:
    """A table's lines, without those that a drawn one is drawn with; knows whether the last that was read has an end."""

    def __init__(self, stream: Iterator[str], *, drawn: bool) -> None:
        self._stream, self._drawn = stream, drawn
        self.whole = True

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.whole = line.endswith(("\n", "\r"))
            yield "\n" if self._drawn and _RULE.fullmatch(line) else line


def _before_the_head(head: str, *, lenient: bool) -> tuple[int, str]:
    """(lines that stand before a table's head, its head): empty ones, comments, and what Excel is told of separators; of a
    lenient reader's, which reads no text of one column, a title and rules too."""
    lines = [
        (number, line) for number, line in enumerate(head.splitlines())
        if line.strip() and not line.startswith(("#", "sep=")) and not (lenient and _RULE.fullmatch(line))
    ]  # fmt: skip
    parted = (one for one in lines if not lenient or any(separator in one[1] for separator in _SEPARATORS))
    return next(parted, lines[0] if lines else (0, ""))  # a title has one cell


def _is_document(head: str) -> bool:
    """Whether a file is one JSON document: a list, or an object over several lines."""
    return re.match(r"\s*\[\s*(?:[\[{\]\"]|\d+\s*[,\]]|$)", head) is not None or (
        head.lstrip()[:1] == "{" and not _is_lines(head)
    )


def _mostly_json(head: str) -> bool:
    """Whether half of the lines of a file's beginning are objects, or more, as where a program's words stand among them."""
    lines = [_unwrapped(line) for line in head.splitlines() if line.strip()]
    return bool(lines) and 2 * sum(line.startswith("{") for line in lines) >= len(lines)


def _unwrapped(line: str) -> str:
    """What a program wrote, of a line as Kubernetes keeps it, or as others name it."""
    return _NAMED.sub("", _CRI.sub("", line).strip())


def _json_rows(file: Path, left_out: Counter[str] | None) -> Iterator[tuple[int, Row]]:
    for number, text, whole in _whole_lines(file, foreign=left_out is not None):
        try:
            if left_out is None:
                yield from _expanded(file, number, _parsed(file, number, text))
                continue
            for row in _documents(_HEX.sub(r"\1\\u00\2", text), f"{file}, line {number}"):
                yield from _expanded(file, number, row, collected=True)
        except InputError:
            if left_out is None or (text.startswith("{") and whole):
                raise
            left_out["no JSON" if whole else "cut"] += 1


def _whole_lines(file: Path, *, foreign: bool) -> Iterator[tuple[int, str, bool]]:
    """(number, what a program wrote, whether it has an end) of each line, those put together that a runtime has split."""
    with text_of(file, newline="\n", foreign=foreign) as stream:  # to splitlines, a line ends at U+2028 too
        part = ""
        for number, line in enumerate(stream, 1):
            cri = _CRI.match(line)
            text = _unwrapped(line)
            docker = _of_dockers(text)
            text = text if docker is None else docker
            if (cri is not None and cri[1] == "P") or (docker is not None and not docker.endswith("\n") and _is_cut(docker)):
                part += text.rstrip("\n")
                continue
            text, part = (part + text).strip(), ""
            if text:
                yield number, text, line.endswith("\n")


def _of_dockers(text: str) -> str | None:
    """The line within one of Docker's; None where it is none."""
    if '"stream"' not in text or '"log"' not in text:
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    log = row.get("log") if isinstance(row, dict) and "stream" in row else None
    return log if isinstance(log, str) else None


def _is_cut(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def _inner(row: dict[str, Any]) -> dict[str, Any]:
    """A collector's line with what the line that it keeps says, where that is an object."""
    result = row.get("result")
    if isinstance(result, dict) and "_raw" in result:  # Splunk's
        row = {**row, **result}
    for _ in range(_DEEPEST):
        objects = (_object(row.get(name)) for name in _INNER)
        found = next((one for one in objects if one is not None and not one.items() <= row.items()), None)
        if found is None:
            break
        row = {**row, **found}
    return row


def _object(kept: Any) -> dict[str, Any] | None:
    if isinstance(kept, str) and kept.lstrip().startswith("{"):
        try:
            kept = json.loads(kept)
        except (ValueError, RecursionError):
            return None
    return kept if isinstance(kept, dict) else None


def _answered(row: dict[str, Any]) -> list[Any] | None:
    """The rows that an API has put together in one answer; None for a row."""
    if isinstance(hits := row.get("hits"), dict) and isinstance(hits.get("hits"), list):
        return list(hits["hits"])
    if not _OF_ONE.isdisjoint(map(folded, row)):
        return None
    held = [row[name] for name in _LISTS if name in row]
    found = next((one for one in held if isinstance(one, list)), None)
    if found is None and (inner := next((one for one in held if isinstance(one, dict)), None)) is not None:
        return _answered(inner) or (None if _OF_ONE.isdisjoint(map(folded, inner)) else [inner])
    return found if found and all(isinstance(one, dict) for one in found) else None


def _is_lines(head: str) -> bool:
    """Whether the first line is JSON by itself, or no beginning of any; one longer than the head is taken for the former."""
    first, end, rest = head.lstrip().partition("\n")
    if not end or not rest.strip():
        return True
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos < len(first.rstrip())
    except (ValueError, RecursionError):
        return True
    return True


def _document_rows(file: Path, left_out: Counter[str] | None) -> Iterator[tuple[int, Row]]:
    with text_of(file, newline="\n", foreign=left_out is not None) as stream:
        text = stream.read().strip()
    contents = list[Any]()
    for content in _documents(text, str(file)):
        many = _answered(content) if isinstance(content, dict) and left_out is not None else None
        contents += content if isinstance(content, list) else [content] if many is None else many
    for number, row in enumerate(contents, 1):
        yield from _expanded(file, number, row, collected=left_out is not None)


def _documents(text: str, whose: str) -> Iterator[Any]:
    """What stands in a text, one behind the other. Raises InputError where the rest is no JSON."""
    decoder, between, at = json.JSONDecoder(), re.compile(r"[ \t\r\n,]*"), 0
    while at < len(text):
        try:
            content, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{whose}: is no JSON ({error})") from None
        yield content
        at = between.match(text, end).end()  # type: ignore[union-attr]


def _exported(row: Row, path: tuple[str, ...]) -> Iterator[Row]:
    """What a collector of OpenTelemetry's has put together by whose it is."""
    if not path:
        yield row
        return
    inner = row.get(path[0])
    for one in inner if isinstance(inner, list) else ():
        if isinstance(one, dict):
            yield from _exported(one, path[1:])


def _of_jaegers(span: dict[str, Any]) -> Row:
    """A span of Jaeger's as OpenTelemetry has it: its times are microseconds, and its parent is a reference among others."""
    held = (span.get(name) for name in ("tags", "references"))
    tags, links = ([one for one in some if isinstance(one, dict)] if isinstance(some, list) else [] for some in held)
    said = {one["key"]: one.get("value") for one in tags if isinstance(one.get("key"), str)}
    parent = next((one.get("spanID") for one in links if one.get("refType") == "CHILD_OF"), None)
    began = {"startTimeUnixNano": span["startTime"] * 1_000} if isinstance(span.get("startTime"), int) else {}
    return {
        "traceId": span.get("traceID"), "spanId": span.get("spanID"), "parentSpanId": parent,
        "name": span.get("operationName"),
        "attributes": said, **began,
    }  # fmt: skip


def _parsed(file: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}, line {number}: is no JSON ({error})") from None


def _expanded(
    file: Path, number: int, row: Any, of_all: Row | None = None, *, collected: bool = False
) -> Iterator[tuple[int, Row]]:
    if not isinstance(row, dict):
        raise InputError(f"{file}, line {number}: is no JSON object")
    if collected and (many := _answered(row)) is not None:
        for one in many:
            yield from _expanded(file, number, one, of_all, collected=True)
        return
    for name in ("trace", "result") if collected else ():  # as APIs of Tempo's and Jaeger's answer with one
        if isinstance(inner := row.get(name), dict) and any(kind in inner for kind, *_ in _EXPORTS):
            row = inner
    if collected and "traceID" in row and isinstance(row.get("spans"), list):
        yield from ((number, _of_jaegers(one)) for one in row["spans"] if isinstance(one, dict))
        return
    if collected:
        row = _inner(row)
    for kind, within, last in _EXPORTS:
        if isinstance(row.get(kind), list):
            yield from ((number, one) for one in _exported(row, (kind, within, last)))
            return
    inner = row.get("requests")
    if not isinstance(inner, list):
        yield number, row if of_all is None else {**of_all, **row}
        return
    shared = {name: value for name, value in row.items() if name != "requests"} if of_all is None else of_all
    for one in inner:
        if not isinstance(one, dict):
            raise InputError(f"{file}, line {number}: requests must be a list of objects")
        yield from _expanded(file, number, one, {**shared, "session": number, **({} if of_all is None else {"within": row})})
