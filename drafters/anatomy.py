"""The parts of a model of transformers: its decoder, the layers of that, and what is left without it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
