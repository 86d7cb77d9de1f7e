"""What a gateway's line says that its request used: tokens of the prompt, of these from a cache, and of the answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    *USAGE, ("native_tokens_prompt", "native_tokens_completion"), ("prompt_tokens", "output_tokens"),
    ("genai_tokens_input", "genai_tokens_output"),
    ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
    ("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"),
    ("llm.usage.prompt_tokens", "llm.usage.completion_tokens"), ("tokens_prompt", "tokens_completion"),
    ("tokens_in", "tokens_out"), ("in_tokens", "out_tokens"), ("num_prompt_tokens", "num_completion_tokens"),
    ("num_input_tokens", "num_output_tokens"), ("llm_input_token", "llm_output_token"), ("prompt_eval_count", "eval_count"),
    ("req_units", "res_units"), ("inputTokenCount", "outputTokenCount"),
)  # fmt: skip
"""The same among a line's own fields; OpenRouter's, in the model's own tokens before those of one tokenizer for all models;
Envoy's, OpenTelemetry's of today and before (vLLM's spans), Cloudflare's, Ollama's, Portkey's and Bedrock's names."""
_BEDROCKS: Final = ("inputTokenCount", "outputTokenCount")
"""What Bedrock's log keeps under `input` and `output`."""
_READ: Final = (
    "cache_read_input_tokens", "cacheReadInputTokenCount", "cacheReadInputTokens", "prompt_cache_read_tokens",
    "input_cached_tokens", "cached_tokens", "cached_input_tokens", "cache_read", "prompt_cache_hit_tokens",
    "cachedContentTokenCount", "native_tokens_cached", "gen_ai.usage.cache_read.input_tokens",
)  # fmt: skip
"""Tokens of a prompt that came from a cache."""
_WRITTEN: Final = (
    "cache_creation_input_tokens", "cacheWriteInputTokenCount", "cacheWriteInputTokens", "prompt_cache_write_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
)  # fmt: skip
"""Those that were put into one."""
_THOUGHT: Final = ("reasoning_tokens", "thoughtsTokenCount", "thinking_tokens", "output_reasoning_tokens")
"""Tokens of thought."""
_TOTAL: Final = ("total_tokens", "totalTokenCount", "total_units", "gen_ai.usage.total_tokens")
"""All tokens of a request, which tell what of these is a part of others, and what stands beside them."""
_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    folded(name): names for names in (_READ, _WRITTEN, _THOUGHT, _TOTAL) for name in names
}  # fmt: skip
_CACHES_BESIDE: Final = frozenset(map(folded, (*_READ[:3], *_WRITTEN[:3])))
"""Names of what Anthropic and Bedrock count beside a prompt's tokens, unless a total says otherwise."""
_PROMPTS_BESIDE: Final = frozenset({"input_tokens", "inputTokenCount"})
"""What they call a prompt's tokens without these."""
_THOUGHT_BESIDE: Final = frozenset({"candidatesTokenCount"})
"""What Gemini calls an answer's without thought."""
_LANGFUSES: Final = ("input", "output")
"""Langfuse counts every kind with such a word in its name beside the others."""
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
    unexplained: int = 0
    """Tokens that its total has besides, of nothing that is known here."""


@dataclass(slots=True)
class _Beside:
    """What a line counts that may be a part of its prompt and answer, or beside them, by what it is."""

    read: int = 0
    written: int = 0
    thought: int = 0
    total: int | None = None
    as_named: tuple[int, int, int] = (0, 0, 0)
    """What is beside by its name: read, written, thought."""

    def split(self, prompt: int, answer: int) -> tuple[int, int]:
        """Tokens to add to a prompt and to an answer: by what the total says, else by the names."""
        parts = (self.read, self.written, self.thought)
        ways = [self.as_named]
        if self.total is not None:
            read, written, thought = ((0, part) for part in parts)
            within = [one for one in itertools.product(read, written, thought) if one[0] or self.read <= prompt]
            ways += within  # what is a part of the prompt is no more than that
        fits = (one for one in ways if self.total == prompt + answer + sum(one))
        from_a_cache, into_one, besides = next(fits, self.as_named)
        return from_a_cache + into_one, besides


