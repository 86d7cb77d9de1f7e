"""A frozen target's layers shared out over processes by torch's FSDP: each is put together while it computes."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from drafters.anatomy import decoder_layers, decoder_of
from drafters.target import Target
from simulator.errors import InputError, first_paragraph


def share_out(target: Target, device: torch.device) -> None:
    """Leave each process of the default group its part of every decoder layer, on `device`; tables and norms stay whole.

    From then on all processes read the same number of times, in one order: each read puts every layer together. Raises
    InputError for layers that cannot be shared out.
    """
    layers = decoder_layers(decoder_of(target.model), target.num_layers)
    try:
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        if not len(layers):
            raise ValueError("it has no list of them")
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=_whole(layer))
        target.model.to(device)
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        why = first_paragraph(error)
        raise InputError(f"--shard: the layers of target {target.name} cannot be shared out: {why}") from error
    target.device = device


def _whole(layer: nn.Module) -> set[nn.Parameter]:
    """What is left whole: single numbers, and what is not of the type that most of the layer's weights are, which FSDP moves
    together."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in layer.parameters():
        sizes[parameter.dtype] += parameter.numel()
    [(usual, _)] = sizes.most_common(1)
    return {parameter for parameter in layer.parameters() if not parameter.ndim or parameter.dtype != usual}
