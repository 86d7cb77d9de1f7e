"""Rows of text files as they are downloaded: CSV, JSON lines or one JSON document, plain or compressed by gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from simulator.errors import InputError

Row = Mapping[str, Any]
_GZIP = b"\x1f\x8b"
_SEPARATORS = (",", ";", "\t")
_HEAD = 1 << 16
_CRI = re.compile(r"^\d{4}-\d\d-\d\dT\S+ std(?:out|err) [FP] ")
"""What Kubernetes writes before each line."""


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
            without it they are errors.

    Raises InputError for what is neither CSV nor JSON, OSError where the file cannot be read.
    """
    try:
        with text_of(file, newline="\n") as stream:
            head = stream.read(_HEAD)
        if _is_document(head):
            yield from _document_rows(file)
        elif head.lstrip()[:1] == "{" or _mostly_json(head):
            yield from _json_rows(file, left_out)
        else:
            yield from _csv_rows(file, head)
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{file}: is compressed by gzip, and broken or cut off") from None


def text_of(file: Path, newline: str) -> io.TextIOWrapper:
    """A file's text, without the mark that may begin it; lines end as `newline` says. Raises InputError for a folder."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give a file, as `jq -c . {file}/*.json >requests.jsonl` makes one of JSON")
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    return io.TextIOWrapper(gzip.GzipFile(file) if packed else file.open("rb"), encoding="utf-8-sig", newline=newline)


def _csv_rows(file: Path, head: str) -> Iterator[tuple[int, Row]]:
    first = head.lstrip("\r\n").splitlines()[0] if head.strip() else ""
    with text_of(file, newline="") as stream:
        reader = csv.DictReader(stream, delimiter=max(_SEPARATORS, key=first.count), skipinitialspace=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise NotCsv(
                        f"{file}, line {reader.line_num}: has {'more' if None in row else 'fewer'} columns than the first"
                    )
                if any(value.strip() for value in row.values()):  # tables are exported with empty rows at the end
                    yield reader.line_num, row
        except csv.Error as error:
            raise NotCsv(f"{file}, line {reader.line_num}: is no CSV ({error})") from None


def _is_document(head: str) -> bool:
    """Whether a file is one JSON document: a list, or an object over several lines."""
    return re.match(r"\s*\[\s*(?:[\[{\]\"]|\d+\s*[,\]]|$)", head) is not None or (
        head.lstrip()[:1] == "{" and not _is_lines(head)
    )


def _mostly_json(head: str) -> bool:
    """Whether most lines of a file's beginning are objects, as where a program's first words stand before them."""
    lines = [_unwrapped(line) for line in head.splitlines() if line.strip()]
    return 2 * sum(line.startswith("{") for line in lines) > len(lines)


def _unwrapped(line: str) -> str:
    """What a program wrote, of a line as Kubernetes keeps it."""
    return _CRI.sub("", line).strip()


def _json_rows(file: Path, left_out: Counter[str] | None) -> Iterator[tuple[int, Row]]:
    with text_of(file, newline="\n") as stream:  # to splitlines, a line ends at U+2028 too
        for number, line in enumerate(stream, 1):
            text, whole = _unwrapped(line), line.endswith("\n")
            if not text:
                continue
            try:
                row = _parsed(file, number, text)
                if isinstance(row, dict) and isinstance(row.get("log"), str) and "stream" in row:  # Docker's
                    text = row["log"]
                    row = _parsed(file, number, text)
            except InputError:
                if left_out is None or (text.startswith("{") and whole):
                    raise
                left_out["no JSON" if whole else "cut"] += 1
                continue
            yield from _expanded(file, number, row)


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


def _document_rows(file: Path) -> Iterator[tuple[int, Row]]:
    with text_of(file, newline="\n") as stream:
        content = _parsed(file, 0, stream.read())
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        yield from _expanded(file, number, row)


def _parsed(file: Path, number: int, text: str) -> Any:
    where = f"{file}, line {number}" if number else str(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is no JSON ({error})") from None


def _expanded(file: Path, number: int, row: Any, of_all: Row | None = None) -> Iterator[tuple[int, Row]]:
    if not isinstance(row, dict):
        raise InputError(f"{file}, line {number}: is no JSON object")
    inner = row.get("requests")
    if not isinstance(inner, list):
        yield number, row if of_all is None else {**of_all, **row}
        return
    shared = {name: value for name, value in row.items() if name != "requests"} if of_all is None else of_all
    for one in inner:
        if not isinstance(one, dict):
            raise InputError(f"{file}, line {number}: requests must be a list of objects")
        yield from _expanded(file, number, one, {**shared, "session": number, **({} if of_all is None else {"within": row})})
