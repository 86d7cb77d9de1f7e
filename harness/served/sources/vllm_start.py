"""How vLLM's server was started, by the lines that its log begins with."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from harness.served.observed import Settings
from simulator.numbers import counted
from simulator.serving.vllm import VLLM

_CONFIG: Final = re.compile(r"speculative_config=SpeculativeConfig\(([^)]*)\)|speculative_config=(None)")
_VERSION: Final = re.compile(r"Initializing a V1 LLM engine \(v([\w.+]+)\) with config: model='([^']*)'")
_SERVED_AS: Final = re.compile(r"\bserved_model_name='?([^',\s]+)")
_ARGUMENTS: Final = re.compile(r"non-default args: (\{.*\})")
_PART: Final = re.compile(r"'(?:[^'\\]|\\.)*(?:'|$)|\"(?:[^\"\\]|\\.)*(?:\"|$)|[(\[{)\]},]")
"""A quoted text, a bracket or a comma."""
_SYNTHETIC: Final = ("rejection_sample_method", "synthetic")
_OWN: Final = frozenset({
    VLLM.fields.method, VLLM.fields.checkpoint, VLLM.fields.tokens, VLLM.fields.batch_rows, "synthetic_acceptance_rates",
    "synthetic_acceptance_length",
})  # fmt: skip
"""What advice is about, and what is no drafting."""
UNKNOWN: Final = Settings(engine="vLLM")
"""What a log says that does not hold how its server started."""


def starts(line: str) -> bool:
    """Whether a line is written where a server starts."""
    return "non-default args: " in line or "V1 LLM engine " in line


def last_server(lines: Sequence[str], notes: list[str]) -> tuple[list[str], Settings]:
    """The lines since the server was last started, and how it was set."""
    begins = [i for i, line in enumerate(lines) if _ARGUMENTS.search(line)] or [
        i for i, line in enumerate(lines) if _VERSION.search(line)
    ]
    begin = begins[-1] if begins else 0
    if len(begins) > 1:
        notes.append(f"the server was started {counted(len(begins), 'time')} in this log: what came after the last counts")
    if len(begins) > 1 and not any("Avg generation throughput: " in line for line in lines[begin:]):
        begin = begins[-2]
    settings = Settings(engine="vLLM")
    for line in lines[begin:]:
        if (match := _ARGUMENTS.search(line)) is not None:
            settings = _of_arguments(match[1]).beside(settings)
        if (match := _VERSION.search(line)) is not None:
            named = _SERVED_AS.search(line)
            settings = settings.beside(Settings(version=match[1], model=match[2], served_as=named[1] if named else ""))
        if (match := _CONFIG.search(line)) is not None:
            told = _of_config(match[1] or "")  # arguments do not name a drafter that the model brings with it
            if settings.besides is not None:  # of a drafter that the target's checkpoint holds it names the target
                told = replace(told, drafter="")
            settings = (replace(settings, speculates=None) if told.speculates else settings).beside(told)
    return list(lines[begin:]), settings


def _of_arguments(text: str) -> Settings:
    """From what the server was started with."""
    given = _value(text)
    if not isinstance(given, dict):
        return UNKNOWN
    config = given.get("speculative_config")
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            config = _value(config)
    cap, model, names = given.get("max_num_seqs"), str(given.get("model", "")), given.get("served_model_name")
    told = Settings(
        engine="vLLM", model=model, served_as=str(names[0] if isinstance(names, list) and names else names or model),
        request_cap=cap if isinstance(cap, int) else None, speculates=config is not None,
    )  # fmt: skip
    return _of_speculative(config).beside(told) if isinstance(config, dict) else told


def _value(text: str, deep: int = 2) -> Any:
    """A Python literal. Of a dict that holds what is none, as an enum's member or an object, its items by themselves; such a
    value is its own text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if not deep or not (text.startswith("{") and text.endswith("}")):
            return text
    pairs = (item.partition(": ") for item in _items(text[1:-1]))
    return {name.strip(" '\""): _value(value.strip(), deep - 1) for name, _, value in pairs}


def _items(text: str) -> Iterator[str]:
    """What commas part that stand in no brackets and no quotes."""
    depth, begin = 0, 0
    for match in _PART.finditer(text):
        found = match[0]
        if found == "," and not depth:
            yield text[begin : match.start()]
            begin = match.end()
        depth += (found in "([{") - (found in ")]}")
    yield text[begin:]


def _of_speculative(config: dict[str, Any]) -> Settings:
    """From vLLM's speculative configuration."""
    tokens, table = config.get("num_speculative_tokens"), config.get("num_speculative_tokens_per_batch_size")
    method = config.get("draft_sample_method")
    rows = tuple((int(a), int(b), int(k)) for a, b, k in table or ()) if _is_table(table) else ()
    return Settings(
        engine="vLLM", method=str(config.get("method") or ""), drafter=str(config.get("model") or ""),
        gamma=tokens if isinstance(tokens, int) and tokens > 0 else None, table=rows,
        drafting={"greedy": "greedy", "probabilistic": "sampled"}.get(method) if isinstance(method, str) else None,  # type: ignore[arg-type]
        adaptive=bool(config.get("enable_adaptive_verification")), speculates=True,
        besides=tuple(
            one for one in config.items() if one[0] not in _OWN and _is_json(one[1]) and one != _SYNTHETIC
        ),
    )  # fmt: skip


def _is_json(value: Any) -> bool:
    """Whether a value can be given as it is: None is nothing said, and an object's name is no value."""
    return isinstance(value, int | float | list | dict) or (isinstance(value, str) and not value.startswith("<"))


def _is_table(table: Any) -> bool:
    return isinstance(table, list | tuple) and all(
        isinstance(row, list | tuple) and len(row) == 3 and all(isinstance(n, int) for n in row) for row in table
    )


def _of_config(text: str) -> Settings:
    """From the line that the engine's core writes when it begins."""
    if not text:
        return Settings(engine="vLLM", speculates=False)
    found = dict(re.findall(r"(\w+)=('[^']*'|[\w.]+)", text))
    tokens = found.get("num_spec_tokens", "")
    return Settings(
        engine="vLLM", method=found.get("method", "").strip("'"),
        drafter="" if (model := found.get("model", "None").strip("'")) == "None" else model,
        gamma=int(tokens) if tokens.isdigit() and int(tokens) else None, speculates=True,
    )  # fmt: skip
