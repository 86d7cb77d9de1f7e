"""Step times from datasheets: every kernel takes the longer of its arithmetic and its memory traffic.

    t(B) = Σ over kernels max(FLOPs / (peak · efficiency), bytes / (bandwidth · efficiency)) + launches + all-reduces

Weights are read once a pass, whatever B; of E experts with k active, B tokens load E·(1 − (1 − k/E)^B); a request's keys and
values are read once a step. Activations are not counted. docs/hardware.md says how far from measurements this is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.drafter_kinds import FREE, KINDS
from simulator.errors import InputError, NoSuchLayout
from simulator.hardware.cost import Seconds
from simulator.hardware.graphs import CAPTURED, captured_sizes
from simulator.hardware.model import DENSE_KERNELS, FORMAT_BYTES, MARKOV_RANK, Attention, Format, Model
from simulator.hardware.profile import LAUNCH_S, Curve, DraftCurve, Launches, Profile

DRAFTED = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
_LARGE = 2048
"""Tokens of a large pass."""
MOST_GPUS = 128
LONGEST_CONTEXT = 1 << 24
"""Tokens of a context that no model has more of."""


def _grid(last: int, steps: int) -> tuple[int, ...]:
    """Whole numbers from 1 to `last`, `steps` to a doubling."""
    return tuple(sorted({round(2 ** (i / steps)) for i in range(int(np.log2(last)) * steps + 1)}))


TOKENS, REQUESTS = _grid(16384, 8), _grid(4096, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as its datasheet has it: dense rates, without sparsity."""

    name: str
    bf16_flops: float
    """Per second, accumulated in 32 bits."""
    fp8_flops: float | None
    """Per second; None where there are no FP8 tensor cores: FP8 and FP4 weights are then multiplied in bf16."""
    bandwidth_bytes: float
    """Per second."""
    memory_bytes: float
    link_bytes: float
    """Per second to the other GPUs, one direction."""
    source: str

    def flops(self, kind: Format) -> float:
        """Dense peak for weights of this format. FP4 weights meet FP8 activations: they run at the FP8 rate. Those of int4
        meet bf16 ones."""
        return self.bf16_flops if kind in ("bf16", "int4") or self.fp8_flops is None else self.fp8_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What no datasheet says. Set once on Qwen3-8B on one H100 (docs/hardware.md); the rest is the check."""

    bandwidth_efficiency: float = 0.8
    matmul_efficiency: float = 0.6
    attention_efficiency: float = 0.5
    """Share of the bf16 peak that prefill's attention reaches."""
    kernel_s: float = 2e-6
    """Between two kernels of a CUDA graph."""
    launch_s: float = LAUNCH_S
    """Launching a kernel outside of a graph."""
    all_reduce_s: float = 10e-6
    """Latency of one, two a layer; the bytes come on top."""
    logit_passes: int = 6
    """Passes over 32-bit logits: temperature, maximum, sum, normalise, draw, compare."""
    overhead_s: float = 0.5e-3
    """Host work of a step that is not hidden behind the GPU."""
    routing_shape: float = 0.7
    """How evenly experts are chosen: popularities are gamma distributed with this shape, 1 for exponential ones. Even ones
    load nearly all experts at tens of tokens, which V4-Flash's passes on four B300 do not show."""
    mixture_share_per_token: float = 1 / 1024
    """What each further token adds to a mixture's pass, of one over a single token, beside arithmetic and weights: routing,
    small matrices, uneven experts. Set on DeepSeek-V4-Flash on four B300 (20.6 ms at 1,024 tokens) alone."""
    overhead_s_per_request: float = 5e-6
    idle_share: float = 0.07
    """Keeping a drafter's state in step while nothing is drafted: 4 to 11 % of a step were seen in vLLM."""
    deciding_share: float = 0.05
    """Deciding by confidences, and ragged passes. Where both verify nearly all, vLLM's adaptive verification gave 5 to 8 %
    less than a fixed block on 8 MI355X (vllm#52362, 4 to 32 users), and 2 % less to 1 % more on 4 B300 (vLLM blog of
    2026-08-14)."""
    memory_share: float = 0.9
    """Share of a GPU's memory for weights, activations and cache: vLLM's default."""
    reserve_bytes: float = 3e9
    """Bytes of each GPU's memory that activations and graphs take."""
    least_cache_share: float = 0.05
    """Least share of a GPU's memory for the cache; where less is left, twice the GPUs are taken."""
    context_tokens: int = 2048
    """At which caches and attention that do not grow evenly with the context are averaged, where nobody says."""


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs that split a model's matrices evenly: tensor parallelism."""

    device: Device
    gpus: int
    given: Assumptions

    @property
    def bandwidth(self) -> float:
        """Bytes per second that one GPU reads of its memory: the datasheet's, times the assumed efficiency."""
        return self.device.bandwidth_bytes * self.given.bandwidth_efficiency

    def matmul(self, kind: Format, used: npt.ArrayLike, loaded: npt.ArrayLike) -> Seconds:
        """Seconds of using so many parameters (counted once for each token that does) and loading so many."""
        arithmetic = 2 * np.asarray(used, np.float64) / (self.device.flops(kind) * self.given.matmul_efficiency)
        traffic = np.asarray(loaded, np.float64) * FORMAT_BYTES[kind] / self.bandwidth
        return np.maximum(arithmetic, traffic) / self.gpus

    def sampling(self, vocabulary: int, rows: Seconds) -> Seconds:
        """Every GPU samples over the whole vocabulary."""
        return self.given.logit_passes * (self.given.kernel_s + rows * vocabulary * 4 / self.bandwidth)

    def all_reduce(self, width: int, tokens: Seconds) -> Seconds:
        """A ring moves 2·(n − 1)/n of the activations, in bf16, over each link."""
        if self.gpus == 1:
            return np.zeros_like(tokens)
        moved = 2 * (self.gpus - 1) / self.gpus * tokens * width * 2
        return self.given.all_reduce_s + moved / self.device.link_bytes

    def layers(self, model: Model, attention: Attention, tokens: Seconds) -> Seconds:
        """A pass of so many tokens through layers of one kind, contexts left out."""
        dense = sum(
            self.matmul(model.dense_format, p * tokens, p) for p in (attention.projection_parameters, model.mlp_parameters)
        )
        used = model.active_experts * model.expert_parameters * tokens
        loaded = experts_loaded(model.experts, model.active_experts, tokens, self.given.routing_shape)
        loaded = loaded * model.expert_parameters
        experts = self.matmul(model.expert_format, used, loaded)
        launches = model.kernels_per_layer * self.given.kernel_s
        return attention.layers * (dense + experts + launches + 2 * self.all_reduce(model.width, tokens))

    def head(self, model: Model, tokens: Seconds) -> Seconds:
        """Logits, not yet sampled."""
        return self.matmul("bf16", model.head_parameters * tokens, model.head_parameters)

    def drawn(self, model: Model, tokens: Seconds) -> Seconds:
        """Logits and a draw from them."""
        return self.head(model, tokens) + self.sampling(model.vocabulary, tokens)

    def drawn_s_per_token(self, model: Model) -> float:
        """What they take for each further token of a large pass."""
        few, many = self.drawn(model, np.array([1.0, _LARGE]))
        return float(many - few) / (_LARGE - 1)

    def verify(self, model: Model, tokens: Seconds) -> Seconds:
        """The target pass, contexts left out, with logits for every token."""

        def alone(tokens: Seconds) -> Seconds:
            layers = sum(self.layers(model, a, tokens) for a in model.attention)
            return layers + self.drawn(model, tokens)

        return alone(tokens) + (
            self.given.mixture_share_per_token * (tokens - 1) * alone(np.ones(1)) if model.experts else 0.0
        )