def used(row: Row) -> Used | None:
    """What a line says that its request used; None where it says nothing of a prompt. Raises ValueError."""
    usage, names = _usage_of(row)
    for asked, answer in sorted(names, key=lambda pair: _unsaid(usage.get(pair[1]))):
        if asked not in usage:
            continue
        alone = 0 if not _some(usage.get(asked)) else tokens(usage, asked)
        said = None if _unsaid(usage.get(answer)) else tokens(usage, answer, least=0)
        beside = _beside(usage, asked, answer)
        more, thought = beside.split(alone, said or 0)
        if not alone + more:
            continue
        prompt, whole = alone + more, None if said is None else said + thought
        unexplained = 0 if beside.total is None else max(0, beside.total - prompt - (whole or 0))
        return Used(prompt, whole, answer, min(prompt, beside.read), unexplained)
    return None


def is_known(asked: str, given: str) -> bool:
    """Whether usage may call a prompt's tokens and an answer's so, in any spelling."""
    return (_KNOWN.get(folded(asked)), _KNOWN.get(folded(given))) in _OF_USAGE


def _beside(usage: Row, asked: str, answer: str) -> _Beside:
    """What usage says beside a prompt's tokens and an answer's."""
    found, named = _Beside(), [0, 0, 0]
    langfuse = (asked, answer) == _LANGFUSES
    if langfuse and "total" in usage:
        found.total = whole(usage["total"])
    for name, value in usage.items():
        if isinstance(value, Mapping | str) and "detail" in str(name):
            _add_details(found, opened(value))
            continue
        role: tuple[str, ...] | None = _ROLES.get(folded(name))
        if role is None and langfuse and name not in _LANGFUSES and "cost" not in str(name).lower():
            role = next(
                (kind for word, kind in zip(_LANGFUSES, (_WRITTEN, _THOUGHT), strict=True) if word in str(name)), None
            )
        if role is None or not (n := whole(value)):
            continue
        if role is _TOTAL:
            found.total = n
        elif role is _READ:
            found.read = max(found.read, n)
            named[0] = max(named[0], n if _is_beside(name, asked, langfuse=langfuse) else 0)
        elif role is _WRITTEN:
            found.written += n
            named[1] += n if _is_beside(name, asked, langfuse=langfuse) else 0
        else:
            found.thought = found.thought + n if langfuse else max(found.thought, n)
            named[2] = found.thought if langfuse or answer in _THOUGHT_BESIDE else 0
    found.as_named = (named[0], named[1], named[2])
    return found


def _is_beside(name: str, asked: str, *, langfuse: bool) -> bool:
    return langfuse or (asked in _PROMPTS_BESIDE and folded(name) in _CACHES_BESIDE)


def _add_details(found: _Beside, details: object) -> None:
    """Details say what is within prompt or answer, unless the total is more than these."""
    for name, value in details.items() if isinstance(details, Mapping) else ():
        role, n = _ROLES.get(folded(name)), whole(value) or 0
        if role is _READ:
            found.read = max(found.read, n)
        elif role is _THOUGHT:
            found.thought = max(found.thought, n)


def whole(value: object) -> int | None:
    """A whole number of tokens; None for whatever is none, as a sum of money is."""
    try:
        return None if _unsaid(value) else tokens({"": value}, "", least=0)
    except ValueError:
        return None


def says_tokens(row: Row) -> bool:
    """Whether a line says what its request used, though it may be no number."""
    try:
        return used(row) is not None
    except ValueError:
        return True  # which line's tokens are no number is said where it is read


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
            if any(_some(spelled.get(name)) for pair in _OF_USAGE for name in (*pair, *_READ[:1], *_WRITTEN[:1])):
                return spelled, _OF_USAGE
    if isinstance(asked := row.get("input"), dict) and isinstance(given := row.get("output"), dict):
        kept = {name: n for one in (asked, given) for name, n in one.items() if name in _BEDROCKS or folded(name) in _ROLES}
        return {**row, **kept}, FLAT
    return row, FLAT


def _unsaid(value: object) -> bool:
    """Whether a number of tokens is not said: some write -1 for that."""
    return is_blank(value) or value in (-1, "-1", -1.0)


def _some(value: object) -> bool:
    return not _unsaid(value) and value not in (0, "0", 0.0)
