"""Hardware profiles: how long a step takes, and how much context fits. One JSON file each; see docs/hardware.md.

    t_step = overhead + draft(R, drafted) + verify(B) + context tokens · (cost of reading one) + attention of single tokens

with R requests drafting and B tokens in the target pass. Attention reads a request's context once for the whole block, so
what is charged for context counts requests' tokens, not verified tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.hardware.cost import Rates, Seconds, StepCost, rates

Source = Literal["measured", "fitted", "published", "roofline", "user"]
T = TypeVar("T")
SCHEMA = 1


_LONGEST_S = 86_400.0
"""Seconds that no part of a step takes."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds over a count, linear between the points; held below the first, straight on beyond the last."""

    counts: tuple[int, ...]
    """Tokens or requests; rising, at least 1."""
    seconds: tuple[float, ...]
    """One a count."""

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.seconds):
            raise ValueError("needs as many seconds as counts, at least one")
        if self.counts[0] < 1 or any(a >= b for a, b in zip(self.counts, self.counts[1:], strict=False)):
            raise ValueError("counts must rise from 1 or more")
        if not all(0 <= s <= _LONGEST_S for s in self.seconds):
            raise ValueError(f"seconds must be 0 or more, and no more than {_LONGEST_S:,.0f}")

    def at(self, counts: npt.ArrayLike) -> Seconds:
        """Seconds at any counts, the same shape."""
        x = np.asarray(counts, np.float64)
        inside: Seconds = np.interp(x, self.counts, self.seconds)
        if len(self.counts) == 1:
            return inside
        slope = max(0.0, (self.seconds[-1] - self.seconds[-2]) / (self.counts[-1] - self.counts[-2]))
        return inside + slope * np.maximum(x - self.counts[-1], 0)


_FORMAT = r"(?:nv|mx)?fp\d+|bf16|int\d+|w\d+a\d+|[48]bit|q\d_\w+"
"""How names of checkpoints say the format of their numbers."""
_DATE = r"\d{4,}"


@dataclass(frozen=True, slots=True)
class Errors:
    """How far a profile's parts may be off: relative standard errors, and how they hang together."""

    verify: float
    """The target's passes."""
    draft: float
    """Drafting."""
    host: float
    """Scheduling, sampling, launching: the overhead."""
    correlation: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Between the errors of verify and draft, of verify and host, of draft and host: a fit knows sums better than parts."""

    def __post_init__(self) -> None:
        for name in ("verify", "draft", "host"):
            if not 0 <= getattr(self, name) < 2:
                raise ValueError(f"{name} must be from 0 to less than 2")
        if len(self.correlation) != 3 or not all(-1 < r < 1 for r in self.correlation):
            raise ValueError("correlation must be three numbers above -1 and below 1")
        if np.linalg.eigvalsh(self._correlations).min() <= 0:
            raise ValueError("correlation: no three numbers hang together so")

    @property
    def _correlations(self) -> Seconds:
        of_draft, of_host, between = self.correlation
        return np.array([[1.0, of_draft, of_host], [of_draft, 1.0, between], [of_host, between, 1.0]])

    def factors(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """By how many times verify, draft and host may be off: a draw, lognormal."""
        together = np.linalg.cholesky(self._correlations) @ rng.standard_normal(3)
        verify, draft, host = np.exp(np.array([self.verify, self.draft, self.host]) * together).tolist()
        return verify, draft, host


ERRORS: Mapping[Source, Errors] = {
    "measured": Errors(0.03, 0.03, 0.03),
    "published": Errors(0.05, 0.05, 0.05),
    "fitted": Errors(0.05, 0.05, 0.05),
    "user": Errors(0.05, 0.05, 0.05),
    "roofline": Errors(0.30, 0.30, 0.30),
}
"""What is assumed of a profile that does not say better itself, by its source: nobody measured these. A bench is repeated,
published curves are read off figures and were taken on other machines, and a roofline knows the hardware's limits alone."""