def experts_loaded(experts: int, active: int, tokens: npt.ArrayLike, shape: float | None = None) -> Seconds:
    """The experts of a layer that at least one of B tokens is sent to, apart from each other.

    Routed evenly, E·(1 − (1 − k/E)^B). Where experts differ in how often they are chosen, by factors that are gamma
    distributed with a `shape`, E·(1 − (1 + B·k/(E·shape))^−shape): the mean over them of Poisson numbers of tokens.
    """
    rows = np.asarray(tokens, np.float64)
    if not experts:
        return np.zeros_like(rows)
    if shape is None:
        return np.asarray(experts * (1 - (1 - active / experts) ** rows), np.float64)
    few = 1 - (1 + active / experts / shape) ** -shape  # one token is sent to k experts, and no more
    loaded = active / few * (1 - (1 + rows * active / experts / shape) ** -shape)
    return np.asarray(np.minimum(loaded, experts), np.float64)


def cache_bytes_per_token(model: Model, context: int) -> float:
    """Memory of a token's keys and values, on average over a context."""
    return sum(a.held_bytes(context) for a in model.attention) / context * model.kv_padding


def kv_capacity_tokens(device: Device, model: Model, gpus: int, given: Assumptions, drafter: str = "none") -> int:
    """(memory · share − weights − reserve) / bytes of a token, a drafter's included; below 1 where it does not fit."""
    weights, context = model.weight_bytes + model.drafter_bytes(drafter), given.context_tokens
    room = device.memory_bytes * given.memory_share - weights / gpus - given.reserve_bytes
    token = cache_bytes_per_token(model, context) + model.drafter_cache_bytes(drafter, context)
    return math.floor(room * min(gpus, model.kv_shards) / token)


