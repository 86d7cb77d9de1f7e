"""The files of a checkpoint, as far as they are read without its weights, or a library that takes seconds to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from drafters.configs import ADAPTER_FILE, read_config
from simulator.errors import InputError, first_paragraph

_INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WIDE: Final = ("F64", "F32", "F16", "BF16")
"""Types of numbers that stand for themselves, as safetensors calls them."""


def bare(name: str) -> str:
    """A tensor's name without the `model.` that some publishers' code writes before it."""
    return name.removeprefix("model.")


def computes_nothing(name: str) -> bool:
    """Whether a tensor says what others say (tables of angles, of tokens), or is of the target."""
    return name == "t2d" or name.startswith("verifier_") or name.endswith("rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a checkpoint, as far as a format reads them."""

    name: str
    """What messages call it."""
    raw: Mapping[str, Any]
    """`config.json`."""
    tensors: Mapping[str, Sequence[int]] | None = None
    """Shapes by name; None where there is a configuration alone."""
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    """Types of the tensors' numbers, as safetensors calls them."""

    @property
    def architecture(self) -> str:
        """The first of `architectures`; `?` where there is none."""
        named = self.raw.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else "?"

    def has(self, prefix: str) -> bool | None:
        """Whether a tensor's name begins so, in a model or by itself; None where nobody knows."""
        return None if self.tensors is None else any(bare(name).startswith(prefix) for name in self.tensors)

    def shape(self, name: str) -> Sequence[int]:
        """The shape of a tensor, in a model or by itself; empty where there is none, or nobody knows."""
        return next((shape for key, shape in (self.tensors or {}).items() if bare(key) == name), ())

    def check_types(self) -> None:
        """Raise InputError where a tensor that computes something holds numbers of fewer bits than stand for themselves."""
        for name, kind in self.types.items():
            if kind not in _WIDE and bare(name) != "d2t" and not computes_nothing(bare(name)):
                raise self.fail(
                    f"{name} holds numbers of the type {kind}: quantised weights are not supported; it must hold plain ones"
                )

    def fail(self, what: str) -> InputError:
        """The error to raise."""
        return InputError(f"checkpoint {self.name}: {what}")


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """A folder's configuration, and what its tensors are. Raises InputError, naming the file."""
    if (folder / ADAPTER_FILE).exists():
        raise InputError(f"checkpoint {name}: {ADAPTER_FILE}: adapters are not applied; merge it into the weights")
    raw = read_config(folder)
    if not any(folder.glob("*.safetensors")) and (pickled := sorted(f.name for kind in _PICKLED for f in folder.glob(kind))):
        raise InputError(
            f"checkpoint {name}: its weights are pickled ({pickled[0]}), which can run any code when read; convert them "
            "with safetensors"
        )
    slices = ((key, stream.get_slice(key)) for stream, key in stored(folder, name, "numpy"))
    found = [(key, list(one.get_shape()), str(one.get_dtype())) for key, one in slices]
    return Checkpoint(name, raw, {key: shape for key, shape, _ in found}, {key: kind for key, _, kind in found})


def stored(folder: Path, name: str, framework: str) -> Iterator[tuple[Any, str]]:
    """(open file, name of a tensor in it) of every tensor of a checkpoint. Raises InputError, naming the file."""
    files = sorted(folder.glob("*.safetensors"))
    files = [f for f in files if f.name.startswith("model")] or files
    if (folder / _INDEX).exists():
        named = read_config(folder, _INDEX).get("weight_map")
        named = {str(file) for file in named.values()} if isinstance(named, dict) else set()
        if missing := sorted(file for file in named if not (folder / file).exists()):
            raise InputError(f"checkpoint {name}: {_INDEX} names {missing[0]}, which is not there")
    if not files:
        raise InputError(f"checkpoint {name}: no *.safetensors in the folder")
    for file in files:
        try:
            with safe_open(file, framework=framework) as stream:
                for key in stream.keys():  # noqa: SIM118 - not a mapping
                    yield stream, key
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({first_paragraph(error)})") from error