@dataclass(frozen=True, slots=True)
class DraftCurve:
    """What drafting costs, one curve over requests for each number of drafted tokens that was timed."""

    drafted: tuple[int, ...]
    """Tokens drafted, rising from 1 or more."""
    requests: tuple[Curve, ...]
    """Seconds over the requests that draft, one curve for each entry of `drafted`."""
    block: bool
    """Whether the whole block is drafted at once: asking for fewer tokens then saves nothing."""
    context_s_per_token: float = 0.0
    """Seconds of one pass of the drafter on each token of the requests' contexts; without `block` it makes γ passes."""
    prefill_s_per_token: float = 0.0
    """Seconds of taking in a prompt's token."""

    def __post_init__(self) -> None:
        if not self.drafted or len(self.drafted) != len(self.requests):
            raise ValueError("needs one curve over requests for each entry of drafted")
        if self.drafted[0] < 1 or any(a >= b for a, b in zip(self.drafted, self.drafted[1:], strict=False)):
            raise ValueError("drafted must rise from 1 or more")
        for name in ("context_s_per_token", "prefill_s_per_token"):
            if not 0 <= getattr(self, name) <= _LONGEST_S:
                raise ValueError(f"{name} must be 0 or more, and no more than {_LONGEST_S:,.0f}")

    def at(self, drafted: int, requests: npt.ArrayLike) -> Seconds:
        """Seconds of drafting `drafted` tokens for so many requests; straight on beyond what was timed."""
        curves = np.stack([curve.at(requests) for curve in self.requests])
        if len(self.drafted) == 1:
            return np.asarray(curves[0])
        right = min(max(int(np.searchsorted(self.drafted, drafted)), 1), len(self.drafted) - 1)
        low, high = self.drafted[right - 1], self.drafted[right]
        share = (drafted - low) / (high - low)
        return np.asarray(np.maximum(curves[right - 1] + share * (curves[right] - curves[right - 1]), 0))