def gpus_needed(device: Device, model: Model, given: Assumptions) -> int:
    """The fewest GPUs, 1, 2, 4, …, that hold the weights, the largest drafter's too, leave a share of the memory for the
    cache, and can share out the model. Raises InputError where none do."""
    room = device.memory_bytes * (given.memory_share - given.least_cache_share) - given.reserve_bytes
    weights = model.weight_bytes + max(map(model.drafter_bytes, KINDS))
    holding = [gpus for i in range(MOST_GPUS.bit_length()) if weights / (gpus := 1 << i) <= room]
    if not holding:
        raise NoSuchLayout(f"hardware: {_too_large(device, model, MOST_GPUS, given)}")
    if even := [gpus for gpus in holding if not model.uneven(gpus)]:
        return even[0]
    raise InputError(
        f"hardware: {model.name} takes {holding[0]} × {device.name}, and {holding[0]} {model.uneven(holding[0])}: engines "
        "refuse it; say --tp where a small cache is enough"
    )


def _too_large(device: Device, model: Model, gpus: int, given: Assumptions) -> str:
    """That a model does not fit on so many GPUs, and what would."""
    sizes = [1 << i for i in range(MOST_GPUS.bit_length()) if 1 << i > gpus]
    enough = [n for n in sizes if kv_capacity_tokens(device, model, n, given) >= 1 and not model.uneven(n)]
    found = [f"--tp {enough[0]}"] if enough else []
    in_fp8 = replace(model, dense_format="fp8", expert_format="fp8")
    if in_fp8.weight_bytes < 0.9 * model.weight_bytes and kv_capacity_tokens(device, in_fp8, gpus, given) >= 1:
        found.append("--weights fp8")
    each = f"{model.weight_bytes / 1e9:,.0f} GB of weights"
    return f"{model.name} does not fit on {gpus} × {device.name}: it has {each}" + (
        f"; {' or '.join(found)} fits" if found else ""
    )


def roofline(
    device: Device, model: Model, *, name: str, gpus: int | None = None, given: Assumptions | None = None
) -> Profile:
    """The profile of a model on a device, on the fewest GPUs that hold it unless told; sizes are captured as vLLM does.

    Raises InputError where no GPUs hold it.
    """
    given = given or Assumptions()
    gpus = gpus or gpus_needed(device, model, given)
    capacity = kv_capacity_tokens(device, model, gpus, given)
    if capacity < 1:
        raise NoSuchLayout(f"hardware {name}: {_too_large(device, model, gpus, given)}")
    machine = Machine(device, gpus, given)
    context = given.context_tokens
    shards = min(gpus, model.kv_shards)
    read = sum(a.read_bytes(context) for a in model.attention) / context
    flops = sum(a.flops(context) for a in model.attention) / context
    return Profile(
        name=name,
        device=device.name,
        model=model.name,
        source="roofline",
        provenance=_provenance(device, model, gpus, given),
        kv_capacity_tokens=capacity,
        kv_capacity_by_drafter={
            kind: max(kv_capacity_tokens(device, model, gpus, given, kind), 0) for kind in KINDS if model.drafter_bytes(kind)
        },
        verify=Curve(TOKENS, tuple(machine.verify(model, np.array(TOKENS, np.float64)).tolist())),
        draft=_drafts(machine, model),
        free_drafters=FREE,
        mean_context_tokens=0 if all(a.even for a in (*model.attention, model.drafters.attention)) else context,
        gpus=gpus,
        overhead_s=given.overhead_s,
        overhead_s_per_request=given.overhead_s_per_request,
        idle_share=given.idle_share,
        deciding_share=given.deciding_share,
        context_s_per_token=read / machine.bandwidth / shards,
        prefill_s_per_pair=flops / (device.bf16_flops * given.attention_efficiency) / gpus,
        logits_s_per_token=machine.drawn_s_per_token(model),
        captured_tokens=captured_sizes(CAPTURED),
        launches=Launches(kernels=model.layers * model.kernels_per_layer, each_s=given.launch_s),
    )


