"""What a published format is: it recognises a checkpoint by its files, and says in our terms what they declare."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, get_args

from drafters.configs import of_another_target
from drafters.families.layers import LayerShape
from drafters.families.registry import read_shape
from drafters.formats.files import Checkpoint, bare
from drafters.kinds.settings import BlockSettings, ConfidenceInput, HeadType, PairSettings, conventions, marked
from simulator.records import MAX_GAMMA

Names = Callable[[str], str | None]
"""The name of a tensor on disk to the name that ours has; None for what computes nothing."""


class TargetFacts(NamedTuple):
    """What a format needs to know of the target."""

    hidden_size: int
    vocab_size: int
    num_layers: int
    architecture: str = "?"
    name: str = ""
    """What it is called: a folder, or the hub's id."""
    max_positions: int | None = None
    """The longest context that it knows."""
    scales: bool = False
    """Whether its embeddings are its table's times a factor."""
    beyond: int = 0
    """By how many layers declared taps may miss the target: 1 for who asks whether they are counted otherwise."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a checkpoint declares."""

    format: str
    """The format's name, for people."""
    settings: PairSettings | BlockSettings
    core: str
    """Which of `formats.registry` builds it."""
    gamma: int
    """Tokens that it drafts where nobody says: its author's γ."""
    names: Names
    trained_for: str | None = None
    """Architecture of the target that it names."""
    assumed: frozenset[str] = frozenset()
    """Conventions that its files have a field for, and leave out: by their words in `kinds.settings.conventions`, and γ."""
    verifier: str = ""
    """The target that it names; empty where it names none."""

    @property
    def conventions(self) -> dict[str, str]:
        """How it is read, in words, γ first."""
        return {"γ": marked("γ", self.gamma, self.assumed), **conventions(self.settings, self.assumed)}


@dataclass(frozen=True, slots=True)
class Format:
    """A published format."""

    name: str
    recognises: Callable[[Checkpoint], bool]
    read: Callable[[Checkpoint, TargetFacts], Declared]
    """Raises InputError, naming the field."""