LAUNCH_S = 60e-6
"""Launching one kernel, as DeepSeek-V4-Flash's passes outside of captured sizes on B300 have it: 104.5 ms for some 1,720."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """What passes outside of captured sizes take where nobody timed one: their kernels are launched one by one, and none is
    shorter than that takes. Assumed, until a profile has an `eager` curve."""

    kernels: int
    """Kernels of a pass of the target."""
    each_s: float = LAUNCH_S
    """Launching one."""
    with_prompt: float = 0.25
    """The share of them that a step with a prompt has to launch though it is no larger than a captured size; 1 where the
    engine leaves its graphs for a prompt."""

    def __post_init__(self) -> None:
        if not 1 <= self.kernels <= 10**6:
            raise ValueError("kernels must be from 1 to 1,000,000")
        if not 0 <= self.each_s <= 1:
            raise ValueError("each_s must be from 0 to 1")
        if not 0 <= self.with_prompt <= 1:
            raise ValueError("with_prompt must be from 0 to 1")

    @property
    def seconds(self) -> float:
        """Launching all of them."""
        return self.kernels * self.each_s


@dataclass(frozen=True, kw_only=True)
class Profile(Rates):
    """How long a step of one model on one device takes. Raises ValueError where a field makes no sense."""

    name: str
    """The profile's name as users write it, for instance h100/qwen3-4b."""
    device: str
    model: str
    """The target's name; a report warns where the traces' target is another."""
    source: Source
    provenance: Mapping[str, str]
    """Where the numbers come from: sources, date, versions, assumptions, in words."""
    kv_capacity_tokens: int
    """Context tokens that fit beside the target's weights, over all GPUs of a replica."""
    kv_capacity_by_drafter: Mapping[str, int] = field(default_factory=dict)
    """The same beside a drafter's weights, and with its own keys and values; by drafter: its own name, or its kind. 0 where
    it does not fit. Those that are not named take no memory, or it is not known."""
    verify: Curve
    """The target pass over B tokens, contexts left out."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Number formats of `weights` and `cache` that are not the checkpoint's own, as fp8: what is served is made so."""
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    """How the checkpoint itself has `weights`, by their quantisation's name, and `cache`, where that is not bf16."""
    draft: Mapping[str, DraftCurve] = field(default_factory=dict)
    """By drafter: its own name, or its kind. `none` and drafters that cost nothing need no entry; see `free_drafters`."""
    free_drafters: tuple[str, ...] = ()
    """Drafters, by name or kind, whose time is negligible or already in the overhead."""
    mean_context_tokens: int = 0
    """The context at which windows and compressed caches, which do not grow evenly, are averaged; 0: there are none."""
    gpus: int = 1
    """GPUs of one replica; throughput is reported per GPU."""
    context_by_width: Curve | None = None
    """Reading one context token, over the tokens of each request in the pass; by default `context_s_per_token` for any
    number, as where memory is what limits. Policies foresee the latter."""
    padded: bool = False
    """How the engine lays out its passes. False, as serving engines do: one pass holds prompts and drafts, each token once.
    True, as the project's own loop does: drafts and contexts are padded to the batch's longest, and every prompt has a pass
    of its own. Policies foresee steps by their tokens either way."""
    captured_tokens: tuple[int, ...] = ()
    """Sizes the target pass is padded up to, while it is not larger than the last and holds no prefill."""
    eager: Curve | None = None
    """The target pass outside of captured sizes, as it was timed or fitted; by default what `launches` makes of `verify`,
    unpadded."""
    launches: Launches | None = None
    """What the pass outside of captured sizes is taken to be, where there is no `eager`."""
    errors: Errors | None = None
    """How far it may be off; None is what its source says. See `relative_errors`."""

    def __post_init__(self) -> None:
        for name in rates("host", "target"):
            if not 0 <= getattr(self, name) <= _LONGEST_S:
                raise ValueError(f"{name} must be 0 or more, and no more than {_LONGEST_S:,.0f}")
        for name in ("formats", "checkpoint"):
            if unknown := sorted(set(getattr(self, name)) - {"weights", "cache"}):
                raise ValueError(f"{name}: there are weights and cache, not {unknown[0]}")
        if any(tokens < 0 for tokens in self.kv_capacity_by_drafter.values()):
            raise ValueError("kv_capacity_by_drafter: context tokens must be 0 or more")
        for name in rates("share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
        if self.source not in get_args(Source):
            raise ValueError(f"source must be one of {', '.join(get_args(Source))}")
        if self.mean_context_tokens < 0:
            raise ValueError("mean_context_tokens must be 0 or more")
        if self.gpus < 1 or self.kv_capacity_tokens < 1:
            raise ValueError("gpus and kv_capacity_tokens must be 1 or more")
        if any(a >= b for a, b in zip((0, *self.captured_tokens), self.captured_tokens, strict=False)):
            raise ValueError("captured_tokens must rise from 1 or more")
        if self.eager_s_per_token and not self.captured_tokens:
            raise ValueError("eager_s_per_token: is of passes outside of captured_tokens, which it lacks")
        if self.launches and not self.captured_tokens:
            raise ValueError("launches: are of passes outside of captured_tokens, which it lacks")
        if min(self.verify.seconds) <= 0:
            raise ValueError("verify: seconds must be above 0: a pass of the target takes time")
        for curve in (self.verify, self.eager or self.verify):
            if self.logits_s_per_token * curve.counts[-1] > curve.seconds[-1]:
                raise ValueError("logits_s_per_token: is a part of verify and eager, and cannot be more than they are")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the profile's JSON, worked out once: profiles of equal numbers and words have equal ones."""
        return hashlib.sha256(dump_profile(self).encode()).hexdigest()

    @property
    def relative_errors(self) -> Errors:
        """How far its parts may be off."""
        return self.errors or ERRORS[self.source]

    @property
    def captured(self) -> int:
        """Tokens of the largest pass that is captured; 0 where none is."""
        return self.captured_tokens[-1] if self.captured_tokens else 0

    def outside(self, tokens: npt.ArrayLike) -> Seconds:
        """Seconds of target passes over so many tokens that hold a prompt, or are larger than any captured size."""
        if self.eager is not None:
            return self.eager.at(tokens)
        passes_s = self.verify.at(tokens)
        if self.launches is None:
            return passes_s
        launched = np.where(np.asarray(tokens) <= self.captured, self.launches.with_prompt, 1.0)
        logits_s = self.logits_s_per_token * np.asarray(tokens)  # few kernels, and long ones: what is launched is the rest
        return np.maximum(passes_s - logits_s, launched * self.launches.seconds) + logits_s

    def cost(
        self, drafter: str, gamma: int, requests: int, tokens: int, *, kind: str = "", decides: bool = False
    ) -> StepCost:
        """The profile as the simulator reads it, for γ drafted tokens, up to so many requests and tokens in a step.

        `decides` is whether the policy does so by confidences.
        A drafter has the entry of its `kind`, unless one of its own name, which is no kind's, is there. Raises InputError
        where the profile knows neither.
        """
        padded = np.arange(tokens + 1)
        eager = self.outside(padded)
        if self.captured_tokens:
            sizes = np.asarray(self.captured_tokens)
            inside = padded <= self.captured
            padded[inside] = sizes[np.searchsorted(sizes, padded[inside])]
            verify = np.where(inside, self.verify.at(padded), eager + self.eager_s_per_token * padded)
        else:
            verify = self.verify.at(padded)
        draft, context, draft_prefill_s = np.zeros((gamma + 1, requests + 1)), np.zeros(gamma + 1), 0.0
        drafter = _entry(drafter, kind, ("none", *self.draft, *self.free_drafters))
        drafts = bool(gamma) and drafter not in ("none", *self.free_drafters)
        if drafts:
            curve = self._draft_curve(drafter, gamma)
            draft_prefill_s = curve.prefill_s_per_token
            for k in range(1, gamma + 1):
                draft[k, 1:] = curve.at(gamma if curve.block else k, np.arange(1, requests + 1))
                context[k] = curve.context_s_per_token * (1 if curve.block else k)
        taken: dict[str, Any] = {name: getattr(self, name) for name in rates()}
        taken |= {
            "idle_share": self.idle_share if drafts else 0.0,
            "deciding_share": self.deciding_share if decides else 0.0,
        }
        return StepCost(
            verify, eager, draft, context, self._widening(gamma), draft_prefill_s,
            padded=self.padded, captured=self.captured, **taken,
        )  # fmt: skip

    def capacity(self, drafter: str, kind: str = "") -> int:
        """Context tokens that fit beside a drafter, named as `cost` has it. Raises InputError where it does not fit."""
        entry = _entry(drafter, kind, ("none", *self.kv_capacity_by_drafter))
        tokens = self.kv_capacity_by_drafter.get(entry, self.kv_capacity_tokens)
        if not tokens:
            raise InputError(
                f"hardware {self.name}: {drafter} does not fit beside {self.model} on {self.gpus} GPU; give more"
            )
        return tokens

    def _widening(self, gamma: int) -> Seconds:
        if self.context_by_width is None:
            return np.zeros(2)
        return self.context_by_width.at(np.arange(gamma + 3)) - self.context_s_per_token

    def _draft_curve(self, drafter: str, gamma: int) -> DraftCurve:
        if drafter not in self.draft:
            known = ", ".join([*self.draft, *self.free_drafters]) or "none"
            raise InputError(f"hardware {self.name}: has no draft time for {drafter}; it knows {known}")
        curve = self.draft[drafter]
        if len(curve.drafted) == 1 and curve.drafted[0] != gamma:
            raise InputError(f"hardware {self.name}: knows {drafter} at γ = {curve.drafted[0]} only, not at γ = {gamma}")
        return curve


def _entry(drafter: str, kind: str, known: Sequence[str]) -> str:
    """By which of the known names a profile has a drafter: its own, unless that is another kind's, or its kind."""
    as_another = drafter in KINDS and drafter != "none"  # a name, and no kind of its own
    return kind if kind and (as_another or (drafter not in known and kind in known)) else drafter


def load_profile(file: Path) -> Profile:
    """A profile of one's own. Raises InputError naming file, field and fix."""
    try:
        return _rising(_profile(json.loads(file.read_text(encoding="utf-8-sig"))))
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: is not JSON: {error}") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def _rising(profile: Profile) -> Profile:
    """A profile as it is, unless one wrote by hand that more tokens take less, by more than noise."""
    points = list(zip(profile.verify.counts, profile.verify.seconds, strict=True)) if profile.source == "user" else []
    for (few, longer), (many, seconds) in pairwise(points):
        if seconds < 0.8 * longer:
            raise ValueError(f"verify: {many:,} tokens take {seconds:g} s, {few:,} take {longer:g} s: must not fall so")
    return profile


def parse_profile(text: str) -> Profile:
    """A profile from its JSON. Raises ValueError naming the field."""
    return _profile(json.loads(text))


_FIRST_RATES = ("overhead_s", "overhead_s_per_request", "overhead_s_per_prompt", "context_s_per_token", "prefill_s_per_pair")
"""Rates that are written where they are 0 too, as they always were: profiles are known by digests of their JSON."""
_UNSAID = ("kv_capacity_by_drafter", "formats", "checkpoint", "mean_context_tokens", "launches", "errors")
"""What else is not written where it says nothing."""


def dump_profile(profile: Profile) -> str:
    """The JSON of a profile; `load_profile` reads it back equal."""
    known, own = asdict(profile), [one.name for one in fields(Profile) if one.name not in rates()]
    if profile.errors and not any(profile.errors.correlation):
        del known["errors"]["correlation"]
    later = [name for name in rates() if name not in _FIRST_RATES]
    first = own.index("context_by_width")  # in this order since before there were so many
    order = [*own[:first], *_FIRST_RATES, *own[first:-1], *later, own[-1]]
    content = {"schema": SCHEMA} | {n: known[n] for n in order if known[n] or n not in (*later, *_UNSAID)}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n\s*([-+\d.e,\s]*?)\s*\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)


