"""A target and its drafters, as far as a roofline depends on them: parameters, number formats, and what a cache holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Format = Literal["bf16", "fp8", "fp4", "int4"]
FORMAT_BYTES: dict[Format, float] = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5 + 1 / 32, "int4": 0.5 + 2.5 / 128}
"""Bytes of a parameter; fp4 carries one byte of scale for 32 (MXFP4), int4 a scale and a zero for 128 (AWQ, GPTQ)."""

DENSE_KERNELS = 8
"""Kernels of a dense layer: two norms, two projections, attention, gate and up, activation, down."""
MARKOV_RANK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Layers of one kind. A token attends to the last `window` tokens and to one entry for every `ratio` older tokens."""

    layers: int
    heads: int
    head_dim: int
    projection_parameters: int
    """Parameters of one layer's projections."""
    entry_bytes: float
    """Keys and values of one entry in one layer, over all heads."""
    window: int = 0
    """Tokens kept one by one however long the context; 0: none."""
    ratio: int = 1
    """Tokens to an entry; 0: nothing is kept beyond the window."""
    selected: int = 0
    """Entries a token attends to at most, chosen by an index; 0: all."""
    index_bytes: float = 0.0
    """Bytes of one entry in the index, which is read as a whole."""
    index_flops: float = 0.0
    """Floating-point operations that score one entry in the index."""

    def _entries(self, context: float) -> tuple[float, float]:
        """Entries held beyond the window, and those attended to."""
        held = context / self.ratio if self.ratio else 0.0
        return held, min(held, self.selected) if self.selected else held

    @property
    def even(self) -> bool:
        """Whether what is held of a context and read of it grows evenly with it."""
        return not self.window and self.ratio == 1 and not self.selected

    def held_bytes(self, context: float) -> float:
        """Cache of a request of so many tokens."""
        held, _ = self._entries(context)
        return self.layers * (min(context, self.window) * self.entry_bytes + held * (self.entry_bytes + self.index_bytes))

    def read_bytes(self, context: float) -> float:
        """Cache read once."""
        held, attended = self._entries(context)
        return self.layers * ((min(context, self.window) + attended) * self.entry_bytes + held * self.index_bytes)

    def flops(self, context: float) -> float:
        """Scores and values of one token: 4 · heads · head_dim for every entry, and the index."""
        held, attended = self._entries(context)
        entries = min(context, self.window) + attended
        return self.layers * (4 * self.heads * self.head_dim * entries + held * self.index_flops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafters:
    """What the drafters of a target are made of."""

    attention: Attention
    """Attention of DSpark and DFlash, whose depth is its `layers`; MTP has one such layer, with the target's MLP."""
    taps: int
    """Target layers whose output DSpark and DFlash read."""
    eagle_parameters: int
    """Parameters of Eagle3's one layer, attention over [embedding ; feature] and MLP, in bf16."""
    eagle_entry_bytes: float
    """Bytes of Eagle3's keys and values of one token."""
    mlp_parameters: int | None = None
    """Parameters of a layer's MLP in DSpark and DFlash where it is dense beside a mixture; None: it is the target's."""
    within: bool = False
    """Whether all come in the target's own checkpoint, and in its formats."""


@dataclass(frozen=True, slots=True)
class Width:
    """Columns of MLPs or experts that GPUs share out."""

    what: str
    """MLPs or experts."""
    columns: int
    block: int = 1
    """Columns that share a scale, and stay together on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A target, as far as time and memory depend on it."""

    name: str
    width: int
    vocabulary: int
    tied_head: bool
    """Whether the head is the embedding, held once."""
    attention: tuple[Attention, ...]
    mlp_parameters: int
    """Parameters of one layer's dense MLP, or of its router and shared expert."""
    experts: int = 0
    active_experts: int = 0
    expert_parameters: int = 0
    """Parameters of one expert in one layer."""
    dense_format: Format = "bf16"
    expert_format: Format = "bf16"
    cache_format: Format = "bf16"
    """Format of the entries' bytes."""
    quantised: str = ""
    """How the checkpoint's own weights are quantised, whatever they are taken for here; empty where they are not."""
    kv_shards: int
    """GPUs the cache can be split over: its key-value heads. Beyond that every GPU holds and reads a copy."""
    widths: tuple[Width, ...] = ()
    """What GPUs share out beside heads; empty where nobody says."""
    kv_padding: float = 1.0
    """Memory an engine takes for the cache, over the bytes of its entries."""
    kernels_per_layer: int = DENSE_KERNELS
    drafters: Drafters
    source: str

    @property
    def layers(self) -> int:
        return sum(a.layers for a in self.attention)

    def uneven(self, gpus: int) -> str:
        """What so many GPUs cannot share out, said of their count; empty where engines start on them.

        As vLLM has it: heads are dealt out; key-value heads are too, or each is copied to as many GPUs; blocks of quantised
        weights are not cut.
        """
        if heads := next((a.heads for a in self.attention if a.heads % gpus), 0):
            return f"does not divide the {heads} heads of {self.name}"
        if self.kv_shards % gpus and gpus % self.kv_shards:
            return f"neither divides the {self.kv_shards} key-value heads of {self.name} nor is a multiple of them"
        for width in self.widths:
            if width.columns % (gpus * width.block):
                blocks = f" into whole blocks of {width.block}" if width.block > 1 else ""
                return f"does not divide the {width.columns:,} columns of the {width.what} of {self.name}{blocks}"
        return ""

    @property
    def of_block_drafters(self) -> Model:
        """A model of the layers that DSpark and DFlash have: in bf16, as their own checkpoints are."""
        own = self if self.drafters.within else replace(self, dense_format="bf16", expert_format="bf16")
        if self.drafters.mlp_parameters is None:
            return own
        return replace(own, mlp_parameters=self.drafters.mlp_parameters, experts=0, active_experts=0, expert_parameters=0)

    @property
    def of_mtp(self) -> Model:
        """A model of the layer that MTP has: as the target, with which it comes, in FP8 or with experts in MXFP4 too; in
        bf16 beside dense matrices of four bits, which others made afterwards."""
        follows = self.drafters.within or self.dense_format in ("bf16", "fp8")
        return self if follows else replace(self, dense_format="bf16", expert_format="bf16")

    @property
    def head_parameters(self) -> int:
        return self.width * self.vocabulary

    def layer_bytes(self, attention: Attention) -> float:
        """Weights of layers of one kind."""
        dense = (attention.projection_parameters + self.mlp_parameters) * FORMAT_BYTES[self.dense_format]
        return attention.layers * (dense + self.experts * self.expert_parameters * FORMAT_BYTES[self.expert_format])

    @property
    def parameters(self) -> int:
        layer = self.mlp_parameters + self.experts * self.expert_parameters
        projections = sum(a.layers * a.projection_parameters for a in self.attention)
        return projections + self.layers * layer + self.head_parameters * (1 if self.tied_head else 2)

    @property
    def active_parameters(self) -> int:
        """Multiplied for one token, head included, embedding not."""
        layer = self.mlp_parameters + self.active_experts * self.expert_parameters
        projections = sum(a.layers * a.projection_parameters for a in self.attention)
        return projections + self.layers * layer + self.head_parameters

    @property
    def weight_bytes(self) -> float:
        """Bytes of the target's weights; embedding and head in bf16."""
        head = self.head_parameters * (1 if self.tied_head else 2) * FORMAT_BYTES["bf16"]
        return sum(self.layer_bytes(a) for a in self.attention) + head

    def drafter_bytes(self, drafter: str) -> float:
        """Bytes of a kind's weights beside the target's, whose embedding and head they share; of no other kinds 0."""
        deep, bf16 = self.drafters.attention, FORMAT_BYTES["bf16"]
        block, mtp = self.of_block_drafters, self.of_mtp
        match drafter:
            case "dspark":
                return self.drafter_bytes("dflash") + 2 * MARKOV_RANK * self.vocabulary * bf16
            case "dflash":
                return block.layer_bytes(deep) + self.drafters.taps * self.width**2 * FORMAT_BYTES[block.dense_format]
            case "eagle3":
                return self.drafters.eagle_parameters * bf16
            case "mtp":
                return mtp.layer_bytes(deep) / deep.layers + 2 * self.width**2 * FORMAT_BYTES[mtp.dense_format]
        return 0.0

    def drafter_cache_bytes(self, drafter: str, context: int) -> float:
        """Memory of a token's keys and values in a kind's own layers, on average over a context."""
        deep = self.drafters.attention
        match drafter:
            case "dspark" | "dflash":
                return deep.held_bytes(context) / context * self.kv_padding
            case "eagle3":
                return self.drafters.eagle_entry_bytes * self.kv_padding
            case "mtp":
                return deep.held_bytes(context) / context / deep.layers * self.kv_padding
        return 0.0
