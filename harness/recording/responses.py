"""Responses that another engine produced, to be recorded densely as if the target here had said them."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from harness.recording.law import too_many_outside
from harness.recording.suite import Prompt
from simulator.errors import InputError
from simulator.records import Sampling

T = TypeVar("T")


class ResponsesHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First line of a responses file: how they were sampled. Acceptances hold for these settings alone."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0

    @property
    def sampling(self) -> Sampling:
        """How tokens were drawn; the line writes its fields."""
        return Sampling(self.temperature, self.top_p, self.top_k)

    def __post_init__(self) -> None:
        _ = self.sampling  # refuses what cannot be sampled


class GivenResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any other line: one response, in tokens of the target's tokenizer."""

    prompt_id: str
    token_ids: tuple[int, ...]
    """With the end token, if it has one."""
    finish: Literal["stop", "length"]
    turn: int = 0
    domain: str | msgspec.UnsetType = msgspec.UNSET
    """The prompt's, where the file says so."""
    prompt_token_ids: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    """What stands before the response, where the file says so: such a file can be trained on by itself."""

    def check(self, stop_tokens: frozenset[int], vocab_size: int) -> None:
        """Raise InputError if the target cannot have said this."""
        where = f"--responses: {self.prompt_id}, turn {self.turn}"
        unknown = [i for i in self.token_ids if not 0 <= i < vocab_size]
        if unknown:
            raise InputError(f"{where}: token {unknown[0]} is outside the target's vocabulary of {vocab_size}")
        ends = [i for i, token in enumerate(self.token_ids) if token in stop_tokens]
        expected = [len(self.token_ids) - 1] if self.finish == "stop" else []
        if ends != expected:
            raise InputError(
                f"{where}: a response ends with its first end token if finish is 'stop', and has none if 'length'"
            )


@dataclass(frozen=True, slots=True)
class GivenResponses:
    """Files of responses."""

    file_hash: str
    """SHA-256 of the bytes of the one file, or of the hashes of several, whatever their order."""
    of_prompt: dict[str, tuple[GivenResponse, ...]]
    """By prompt id, one for every turn."""

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return max(len(r.token_ids) for responses in self.of_prompt.values() for r in responses)

    @property
    def anchors(self) -> int:
        """Tokens whose acceptance is recorded: all but the first of each response."""
        return sum(len(r.token_ids) - 1 for responses in self.of_prompt.values() for r in responses)

    def judge(self, option: str, outside: int, where: str) -> None:
        """Raise InputError if so many tokens, those in `where` among them, are too many for the target's own words."""
        if too_many_outside(outside, self.anchors):
            raise InputError(
                f"{option}: {outside} of {self.anchors} tokens or more, some of them in {where}, cannot come from "
                "this target with these sampling settings; they must be those the responses were generated with"
            )


def responses_file(sampling: Sampling, responses: Iterable[GivenResponse]) -> bytes:
    """What `read_responses` reads: a line that says how tokens were drawn, and a line a response."""
    return b"".join(msgspec.json.encode(line) + b"\n" for line in (sampling, *responses))


def read_responses(
    paths: Sequence[Path], prompts: Iterable[Prompt], sampling: Sampling, *, file_hash: str | None = None
) -> GivenResponses:
    """Responses to every turn of every prompt; `file_hash` is that of the files when the run began, where it has begun.

    Raises:
        InputError: a file has changed, or something is wrong with one; the message names file and line.
    """
    named = ", ".join(map(str, paths))
    hashes: list[str] = []
    found: dict[tuple[str, int], GivenResponse] = {}
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"--responses {path}: cannot be read ({error.strerror})") from None
        hashes.append(hashlib.sha256(content).hexdigest())
        if len(paths) == 1 and file_hash not in (None, hashes[0]):
            raise InputError(f"--responses {path}: has changed since the run began; start a new run")
        _read_file(path, content.removeprefix(codecs.BOM_UTF8), sampling, found)
    found_hash = hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
    if file_hash not in (None, found_hash):
        raise InputError(f"--responses {named}: have changed since the run began; start a new run")
    result = {}
    for prompt in prompts:
        missing = [turn for turn in range(len(prompt.turns)) if (prompt.prompt_id, turn) not in found]
        if missing:
            raise InputError(f"--responses {named}: has none for {prompt.prompt_id}, turn {missing[0]}")
        result[prompt.prompt_id] = tuple(found[prompt.prompt_id, turn] for turn in range(len(prompt.turns)))
    given = GivenResponses(found_hash, result)
    if not given.anchors:
        raise InputError(
            f"--responses {named}: every response is a single token, which a prefill gives; there is no round to record"
        )
    return given


def _read_file(
    path: Path, content: bytes, sampling: Sampling, found: dict[tuple[str, int], GivenResponse],
    wanted: str = "the run has {}; make them match with --temperature, --top-p and --top-k",
) -> None:  # fmt: skip
    """Add the responses of a file to those found so far; `wanted` says what to do about another sampling, {}.

    Raises InputError.
    """
    found_sampling, responses = _responses(path, content)
    if found_sampling != sampling:
        raise InputError(f"--responses {path}: were sampled with {found_sampling}, {wanted.format(sampling)}")
    for number, response in responses:
        key = response.prompt_id, response.turn
        if key in found:
            raise InputError(
                f"--responses {path}, line {number}: a second response to {key[0]}, turn {key[1]}; leave one out"
            )
        found[key] = response


def every_response(paths: Sequence[Path]) -> tuple[Sampling, list[GivenResponse]]:
    """How the responses of files were drawn, and all of them. Raises InputError, naming file and line."""
    found: dict[tuple[str, int], GivenResponse] = {}
    sampling: Sampling | None = None
    for path in paths:
        try:
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        except OSError as error:
            raise InputError(f"--responses {path}: cannot be read ({error.strerror})") from None
        sampling = sampling or _responses(path, content)[0]
        _read_file(path, content, sampling, found, "those before with {}; a drafter is trained on files of one sampling")
    if sampling is None or not found:
        raise InputError(f"--responses {', '.join(map(str, paths))}: hold no response")
    return sampling, list(found.values())


_PROMPTS: Final = re.compile(rb'"(?:turns|prompt|messages|conversations|question|instruction)"\s*:')
"""What rows of prompts have, and responses do not."""


def _responses(path: Path, content: bytes) -> tuple[Sampling, Iterator[tuple[int, GivenResponse]]]:
    """How the responses of a file were drawn, and each with the number of its line. Raises InputError."""
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"--responses {path}: is empty")

    def read() -> Iterator[tuple[int, GivenResponse]]:
        for number, line in lines[1:]:
            response = _decode(path, number, line, GivenResponse)
            if not response.token_ids:
                raise InputError(f"--responses {path}, line {number}: token_ids is empty")
            yield number, response

    return _decode(path, *lines[0], ResponsesHeader).sampling, read()


def _decode(path: Path, number: int, line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError as error:
        if _PROMPTS.search(line):
            raise InputError(
                f"--responses {path}, line {number}: are prompts, without answers; let the target answer them first: "
                f"`harness regenerate --target TARGET --prompts {path}`"
            ) from None
        raise InputError(f"--responses {path}, line {number}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--responses {path}, line {number}: not JSON ({error})") from None