class Fields:
    """Fields of a configuration, looked up in several places and checked. Raises InputError, naming the field."""

    def __init__(self, of: Checkpoint, *places: Mapping[str, Any]) -> None:
        """`places` in the order of precedence."""
        self._of, self._places = of, places
        self.missing: set[str] = set()
        """Fields that were asked for, and are not there."""

    def get(self, name: str, default: Any = None) -> Any:
        """A field, null and an empty list being as good as missing."""
        return next((p[name] for p in self._places if p.get(name) not in (None, [])), default)

    def _or(self, name: str, default: Any) -> Any:
        if self.get(name) is None:
            self.missing.add(name)
        return self.get(name, default)

    def has(self, name: str) -> bool:
        """Whether a field is there at all."""
        return any(name in place for place in self._places)

    def whole(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 31) -> int:
        """A whole number; without a default it must be there."""
        for place in self._places:
            if name in place:
                value = place[name]
                if value is None and default is not None:
                    continue
                break
        else:
            if default is None:
                raise self._of.fail(f"config.json lacks {name}")
            value = self._or(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._of.fail(f"{name} must be a whole number from {least} to {most}, got {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._or(name, default)
        if not isinstance(value, bool):
            raise self._of.fail(f"{name} must be true or false, got {value!r}")
        return value

    def choice(self, name: str, options: Sequence[str], default: str) -> Any:
        """One of some words."""
        value = self._or(name, default)
        if value not in options:
            raise self._of.fail(f"{name} {value!r} is not one of {', '.join(options)}")
        return value

    def number(self, name: str) -> float | None:
        """A positive number, or none."""
        value = self._or(name, None)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self._of.fail(f"{name} must be a positive number, got {value!r}")
        return float(value)

    def layers(self, names: Sequence[str], *, offset: int, default: Sequence[int], target: TargetFacts) -> tuple[int, ...]:
        """Tapped layers in our terms: output of the target's layer, −1 the embeddings.

        `offset` 1: ids count layers' outputs; 0: ids count what enters layers, so that id 0 is the embeddings.
        """
        name = next((n for n in names if self.get(n) is not None), names[0])
        ids = self._or(name, list(default))
        own = offset - 1
        least, most, off = -1 - own, target.num_layers - 1 - own, target.beyond
        fits = isinstance(ids, list) and ids and all(type(i) is int and least - off <= i <= most + off for i in ids)
        if name in self.missing and default and (not fits or len(set(ids)) < len(ids)):
            raise self._of.fail(
                f"config.json names no taps, and those usual then, {ids}, are not layers of a target of {target.num_layers}"
            )
        if not fits or len(set(ids)) < len(ids):
            raise self._of.fail(f"{name} {ids!r} must be layers of the target, {least} to {most}, each once")
        return tuple(i + own for i in sorted(ids))  # engines put them side by side as the target passes them

    def gamma(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """How many tokens are drafted, or slots a block has."""
        return self.whole(name, default, least=least, most=MAX_GAMMA)


def no_other_taps(of: Checkpoint, read: str) -> None:
    """Raise InputError where nothing that is read says the taps, and a field that is not seems to."""
    places = {"": of.raw, **{f"{name}.": part for name, part in of.raw.items() if isinstance(part, Mapping)}}
    for place, fields in places.items():
        for name, ids in fields.items():
            if name.endswith(("layer_ids", "layers_ids")) and isinstance(ids, list) and ids:
                raise of.fail(f"{place}{name} seems to say the taps {ids}, and is not read in this format; {read} is")


def nested_in(of: Checkpoint, field: str, within: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """An object within the configuration, or `within` a part of it; empty where there is none.

    Raises InputError where it is something else.
    """
    value = (of.raw if within is None else within).get(field) or {}
    if not isinstance(value, Mapping):
        raise of.fail(f"{field} must be an object")
    return value


_WORDS: Final[Mapping[str, str]] = {
    "eagle_aux_hidden_state_layer_ids": "taps", "aux_hidden_state_layer_ids": "taps", "target_layer_ids": "taps",
    "layer_ids": "taps", "sample_from_anchor": "layout", "sliding_window_non_causal": "inside the block", "block_size": "γ",
    "norm_before_residual": "residual", "norm_output": "fed back", "speculative_tokens": "γ", "mtp_length": "γ",
    "input_embedding_scale": "embeddings",
}  # fmt: skip
"""Fields, and the conventions that they say."""


def assumed(layer: Mapping[str, Any], *fields: Fields) -> frozenset[str]:
    """Conventions that no field says, in words: of those asked for, and of the configuration of the layers."""
    left_out = {_WORDS[name] for one in fields for name in one.missing if name in _WORDS}
    parameters = layer.get("rope_parameters")
    nested = [parameters, *parameters.values()] if isinstance(parameters, Mapping) else []
    places = [place for place in [layer, *nested, layer.get("rope_scaling")] if isinstance(place, Mapping)]
    # A factor that the code of the layers does not look at may have been meant.
    partial = any(place.get("partial_rotary_factor") not in (None, 1) for place in places)
    if partial or not any("rope_theta" in place for place in places):
        left_out.add("rotary")
    return frozenset(left_out)


def check_target(of: Checkpoint, fields: Fields, target: TargetFacts, *names: str) -> None:
    """Raise InputError where configuration alone tells that a checkpoint was trained for another target."""
    own = {"vocab_size": target.vocab_size, "hidden_size": target.hidden_size, "num_target_layers": target.num_layers}
    for name in names:
        value = fields.get(name)
        if value is not None and value != own[name]:
            raise of.fail(of_another_target(name, value, own[name]))


def draft_vocabulary(of: Checkpoint, fields: Fields, target: TargetFacts) -> int:
    """V_d, by the table that says which tokens these are where no field does; a smaller one needs that table, or marks of
    the tokens that it drafts (`t2d`), which are then drafted in the order of their ids."""
    marked_alone = bool(of.has("t2d")) and not of.has("d2t")
    rows = of.shape("lm_head.weight")[:1] if marked_alone else ()
    size = fields.whole("draft_vocab_size", (*of.shape("d2t"), *rows, target.vocab_size)[0])
    if size > target.vocab_size:
        raise of.fail(f"draft_vocab_size is {size}, but the target has {target.vocab_size} tokens")
    if size < target.vocab_size and of.has("d2t") is False and not marked_alone:
        raise of.fail(f"has no tensor d2t, which says which {size} of the target's {target.vocab_size} tokens it drafts")
    return size


def head_of(fields: Fields, of: Checkpoint) -> Any:
    """Whose output projection serves where the files hold none."""
    tied = fields.flag("tie_word_embeddings", False) and of.has("embed_tokens.")
    return "own embedding" if tied else "target"


def shape_of(of: Checkpoint, config: Mapping[str, Any]) -> LayerShape:
    """The layers' shape.

    Tensors say how many there are and how wide heads are where no field does, and are right about norms of queries and keys,
    which Qwen3's layers have and Llama's have not, and about biases.
    """
    numbers = [int(found[1]) for name in of.tensors or () if (found := re.match(r"layers\.(\d+)\.", bare(name)))]
    if numbers and config.get("num_hidden_layers") is None:
        config = {**config, "num_hidden_layers": max(numbers) + 1}
    if config.get("head_dim") is None and (width := _head_dim(of, config)):
        config = {**config, "head_dim": width}
    shape = read_shape(config, of.name)
    if any(config.get(name) is False for name in ("is_neox_style", "rope_is_neox_style")):
        shape = replace(shape, rotary={**shape.rotary, "interleaved": True})
    if of.tensors is None or shape.family not in ("llama", "qwen3"):
        return shape
    family = "qwen3" if any(".q_norm." in name for name in of.tensors) else "llama"
    biased = [any(name.endswith(f".{part}_proj.bias") for name in of.tensors) for part in "qo"]
    return replace(shape, family=family, attention_bias=biased[0], output_bias=biased[1])


def _head_dim(of: Checkpoint, config: Mapping[str, Any]) -> int | None:
    """Width of a head, by the rows of the queries' projection; None where no tensor or no number of heads tells."""
    rows = next((shape[0] for name, shape in (of.tensors or {}).items() if name.endswith(".self_attn.q_proj.weight")), 0)
    heads = config.get("num_attention_heads")
    return rows // heads if isinstance(heads, int) and heads > 0 and rows and rows % heads == 0 else None


def fused_size(of: Checkpoint, taps: int, declared: int, target: TargetFacts) -> int:
    """Width of a tap, by the projection's tensor where there is one. Raises InputError where it is not the target's."""
    columns = of.shape("fc.weight")
    size = columns[1] // taps if len(columns) == 2 else declared
    if size != target.hidden_size:
        raise of.fail(
            f"reads {taps} taps {size} wide, but the target's are {target.hidden_size}: another target, or other taps"
        )
    return size


def markov_of(of: Checkpoint, fields: Fields, default: int | None = None) -> tuple[int, HeadType]:
    """Rank and type of the sequential head; where a format lets it be left out, its tensor says the rank, else `default`."""
    if default is not None:
        default = (*of.shape("markov_head.markov_w1.weight")[1:], default)[0]
    rank = fields.whole("markov_rank", default, least=0, most=1 << 16)
    head: HeadType = fields.choice("markov_head_type", get_args(HeadType), "vanilla") if rank else "vanilla"
    return rank, head


def confidence_of(of: Checkpoint, fields: Fields, rank: int, *, on: bool, joined: bool) -> ConfidenceInput:
    """What the confidence head reads; where no field says it, its tensor does, else `on` and `joined`."""
    there, width, states = of.has("confidence_head."), of.shape("confidence_head.proj.weight"), of.shape("norm.weight")
    if not fields.flag("enable_confidence_head", on if there is None else there):
        return "none"
    joined = width[1] > states[0] if len(width) == 2 and states else joined
    return "hidden and token" if rank and fields.flag("confidence_head_with_markov", joined) else "hidden"


def mask_token(of: Checkpoint, fields: Fields, target: TargetFacts) -> int:
    """The mask token, which the embedding must have."""
    mask = fields.get("mask_token_id")
    if mask is None and not fields.has("mask_token_id"):
        raise of.fail("config.json lacks mask_token_id")
    if not isinstance(mask, int) or isinstance(mask, bool) or not 0 <= mask < target.vocab_size:
        raise of.fail(f"mask_token_id {mask!r} is outside the vocabulary of {target.vocab_size}")
    return mask