def _profile(raw: Any) -> Profile:
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise ValueError(f"must be a JSON object with schema: {SCHEMA}")
    raw = _fields({k: v for k, v in raw.items() if k != "schema"}, Profile, "")
    raw["verify"] = _curve(raw["verify"], "verify")
    for name in ("eager", "context_by_width"):
        if raw.get(name) is not None:
            raw[name] = _curve(raw[name], name)
    if raw.get("errors") is not None:
        raw["errors"] = _made("errors", Errors, _fields(raw["errors"], Errors, "errors"))
    if raw.get("launches") is not None:
        raw["launches"] = _made("launches", Launches, _fields(raw["launches"], Launches, "launches"))
    raw["draft"] = {name: _draft_curve(curve, f"draft.{name}") for name, curve in raw.get("draft", {}).items()}
    return Profile(**raw)


def _draft_curve(raw: Any, where: str) -> DraftCurve:
    raw = _fields(raw, DraftCurve, where)
    curves = tuple(_curve(c, f"{where}.requests[{i}]") for i, c in enumerate(raw["requests"]))
    return _made(where, DraftCurve, raw | {"requests": curves})


def _curve(raw: Any, where: str) -> Curve:
    return _made(where, Curve, _fields(raw, Curve, where))


def _made(where: str, kind: type[T], raw: dict[str, Any]) -> T:
    try:
        return kind(**raw)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _fields(raw: Any, kind: type[Any], where: str) -> dict[str, Any]:
    """The fields of a JSON object, all of them fields of `kind`, none missing that has no default, each of its type."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: must be an object")
    of, at = (f"{where}: ", f"{where}.") if where else ("", "")
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(raw) - set(known)):
        raise ValueError(f"{of}unknown {', '.join(unknown)}; it has {', '.join(known)}")
    needed = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in raw]:
        raise ValueError(f"{of}misses {', '.join(missing)}")
    return {name: _typed(value, str(known[name].type), f"{at}{name}") for name, value in raw.items()}


def _typed(value: Any, kind: str, where: str) -> Any:
    """A JSON value, checked against a field's annotation; lists become tuples."""
    if kind.startswith("tuple["):
        if not isinstance(value, list):
            raise ValueError(f"{where}: must be a list")
        inner = kind.removeprefix("tuple[").removesuffix(", ...]")
        return tuple(_typed(v, inner, f"{where}[{i}]") for i, v in enumerate(value))
    if kind.startswith("Mapping["):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: must be an object")
        inner = kind.removeprefix("Mapping[str, ").removesuffix("]")
        return {name: _typed(v, inner, f"{where}.{name}") for name, v in value.items()}
    if kind in _JSON and not _JSON[kind][0](value):
        raise ValueError(f"{where}: must be {_JSON[kind][1]}")
    return value


