"""`harness profile`: a measured hardware profile, from timing a target and its drafters on this machine."""

from __future__ import annotations

import copy
import ctypes
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from drafters.cache import Positions
from drafters.checkpoints import find_folder, folder_hash, load_drafter
from drafters.configs import known_architectures
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.none import NoDrafter
from drafters.precision import choose_dtype
from drafters.random_models import random_drafters, random_target
from drafters.target import Target
from harness.console import Watcher
from harness.hardware.attention import reads_once
from harness.hardware.bench import Bench, BenchPoint
from harness.hardware.effort import Effort
from harness.hardware.fit import Costs, fit_costs, host_seconds, predicted_seconds, prompt_seconds
from harness.hardware.timing import LivePass, Timed, live_pass, time_points
from harness.parts import Keep, Parts, keep_nothing
from harness.recording.pair import Pair, choose_drafters, load_pair, pair_name
from results.store.provenance import git_revision, package_versions
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Errors, Profile, dump_profile
from simulator.memory import MACHINE_BYTES
from simulator.numbers import counted

_SHORT = 16
"""Context that stands for none: a drafter needs some."""
_CHUNKS, _CHUNKS_BETWEEN = (1, 8, 64, 256, 1024, 4096), (2, 4, 16, 32, 128, 512, 2048)
"""Prompt tokens timed in one pass; on a GPU, which passes over them in no time, those between as well."""
_PROMPTS, _LONG_PROMPTS = (64, 256), (1024, 4096)
"""Prompt tokens that drafters take in at once; the long ones on a GPU."""
_AGAINST_ENGINES = Errors(0.4, 0.4, 0.4)
"""Captured passes of transformers' layers stand for a serving engine's, which fuses kernels: vLLM's steps of Qwen3-8B on an
H100 begin at 6.8 ms where these begin at 10, which is a standard error of ln(10 / 6.8)."""
_GPU_MEMORY_SHARE, _CPU_MEMORY_SHARE = 0.9, 0.5
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers by which glibc's mallopt knows its parameters."""


class Live(NamedTuple):
    """Seconds of a round of one request, medians over passes."""

    predicted_s: float
    """Seconds of a round by the profile."""
    measured_s: float
    """Seconds of a round that `decode` took, everything but prefill included."""


@dataclass(frozen=True, slots=True)
class ProfileQuality:
    """How far to trust a profile."""

    spread: tuple[float, float]
    """Median and worst over points of the median absolute deviation of repetitions, as a share."""
    errors: Mapping[str, tuple[float, float]]
    """By part: median and worst relative error of the profile against the points it was fitted to."""
    smoothed: float
    """The largest share by which a curve was changed so that it rises."""
    live: Mapping[str, Live]
    """By drafter."""
    points: int
    left_out: int
    """Points too large for the time limit or for the memory."""
    sweeps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A target with drafters, ready to be profiled."""

    target: Target
    drafters: Mapping[str, Drafter]
    name: str
    """Second half of the profile's name, for instance qwen3-4b."""
    model: str
    weights: str
    """Which these are, in words."""


def profile_pair(
    pair: str | Pair, effort: Effort, watcher: Watcher, *, device: str | None = None, drafters: list[str] | None = None,
    out: Path | None = None,
) -> tuple[Profile, ProfileQuality]:  # fmt: skip
    """Profile a pair on this machine; `device` None is the pair's own, `drafters` None all of them. Raises InputError.

    `out`: see `stored_profile`.
    """
    with loaded_pair(pair, device=device, drafters=drafters) as measured:
        return stored_profile(measured, effort, watcher, out)


@contextmanager
def loaded_pair(
    pair: str | Pair,
    *,
    device: str | None = None,
    drafters: list[str] | None = None,
    gammas: Mapping[str, int] | None = None,
) -> Iterator[Measured]:
    """A pair ready to be profiled, on one thread where it runs on a CPU; `gammas` where not the drafters' own."""
    named = load_pair(pair)
    sources = {n: s for n, s in choose_drafters(named, drafters).items() if n != "none"}
    device = _resolved(device or named.device)
    with _one_thread(device):
        target = Target.load(named.target, dtype=choose_dtype(named.dtype, device), device=device, live=True)
        loaded = {n: load_drafter(source, target, gamma=(gammas or {}).get(n)) for n, source in sources.items()}
        name = pair_name(pair)
        model = name if Path(named.target).is_dir() else named.target
        weights = f"of {model}, SHA-256 {folder_hash(find_folder(named.target))[:16]}"
        yield Measured(target, loaded, name, model, weights)