def _drafts(machine: Machine, model: Model) -> dict[str, DraftCurve]:
    attention, context = model.drafters.attention, machine.given.context_tokens
    shards = min(machine.gpus, model.kv_shards)
    deep = attention.read_bytes(context) / context / machine.bandwidth / shards
    eagle = model.drafters.eagle_entry_bytes / machine.bandwidth / shards
    requests = np.array(REQUESTS, np.float64)

    def curves(drafter: str) -> tuple[Curve, ...]:
        times = (draft_seconds(machine, model, drafter, drafted, requests) for drafted in DRAFTED)
        return tuple(Curve(REQUESTS, tuple(t.tolist())) for t in times)

    reading = {"dspark": deep, "dflash": deep, "eagle3": eagle, "mtp": deep / attention.layers}
    return {kind: DraftCurve(DRAFTED, curves(kind), KINDS[kind].one_pass, read_s) for kind, read_s in reading.items()}


def draft_seconds(machine: Machine, model: Model, drafter: str, drafted: int, requests: Seconds) -> Seconds:
    """Drafting so many tokens for each of R requests, contexts left out.

    Block drafters: features of the last round's R·(γ + 1) tokens, one pass of R·γ tokens, head; DSpark then goes left to
    right, each token a low-rank product [R, r]·[r, V], the logits read and written once more, and a draw. Autoregressive
    drafters: one pass over the last round's tokens, γ − 1 passes of R, and for every token head and draw.
    """
    known, block = requests * (drafted + 1), requests * drafted
    square = model.width**2
    if KINDS[drafter].one_pass:
        layers = model.of_block_drafters
        features = machine.matmul(layers.dense_format, model.drafters.taps * square * known, model.drafters.taps * square)
        passed = machine.layers(layers, model.drafters.attention, block)
        logits = features + passed + machine.head(model, block)
        if drafter == "dflash":
            return logits + machine.sampling(model.vocabulary, block)
        markov = MARKOV_RANK * model.vocabulary
        bias = machine.matmul("bf16", markov * requests, markov) + requests * model.vocabulary * 8 / machine.bandwidth
        return logits + drafted * (bias + 3 * machine.given.kernel_s + machine.sampling(model.vocabulary, requests))
    passes = _one_layer(machine, model, drafter, known) + (drafted - 1) * _one_layer(machine, model, drafter, requests)
    return passes + drafted * (machine.head(model, requests) + machine.sampling(model.vocabulary, requests))


def _one_layer(machine: Machine, model: Model, drafter: str, tokens: Seconds) -> Seconds:
    """Eagle3's layer behind nothing; MTP's layer behind W [norm(h) ; norm(embedding)]."""
    if drafter == "eagle3":
        launches = DENSE_KERNELS * machine.given.kernel_s + 2 * machine.all_reduce(model.width, tokens)
        return machine.matmul("bf16", model.drafters.eagle_parameters * tokens, model.drafters.eagle_parameters) + launches
    joint, own = 2 * model.width**2, model.of_mtp
    layers = machine.layers(own, model.drafters.attention, tokens) / model.drafters.attention.layers
    return layers + machine.matmul(own.dense_format, joint * tokens, joint)


def _provenance(device: Device, model: Model, gpus: int, given: Assumptions) -> dict[str, str]:
    low = sorted({model.dense_format, model.expert_format if model.experts else model.dense_format} - {"bf16"})
    lacking = low and device.fp8_flops is None
    return {
        "method": "roofline, simulator/hardware/roofline.py; nothing here was measured on this device",
        "device": device.source,
        "model": model.source,
        "weights": f"{' and '.join(low) or 'bf16'}, {model.weight_bytes / 1e9:.1f} GB; drafters beside: "
        + ", ".join(f"{kind} {bytes_ / 1e9:.1f} GB" for kind in KINDS if (bytes_ := model.drafter_bytes(kind)))
        + (f"; no FP8 tensor cores: {' and '.join(low)} weights are multiplied at the bf16 rate" if lacking else ""),
        "parallelism": f"tensor parallel over {gpus}, even split, all links as fast as the datasheet's"
        + ("; cache replicated on every GPU" if gpus > 1 and model.kv_shards == 1 else ""),
        "graphs": "sizes as vLLM captures them; outside of them a pass launches its kernels one by one, and a share of them "
        "for a prompt inside: assumed",
        "assumptions": ", ".join(f"{f} {getattr(given, f):g}" for f in Assumptions.__slots__),
    }