_JSON: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda v: isinstance(v, str), "a text"),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "int": (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "float": (lambda v: isinstance(v, int | float) and not isinstance(v, bool), "a number"),
    "Source": (lambda v: v in get_args(Source), f"one of {', '.join(get_args(Source))}"),
}


def formats_told(profile: Profile) -> str:
    """The number formats of a profile that are not the checkpoint's own, in words, and of a cache that is; empty where
    there are none."""
    words = {"weights": "{} weights", "cache": "{} keys and values"}
    told = {what: kind for what, kind in profile.checkpoint.items() if what == "cache"} | dict(profile.formats)
    return " and ".join(words[what].format(kind) for what, kind in told.items())


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model, folders, dashes, dates and number formats aside; a name that nobody gave may be of
    any. One may say more than the other, as `-Instruct`, but sizes and versions are those of both."""
    first, second = _parts(one), _parts(other)
    if not any(first) or not any(second):
        return True
    (words, numbers), (more, others) = sorted((first, second), key=lambda parts: len(parts[0]))
    return words <= more and numbers == others


def may_be_one_model(one: str, other: str) -> bool:
    """Whether two names that are not known to be of one model may be: one of them says neither size nor version."""
    (words, numbers), (more, others) = sorted((_parts(one), _parts(other)), key=lambda parts: len(parts[0]))
    return words <= more and not (numbers and others)


def _parts(name: str) -> tuple[set[str], set[str]]:
    """(words, sizes and versions) of a model's name."""
    plain = re.sub(_FORMAT, " ", name.lower().rstrip("/").rpartition("/")[2])
    found = re.findall(r"[^\W\d_]+|\d+(?:\.\d+)*(?:[bm](?![^\W_]))?", plain)
    numbers = {part for part in found if part[0].isdigit()}
    return {*found} - numbers, {part for part in numbers if not re.fullmatch(_DATE, part)}
