"""What a published format is: it recognises a checkpoint by its files, and says in our terms what they declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from drafters.families.layers import LayerShape
from drafters.families.registry import read_shape
from drafters.kinds.settings import BlockSettings, ConfidenceInput, HeadType, PairSettings
from simulator.errors import InputError
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a checkpoint, as far as a format reads them."""

    name: str
    """What messages call it."""
    raw: Mapping[str, Any]
    """`config.json`."""
    tensors: Mapping[str, Sequence[int]] | None = None
    """Shapes by name; None where there is a configuration alone."""

    @property
    def architecture(self) -> str:
        """The first of `architectures`; `?` where there is none."""
        named = self.raw.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else "?"

    def has(self, prefix: str) -> bool | None:
        """Whether a tensor's name begins so; None where nobody knows."""
        return None if self.tensors is None else any(name.startswith(prefix) for name in self.tensors)

    def fail(self, what: str) -> InputError:
        """The error to raise."""
        return InputError(f"checkpoint {self.name}: {what}")


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

    def get(self, name: str, default: Any = None) -> Any:
        """A field, null being as good as missing."""
        return next((p[name] for p in self._places if p.get(name) is not None), default)

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
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._of.fail(f"{name} must be a whole number from {least} to {most}, got {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self._of.fail(f"{name} must be true or false, got {value!r}")
        return value

    def choice(self, name: str, options: Sequence[str], default: str) -> Any:
        """One of some words."""
        value = self.get(name, default)
        if value not in options:
            raise self._of.fail(f"{name} {value!r} is not one of {', '.join(options)}")
        return value

    def number(self, name: str) -> float | None:
        """A positive number, or none."""
        value = self.get(name)
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
        ids = self.get(name, list(default))
        own = offset - 1
        least, most = -1 - own, target.num_layers - 1 - own
        if not isinstance(ids, list) or not ids or not all(type(i) is int and least <= i <= most for i in ids):
            raise self._of.fail(f"{name} {ids!r} must be layers of the target, {least} to {most}")
        return tuple(i + own for i in ids)

    def gamma(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """How many tokens are drafted, or slots a block has."""
        return self.whole(name, default, least=least, most=MAX_GAMMA)


def check_target(of: Checkpoint, fields: Fields, target: TargetFacts, *names: str) -> None:
    """Raise InputError where configuration alone tells that a checkpoint was trained for another target."""
    own = {"vocab_size": target.vocab_size, "hidden_size": target.hidden_size, "num_target_layers": target.num_layers}
    for name in names:
        value = fields.get(name)
        if value is not None and value != own[name]:
            raise of.fail(f"{name} is {value!r}, but the target has {own[name]}; it was trained for another target")


def draft_vocabulary(of: Checkpoint, fields: Fields, target: TargetFacts) -> int:
    """V_d; a smaller one needs the table that says which tokens these are."""
    size = fields.whole("draft_vocab_size", target.vocab_size)
    if size > target.vocab_size:
        raise of.fail(f"draft_vocab_size is {size}, but the target has {target.vocab_size} tokens")
    if size < target.vocab_size and of.has("d2t") is False:
        raise of.fail(f"has no tensor d2t, which says which {size} of the target's {target.vocab_size} tokens it drafts")
    return size


def head_of(fields: Fields, of: Checkpoint) -> Any:
    """Whose output projection serves where the files hold none."""
    tied = fields.flag("tie_word_embeddings", False) and of.has("embed_tokens.")
    return "own embedding" if tied else "target"


def shape_of(of: Checkpoint, config: Mapping[str, Any]) -> LayerShape:
    """The layers' shape; of Llama's and Qwen3's layers, which differ in norms of queries and keys, tensors say which."""
    shape = read_shape(config, of.name)
    if of.tensors is None or shape.family not in ("llama", "qwen3"):
        return shape
    return replace(shape, family="qwen3" if any(".q_norm." in name for name in of.tensors) else "llama")


def fused_size(of: Checkpoint, taps: int, declared: int, target: TargetFacts) -> int:
    """Width of a tap, by the projection's tensor where there is one. Raises InputError where it is not the target's."""
    columns = list((of.tensors or {}).get("fc.weight", ()))
    size = columns[1] // taps if len(columns) == 2 else declared
    if size != target.hidden_size:
        raise of.fail(
            f"reads {taps} taps {size} wide, but the target's are {target.hidden_size}: another target, or other taps"
        )
    return size


def markov_of(fields: Fields, default: int | None = None) -> tuple[int, HeadType]:
    """Rank and type of the sequential head."""
    rank = fields.whole("markov_rank", default, least=0, most=1 << 16)
    head: HeadType = fields.choice("markov_head_type", get_args(HeadType), "vanilla") if rank else "vanilla"
    return rank, head


def confidence_of(fields: Fields, rank: int, *, on: bool, joined: bool) -> ConfidenceInput:
    """What the confidence head reads; `on` and `joined` are what a format says where its files do not."""
    if not fields.flag("enable_confidence_head", on):
        return "none"
    return "hidden and token" if rank and fields.flag("confidence_head_with_markov", joined) else "hidden"


def mask_token(of: Checkpoint, fields: Fields, target: TargetFacts) -> int:
    """The mask token, which the embedding must have."""
    mask = fields.get("mask_token_id")
    if mask is None and not fields.has("mask_token_id"):
        raise of.fail("config.json lacks mask_token_id")
    if not isinstance(mask, int) or isinstance(mask, bool) or not 0 <= mask < target.vocab_size:
        raise of.fail(f"mask_token_id {mask!r} is outside the vocabulary of {target.vocab_size}")
    return mask
