"""What a gateway's line says that its request used: tokens of the prompt, of these from a cache, and of the answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from simulator.bodies import RESPONSES, opened
from simulator.fields import is_blank, tokens
from simulator.tabular import Row, folded

USAGE: Final = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
"""Fields of usage as APIs have them: (prompt, answer)."""
_OF_USAGE: Final = (*USAGE, ("input", "output"), ("promptTokenCount", "candidatesTokenCount"))
"""The same, Langfuse's and Gemini's."""
_USAGES: Final = ("usage", "usageDetails", "usage_details", "usageMetadata", "usage_metadata")
"""Under which the line, or what was answered, keeps them."""
FLAT: Final = (
    *USAGE, ("prompt_tokens", "output_tokens"), ("genai_tokens_input", "genai_tokens_output"),
    ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"), ("tokens_prompt", "tokens_completion"),
    ("tokens_in", "tokens_out"), ("in_tokens", "out_tokens"), ("num_prompt_tokens", "num_completion_tokens"),
    ("num_input_tokens", "num_output_tokens"), ("llm_input_token", "llm_output_token"), ("prompt_eval_count", "eval_count"),
    ("req_units", "res_units"), ("inputTokenCount", "outputTokenCount"),
)  # fmt: skip
"""The same among a line's own fields; Envoy's, OpenTelemetry's, OpenRouter's, Cloudflare's, Ollama's, Portkey's and
Bedrock's names."""
_BEDROCKS: Final = ("inputTokenCount", "outputTokenCount")
"""What Bedrock's log keeps under `input` and `output`."""
_BESIDE: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""What Anthropic's usage counts beside `input_tokens`: a prompt is all three."""
_CACHED: Final = ("cached_tokens", "cache_read_input_tokens")
"""Tokens of a prompt that came from a cache: of usage, or of what it says of its prompt tokens."""
_OF_PROMPTS: Final = ("prompt_tokens_details", "input_tokens_details")
_OF_ANSWERS: Final = ("completion_tokens_details", "output_tokens_details")
_KNOWN: Final = {folded(name): name for pair in _OF_USAGE for name in pair}


class Used(NamedTuple):
    """Tokens of one request."""

    prompt: int
    answer: int | None
    """None where the line says nothing of one."""
    answer_field: str
    """Where it would stand."""
    cached: int
    """Those of the prompt that came from a cache."""


def used(row: Row) -> Used | None:
    """What a line says that its request used; None where it says nothing of a prompt. Raises ValueError."""
    usage, names = _usage_of(row)
    for asked, answer in sorted(names, key=lambda pair: _unsaid(usage.get(pair[1]))):
        given = [name for name in (asked, *(_BESIDE if asked == "input_tokens" else ())) if _some(usage.get(name))]
        if not given:
            continue
        prompt = sum(tokens(usage, name) for name in given)
        said = None if _unsaid(usage.get(answer)) else tokens(usage, answer, least=0)
        return Used(prompt, said if said is None else said + _reasoned(usage, prompt, said), answer, _cached(usage, prompt))
    return None


def bodies(row: Row) -> Iterator[dict[str, Any]]:
    """The line itself, what was answered, which may be within a batch's `response`, and what plugins of Kong's say: the one
    first that was between the client and the model."""
    if isinstance(row, dict):
        yield row
    held = [opened(row[name]) for name in RESPONSES if name in row]
    ai = row.get("ai")
    plugins: dict[str, Any] = ai if isinstance(ai, dict) else {}
    own = sorted(plugins, key=lambda name: "proxy" not in name)
    within = [opened(one.get("body")) for one in held if isinstance(one, dict)]
    for one in itertools.chain(held, within, (plugins[name] for name in own)):
        if isinstance(one, dict):
            yield one


def _usage_of(row: Row) -> tuple[Row, tuple[tuple[str, str], ...]]:
    """Where a line keeps what its request used, and what that may be called: `usage`, in what was answered, or in a plugin
    of Kong's; else among its own fields."""
    for one in bodies(row):
        for usage in (opened(one[name]) for name in _USAGES if name in one):
            if not isinstance(usage, Mapping):
                continue
            spelled = {_KNOWN.get(folded(name), str(name)): value for name, value in usage.items()}
            if any(_some(spelled.get(name)) for pair in _OF_USAGE for name in (*pair, *_BESIDE)):
                return spelled, _OF_USAGE
    if isinstance(asked := row.get("input"), dict) and isinstance(given := row.get("output"), dict):
        return {**row, **{name: one[name] for one, name in zip((asked, given), _BEDROCKS, strict=True) if name in one}}, FLAT
    return row, FLAT


def _unsaid(value: object) -> bool:
    """Whether a number of tokens is not said: some write -1 for that."""
    return is_blank(value) or value in (-1, "-1", -1.0)


def _some(value: object) -> bool:
    return not _unsaid(value) and value not in (0, "0", 0.0)


def _reasoned(usage: Row, prompt: int, answer: int) -> int:
    """Tokens of thought that are no part of what the answer is said to have had: those that its total has besides."""
    if _unsaid(usage.get("total_tokens")):
        return 0
    besides = tokens(usage, "total_tokens", least=0) - prompt - answer
    thought = sum(_detail(usage, name, "reasoning_tokens") for name in _OF_ANSWERS) or _count(usage, "reasoning_tokens")
    return besides if 0 < besides == thought else 0


def _cached(usage: Row, prompt: int) -> int:
    found = [_count(usage, name) for name in _CACHED]
    found += [_detail(usage, within, name) for within in _OF_PROMPTS for name in _CACHED]
    return min(prompt, max(found))


def _detail(usage: Row, within: str, name: str) -> int:
    details = opened(usage[within]) if within in usage else None
    return _count(details, name) if isinstance(details, Mapping) else 0


def _count(row: Row, name: str) -> int:
    return tokens(row, name, least=0) if _some(row.get(name)) else 0