def profile_architecture(
    source: str,
    drafters: Mapping[str, str],
    effort: Effort,
    watcher: Watcher,
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    out: Path | None = None,
) -> tuple[Profile, ProfileQuality]:
    """Profile an architecture with random weights. Raises InputError.

    `out`: see `stored_profile`.

    `source` and `drafters` are what `drafters.random_models` takes: a known name or a `config.json`; and by name a
    `config.json`, `ngram`, or a kind of drafter in its published shape.
    """
    device = _resolved(device)
    with _one_thread(device):
        watcher.say(f"making random weights of the shape of {source}")
        target = random_target(source, dtype=choose_dtype(dtype, device), device=device, seed=effort.seed)
        made = random_drafters(target, drafters, seed=effort.seed)
        path = Path(source)
        name = source if source in known_architectures() else (path if path.is_dir() else path.parent).resolve().name
        weights = f"random, seed {effort.seed}; time does not depend on them"
        return stored_profile(Measured(target, made, name, name, weights), effort, watcher, out)


def profile_file(out: Path, name: str) -> Path:
    """Where a profile is stored."""
    return out / "hardware" / f"{name}.json"


def stored_profile(measured: Measured, effort: Effort, watcher: Watcher, out: Path | None) -> tuple[Profile, ProfileQuality]:
    """A profile, stored in the folder `out`, where every sweep is kept until then; None stores and keeps nothing."""
    if out is None:
        return profile(measured, effort, watcher)
    parts = Parts(out, "profile", _settled(measured, effort), watcher)
    found, quality = profile(measured, effort, watcher, keep=parts.part)
    file = profile_file(out, found.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_profile(found))
    parts.done()
    return found, quality


def _settled(measured: Measured, effort: Effort) -> object:
    """All that decides what sweeps find, but code and packages: the machine, what runs on it, and how much is measured."""
    parameters = {
        name: sum(p.numel() for p in d.parameters())
        for name, d in measured.drafters.items()
        if isinstance(d, LearnedDrafter)
    }
    gammas = {name: (d.kind, d.gamma) for name, d in measured.drafters.items()}
    target = measured.target
    machine = (platform.node(), device_name(target), str(target.device), str(target.dtype))
    return [machine, measured.name, measured.weights, gammas, parameters, asdict(effort)]


def profile(
    measured: Measured,
    effort: Effort,
    watcher: Watcher,
    *,
    others: Sequence[Callable[[], None]] = (),
    keep: Keep = keep_nothing,
) -> tuple[Profile, ProfileQuality]:
    """Time a grid, fit a profile to it, and hold it against the grid and against live decoding.

    `others` are done once in each sweep over the grid: what is timed there is timed under the same conditions. `keep` gives
    sweeps of an earlier sitting.
    """
    target, drafters = measured.target, measured.drafters
    variants = {name: _variants(drafter, drafters.values()) for name, drafter in drafters.items()}
    points = grid(target, variants, effort)
    watcher.say(f"timing {counted(len(points), 'shape')} for about {effort.time_limit_s:.0f} s")
    timed, live = _time(measured, variants, points, effort, watcher, others, keep)
    if timed.left_out:
        watcher.say(
            f"{counted(len(timed.left_out), 'large shape')} left out; --time-limit gives time, if memory was not short"
        )
    costs = fit_costs(timed.timings, {n: KINDS[d.kind].one_pass for n, d in drafters.items()})
    device = device_name(target)
    found = costs.profile(
        name=f"{'cpu' if target.device.type == 'cpu' else _slug(device)}/{measured.name}",
        device=device,
        model=measured.model,
        source="measured",
        kv_capacity_tokens=_kv_capacity(target, drafters.values(), effort.memory_gb),
    )
    found = replace(
        found, overhead_s_per_prompt=prompt_seconds(timed.timings), errors=_AGAINST_ENGINES if timed.captured else None
    )
    quality = _quality(found, costs, timed, drafters, live)
    return replace(found, provenance=_provenance(measured, timed, effort, quality)), quality


