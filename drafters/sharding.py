"""A frozen target's layers shared out over processes by torch's FSDP: each is put together while it computes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from drafters.anatomy import decoder_layers, decoder_of
from drafters.target import Target
from simulator.errors import InputError, first_paragraph


def load_shared(load: Callable[[], Target], device: torch.device) -> Target:
    """What `load` gives, in main memory, shared out over the processes of the default group, which call this together.

    The processes of a machine load one after another, and each keeps its share alone: so main memory holds one whole target
    at a time, whatever their number. Raises InputError as `share_out` does.
    """
    count = torch.distributed.get_world_size()
    turn = int(os.environ.get("LOCAL_RANK", torch.distributed.get_rank()))  # on its machine, as launchers name it
    mesh, target = init_device_mesh(device.type, (count,)), None
    for now in range(count):
        if now == turn:
            target = load()
            share_out(target, device, mesh)
        torch.distributed.barrier()
    assert target is not None
    return target


def shared_bytes(target: Target) -> tuple[int, int]:
    """(bytes of all weights, bytes of those that this process holds)."""
    whole = own = 0
    for parameter in target.model.parameters():
        here = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        whole, own = whole + parameter.numel() * parameter.itemsize, own + here.numel() * here.itemsize
    return whole, own


def share_out(target: Target, device: torch.device, mesh: DeviceMesh) -> None:
    """Leave this process of a mesh its part of every decoder layer, on `device`; tables and norms stay whole.

    From then on all processes read the same number of times, in one order: each read puts every layer together. Raises
    InputError for layers that cannot be shared out.
    """
    layers = decoder_layers(decoder_of(target.model), target.num_layers)
    try:
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
