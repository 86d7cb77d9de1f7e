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
_OF_TWO_BYTES = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = (",", ";", "\t", "|")
_LONGEST_FIELD = 1 << 30
"""Characters of a table's cell, which may hold a whole conversation."""
_HEAD = 1 << 16
_CRI = re.compile(r"^\d{4}-\d\d-\d\dT\S+ std(?:out|err) ([FP]) ")
"""What Kubernetes writes before each line: F before a whole one or its last part, P before the others."""
_NAMED = re.compile(r"^[^\s{\"]{1,99}(?:\s+\|)?\s+(?=\{.*\}$)")
"""What others write before a line that is an object: its time, or whose it is, as `kubectl --prefix` and compose do."""
_INNER = ("log", "message", "line", "msg")
"""Fields in which collectors keep a line as it was written: Fluent Bit's, Filebeat's, Loki's."""

_EXPORTS: Final = (("resourceSpans", "scopeSpans", "spans"), ("resourceLogs", "scopeLogs", "logRecords"))
"""How OpenTelemetry's collectors write a batch of spans, and one of lines."""


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
        with text_of(file, newline="\n") as stream:
            head = stream.read(_HEAD)
        if _is_document(head):
            yield from _document_rows(file, left_out)
        elif head.lstrip()[:1] == "{" or _mostly_json(head):
            yield from _json_rows(file, left_out)
        else:
            yield from _csv_rows(file, head)
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error):
        raise InputError(f"{file}: is compressed, and broken or cut off") from None


def text_of(file: Path, newline: str) -> io.TextIOWrapper:
    """A file's text, without the mark that may begin it; lines end as `newline` says. Raises InputError for a folder."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give a file, as `jq -c . {file}/*.json >requests.jsonl` makes one of JSON")
    with file.open("rb") as raw:
        begins = raw.read(6)
    unpacked = next((opens for magic, opens in _PACKED if begins.startswith(magic)), lambda file: file.open("rb"))
    with unpacked(file) as raw:
        begins = _peeked(raw)
    encoding = "utf-16" if begins.startswith(_OF_TWO_BYTES) else "utf-8-sig"
    return io.TextIOWrapper(unpacked(file), encoding=encoding, newline=newline)


def _peeked(raw: BinaryIO) -> bytes:
    try:
        return raw.read(2)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return b""  # whoever reads on says what is wrong


def _csv_rows(file: Path, head: str) -> Iterator[tuple[int, Row]]:
    before, first = _before_the_head(head)
    csv.field_size_limit(_LONGEST_FIELD)
    with text_of(file, newline="") as stream:
        for _ in range(before):
            stream.readline()
        reader = csv.DictReader(stream, delimiter=max(_SEPARATORS, key=first.count), skipinitialspace=True)
        try:
            for row in reader:
                if all(name == value for name, value in row.items()):
                    continue  # a second head, where tables were put one behind the other
                if None in row or None in row.values():
                    more = "more" if None in row else "fewer"
                    raise NotCsv(f"{file}, line {before + reader.line_num}: has {more} columns than the first")
                if any(value.strip() for value in row.values()):  # tables are exported with empty rows at the end
                    yield before + reader.line_num, row
        except csv.Error as error:
            raise NotCsv(f"{file}, line {before + reader.line_num}: is no CSV ({error})") from None


def _before_the_head(head: str) -> tuple[int, str]:
    """(lines that stand before a table's head, its head): empty ones, comments, and what Excel is told of separators."""
    lines = head.splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith(("#", "sep=")):
            return number, line
    return 0, ""


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
    for number, text, whole in _whole_lines(file):
        try:
            yield from _expanded(file, number, _parsed(file, number, text), collected=left_out is not None)
        except InputError:
            if left_out is None or (text.startswith("{") and whole):
                raise
            left_out["no JSON" if whole else "cut"] += 1


def _whole_lines(file: Path) -> Iterator[tuple[int, str, bool]]:
    """(number, what a program wrote, whether it has an end) of each line, those put together that a runtime has split."""
    with text_of(file, newline="\n") as stream:  # to splitlines, a line ends at U+2028 too
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
    for name in _INNER:
        found = row.get(name)
        if isinstance(found, str) and found.lstrip().startswith("{"):
            try:
                found = json.loads(found)
            except (ValueError, RecursionError):
                continue
        if isinstance(found, dict):
            return {**row, **found}
    return row


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
    with text_of(file, newline="\n") as stream:
        text = stream.read().strip()
    contents, at, decoder = list[Any](), 0, json.JSONDecoder()
    while at < len(text):  # documents may stand one behind the other
        try:
            content, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: is no JSON ({error})") from None
        contents += content if isinstance(content, list) else [content]
        at = len(text) - len(text[end:].lstrip(" \t\r\n,"))
    for number, row in enumerate(contents, 1):
        yield from _expanded(file, number, row, collected=left_out is not None)


def _exported(row: Row, path: tuple[str, ...]) -> Iterator[Row]:
    """What a collector of OpenTelemetry's has put together by whose it is."""
    if not path:
        yield row
        return
    inner = row.get(path[0])
    for one in inner if isinstance(inner, list) else ():
        if isinstance(one, dict):
            yield from _exported(one, path[1:])


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