def grid(target: Target, variants: Mapping[str, Mapping[int, Drafter]], effort: Effort) -> list[BenchPoint]:
    """Every shape to time: each with next to no context, and with the longest that the grid's memory has room for; the
    target on a GPU with two shorter ones between, a fourth each.

    `variants`: drafters by name and number of drafted tokens. Requests rise twofold for the target, fourfold elsewhere.
    """
    gpu = target.device.type == "cuda"
    as_engines = gpu and effort.graphs
    longest = max(min(effort.context_tokens or (4096 if gpu else 1024), target.max_positions // 2 - 2), 2)
    most = effort.max_requests or (256 if gpu else 64)
    drafters = [d for by_gamma in variants.values() for d in by_gamma.values()]
    room = min(longest * (64 if gpu else 16), _kv_capacity(target, drafters, effort.memory_gb) // (2 if gpu else 8))
    between = (longest // 4, longest // 16) if gpu else ()
    short = min(_SHORT, longest // 2)
    requests = [r for r in (1 << i for i in range(most.bit_length())) if r < most] + [most]
    fewer = [r for r in requests if r.bit_length() % 2 or r == most]
    deepest = max((gamma for by_gamma in variants.values() for gamma in by_gamma), default=0)
    widths = sorted({1, min(2, deepest + 1), max((deepest + 1) // 2, 1), deepest + 1})

    def contexts(rows: int) -> list[int]:
        fitting = [c for c in between if short < c < room // rows]
        return sorted({short, *fitting, max(min(longest, room // rows), short)})

    every = range(1, deepest + 2)  # kernels are jagged where a pass holds few tokens
    points = [BenchPoint("target", r, w, c) for r in requests for c in contexts(r) for w in (every if r == 1 else widths)]
    for name, by_gamma in variants.items():
        for gamma, drafter in by_gamma.items():
            reads = isinstance(drafter, LearnedDrafter)  # prompt lookup does not get slower with the text
            at = {r: (contexts(r)[0], contexts(r)[-1]) if reads else (short,) for r in fewer}
            points += [BenchPoint("draft", r, gamma, c, name) for r in fewer for c in sorted(set(at[r]))]
        whole = sorted(_PROMPTS + _LONG_PROMPTS) if gpu else _PROMPTS
        points += [BenchPoint("read", 1, n, 0, name) for n in whole if n <= longest]
        if reads and not as_engines:
            points += [BenchPoint("admit", min(4, most), n, longest, name) for n in _PROMPTS if n <= longest]
            points += [BenchPoint("prompt", 1, n, 0, name) for n in _PROMPTS if n <= longest]
    if as_engines:  # which move no caches about
        points += [BenchPoint("admit", min(4, most), n, 0) for n in _PROMPTS if n <= longest]
    chunks = sorted(_CHUNKS + _CHUNKS_BETWEEN) if gpu else _CHUNKS
    points += [BenchPoint("prefill", 1, n, c) for n in chunks if n <= longest for c in (0, longest)]
    points += [BenchPoint("loop", r, deepest + 1, 0) for r in fewer]
    return points + [BenchPoint("rule", r, deepest + 1, 0) for r in fewer]


def live_seconds(profile: Profile, name: str, drafter: Drafter, live: LivePass) -> float:
    """What a profile makes of the rounds of a live pass, in all."""
    cost = profile.cost(name, drafter.gamma, 1, drafter.gamma + 1)
    seconds, position = 0.0, live.prompt_tokens
    for r in live.rounds:
        seconds += cost.seconds(StepLoad(1, context_tokens=position), drafter.gamma, r.verified)
        position += r.committed
    return seconds


def device_name(target: Target) -> str:
    """The GPU's or the processor's name as it tells it."""
    if target.device.type == "cuda":
        return torch.cuda.get_device_name(target.device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU {names[0] if names else platform.processor() or platform.machine()}"


def _time(
    measured: Measured,
    variants: Mapping[str, Mapping[int, Drafter]],
    points: Sequence[BenchPoint],
    effort: Effort,
    watcher: Watcher,
    others: Sequence[Callable[[], None]],
    keep: Keep,
) -> tuple[Timed, dict[str, list[LivePass]]]:
    """The grid, and in each sweep over it a live pass of every drafter: under the same conditions."""
    live = ("none", *measured.drafters)

    def decode_with(name: str) -> Callable[[], LivePass]:
        drafter = measured.drafters.get(name) or NoDrafter()
        live_pass(measured.target, drafter, effort.seed)  # what is slow only the first time
        return partial(live_pass, measured.target, drafter, effort.seed)

    as_engines = effort.graphs and measured.target.device.type == "cuda"
    with reads_once(measured.target) if as_engines else nullcontext() as attention:
        timed = time_points(
            Bench(measured.target, variants, seed=effort.seed, graphs=effort.graphs, abreast=attention is not None),
            points,
            seconds=effort.time_limit_s,
            seed=effort.seed,
            advance=lambda share: watcher.advance("timing, % of the time", round(100 * share), 100),
            others=[*(decode_with(name) for name in live), *others],
            keep=keep,
        )
    passes = {name: [made for sweep in timed.others if (made := sweep[i]) is not None] for i, name in enumerate(live)}
    return replace(timed, attention=attention or timed.attention), passes


def _quality(
    profile: Profile,
    costs: Costs,
    timed: Timed,
    drafters: Mapping[str, Drafter],
    live: Mapping[str, Sequence[LivePass]],
) -> ProfileQuality:
    errors: defaultdict[str, list[float]] = defaultdict(list)
    for timing in timed.timings:
        seconds = predicted_seconds(profile, timing.point)
        if seconds is not None:
            part = timing.point.part
            errors[timing.point.drafter if part == "draft" else part].append(abs(seconds / timing.seconds - 1))
    hosts = host_seconds(timed.timings)
    most = max(hosts, default=1)
    cost = profile.cost("none", 0, most, most)
    for requests, seconds in hosts.items():
        step_s = cost.step(StepLoad.of(requests), 0, 0, Longest(0, 0)).overhead_s
        errors["loop"].append(abs(step_s / max(seconds, 1e-9) - 1))
    checks = {}
    for name, passes in live.items():
        drafter = drafters.get(name) or NoDrafter()
        rounds = [(p, max(len(p.rounds), 1)) for p in passes]
        predicted = [live_seconds(profile, name, drafter, p) / n for p, n in rounds]
        checks[name] = Live(float(np.median(predicted)), float(np.median([p.seconds / n for p, n in rounds])))
    spread = [t.spread for t in timed.timings]
    return ProfileQuality(
        (float(np.median(spread)), max(spread)),
        {part: (float(np.median(e)), max(e)) for part, e in errors.items()},
        costs.smoothed,
        checks,
        len(timed.timings),
        len(timed.left_out),
        timed.sweeps,
        timed.seconds,
    )


def _formats(drafters: Mapping[str, Drafter]) -> dict[str, str]:
    """How checkpoints were read."""
    read = {name: d for name, d in drafters.items() if isinstance(d, LearnedDrafter)}
    told = (f"{n}: {d.format} ({'; '.join(f'{k} {v}' for k, v in d.conventions.items())})" for n, d in read.items())
    return {"drafters": ". ".join(told)} if read else {}


def _provenance(measured: Measured, timed: Timed, effort: Effort, quality: ProfileQuality) -> dict[str, str]:
    """Where the numbers come from and how far they go, in words."""
    target, points = measured.target, [t.point for t in timed.timings]
    versions = package_versions()
    timed_at = {part: sorted({p.size for p in points if p.part == part}) for part in ("target", "prefill")}
    requests = sorted({p.requests for p in points})
    longest = max(p.context for p in points)
    worst = "; ".join(f"{part} {median:.1%} / {most:.1%}" for part, (median, most) in quality.errors.items())
    live = "; ".join(f"{n} {1e3 * c.predicted_s:.3g} / {1e3 * c.measured_s:.3g}" for n, c in quality.live.items())
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "weights": measured.weights,
        **_formats(measured.drafters),
        "dtype": str(target.dtype).removeprefix("torch."),
        "timing": timed.method,
        "attention": timed.attention,
        "host": "of the project's own loop" + (", with models that take no time" if timed.captured else ""),
        "sampling": "temperature 1, neither top-k nor top-p; on every verified token, part of the target pass",
        "versions": ", ".join(f"{p} {versions[p]}" for p in ("specyard", "torch", "transformers", "numpy"))
        + f", Python {platform.python_version()}" + _cuda_versions(target),
        "grid": f"target {_span(timed_at['target'])} tokens, {_span(requests)} requests, contexts "
        f"to {longest}, prompt chunks {_span(timed_at['prefill'])}; {counted(len(points), 'shape')}, "
        f"{timed.sweeps} sweeps in random orders, seed {effort.seed}, {timed.seconds:.0f} s"
        + (f" in {timed.sittings} sittings" if timed.sittings > 1 else "") + "; medians",
        "left out": f"{len(timed.left_out)} large shapes, for want of time or memory",
        "spread": "median absolute deviation of a shape's repetitions, median / worst: "
        f"{quality.spread[0]:.1%} / {quality.spread[1]:.1%}",
        "fit": f"relative error of the profile against its points, median / worst: {worst}",
        "smoothing": f"curves made to rise (isotonic), which changed a point by {quality.smoothed:.1%} at most",
        "live check": f"ms of a round of one request, predicted / decoded eagerly in the same run: {live}",
        "eager": "prompt chunks: logits of the last token only, so a mixed step's sampling of the others is left out",
        "memory": "given" if effort.memory_gb else "half of the free memory" if target.device.type == "cpu" else
        f"{_GPU_MEMORY_SHARE} of the GPU's less weights of target and drafters",
        "commit": git_revision() or "not in a checkout",
    }  # fmt: skip
    return {k: v for k, v in found.items() if k != "left out" or timed.left_out}


def _cuda_versions(target: Target) -> str:
    """CUDA's and the driver's, where a GPU runs the target."""
    if target.device.type != "cuda":
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return f", CUDA {torch.version.cuda}, driver {driver}"


def _variants(drafter: Drafter, others: Iterable[Drafter]) -> dict[int, Drafter]:
    """The drafter at one drafted token and at its own γ; those that draft token by token at the largest γ of all."""
    deepest = drafter.gamma if KINDS[drafter.kind].one_pass else max(d.gamma for d in others)
    variants: dict[int, Drafter] = {}
    for gamma in (1, deepest):
        variants[gamma] = copy.copy(drafter)  # weights stay shared
        variants[gamma].gamma = gamma
    return variants


def _kv_capacity(target: Target, drafters: Iterable[Drafter], memory_gb: float | None) -> int:
    """Context tokens whose keys and values fit: of the target, whose cache is by far the largest."""
    cache = target.new_cache(1, 2)
    with torch.inference_mode():
        ids = torch.zeros(1, 2, dtype=torch.int64, device=target.device)
        target.forward(ids, Positions.of([0], 2, target.device), cache, slice(0, 1), ())
    token_bytes = cache.kv.token_bytes
    if memory_gb is not None:
        room = memory_gb * 1e9
    elif target.device.type == "cuda":
        modules = [target.model, *(d for d in drafters if isinstance(d, LearnedDrafter))]
        weights = {p.data_ptr(): p.nbytes for module in modules for p in module.parameters()}
        memory = torch.cuda.get_device_properties(target.device).total_memory
        room = memory * _GPU_MEMORY_SHARE - sum(weights.values())
    else:
        room = _free_bytes() * _CPU_MEMORY_SHARE
    if room < token_bytes:
        raise InputError(f"--memory-gb: one token's keys and values are {token_bytes} bytes, more than there is room for")
    return int(room // token_bytes)


def _free_bytes() -> int:
    """Memory that programs can still get: free, and what the system caches of files."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return MACHINE_BYTES


def _resolved(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """On a CPU one thread, as recorders have, which keeps the memory it frees."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
        keep_memory()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_memory() -> None:
    """Tell glibc, where that is what there is, not to give freed memory back to the system, from now on.

    By default a pass of some ten megabytes gets them anew each time or keeps them, as the heap happens to lie: the same pass
    then takes 40 ms or 65 ms, for minutes on end.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**30)


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]} to {counts[-1]}" if counts else "no"
