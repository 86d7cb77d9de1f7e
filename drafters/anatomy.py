"""The parts of a model of transformers: its decoder, the layers of that, and what is left without it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class _Given(nn.Module):
    """Stands where a model's decoder was: gives back the hidden states that it is handed as embeddings."""

    def __init__(self, output: type[Any], decoder: nn.Module) -> None:
        super().__init__()
        self._output = output
        self.__dict__["_decoder"] = decoder  # not a part of this module: only its settings are asked for

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_decoder"], name)

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> Any:
        return self._output(last_hidden_state=inputs_embeds)


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The stack of decoder layers, final norm included."""
    decoder: nn.Module = model.get_decoder()
    if decoder is model or not isinstance(decoder, PreTrainedModel):  # some name their parts otherwise than they say
        decoder = next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)
    return decoder


def decoder_layers(decoder: nn.Module, count: int) -> nn.ModuleList:
    """The list of decoder layers, whatever it is called."""
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == count]
    return lists[0] if lists else nn.ModuleList()


def child_with(model: nn.Module, decoder: nn.Module) -> nn.Module:
    """The part of `model` that is or holds `decoder`."""
    return next(child for child in model.children() if decoder in child.modules())


def without_decoder(model: PreTrainedModel, decoder: nn.Module, output: type[Any]) -> nn.Module:
    """A model that shares everything with `model` but its decoder, in whose place it takes hidden states."""
    holder = child_with(model, decoder)
    given = _Given(output, holder)
    inner = next(path for path, module in holder.named_modules() if module is decoder)
    if inner and "." not in inner:  # a model may call its decoder directly
        setattr(given, inner, _Given(output, decoder))
    shared: dict[int, Any] = {id(child): child for child in model.children()} | {id(holder): given}
    shared |= {id(own): own for own in (*model.parameters(recurse=False), *model.buffers(recurse=False))}
    outer: nn.Module = copy.deepcopy(model, shared)
    return outer


@contextmanager
def output_of(module: nn.Module) -> Iterator[list[Any]]:
    """Collect what `module` returns while the block runs."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


class Taps:
    """The outputs of decoder layers, taken out of a pass. Layer −1 is what the first layer reads, layer L the last one's
    output after the final norm.

    A layer is hooked once, when it is first asked for, and stays so: hooking layers anew in every pass takes half as long as
    a layer of a small model.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self._layers = layers
        self._hooked: set[int] = set()
        self._after = {len(layers)} if len(layers) else set()
        self._wanted: list[int] = []
        self._taken: dict[int, Tensor] = {}

    def ask(self, tap_layers: Sequence[int]) -> None:
        """Take the outputs of these layers out of the coming pass."""
        for layer in set(tap_layers) - self._hooked - self._after:
            tap = _Tap(layer, self._wanted, self._taken)
            if layer == -1:
                self._layers[0].register_forward_pre_hook(tap.before, with_kwargs=True)
            else:
                self._layers[layer].register_forward_hook(tap.after)
            self._hooked.add(layer)
        self._taken.clear()  # a pass may have failed
        self._wanted[:] = tap_layers

    def side_by_side(self, hidden: Tensor) -> Tensor:
        """What was taken, [B, N, m·d] in the order asked for, from a pass that gave `hidden` [B, N, d] after its norm."""
        taken = [hidden if i in self._after else self._taken[i] for i in self._wanted]
        taps = torch.cat(taken, -1) if taken else hidden.narrow(-1, 0, 0)
        self._taken.clear()
        self._wanted.clear()
        return taps


class _Tap:
    """Puts the output of a layer into `taken` while it is wanted.

    An object and no closure, so that a copied model writes into its own copy; it knows no more, or it would keep that alive.
    """

    def __init__(self, layer: int, wanted: list[int], taken: dict[int, Tensor]) -> None:
        self._layer, self._wanted, self._taken = layer, wanted, taken

    def after(self, _module: nn.Module, _inputs: object, output: Any) -> None:
        """A hook for what a layer gives."""
        if self._layer in self._wanted:
            self._taken[self._layer] = output if isinstance(output, Tensor) else output[0]

    def before(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A hook for what a layer is given."""
        if self._layer in self._wanted:
            self._taken[self._layer] = inputs[0] if inputs else named["hidden_states"]
