"""The files of a checkpoint, as far as they are read without its weights, or a library that takes seconds to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from drafters.configs import ADAPTER_FILE, read_config
from simulator.errors import InputError, first_paragraph

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WIDE: Final = ("F64", "F32", "F16", "BF16")
"""Types of numbers that stand for themselves, as safetensors calls them."""


def bare(name: str) -> str:
    """A tensor's name without the `model.` that some publishers' code writes before it; `d2t` for vLLM's word."""
    name = name.removeprefix("model.")
    return "d2t" if name == "draft_id_to_target_id" else name


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
    if own := next(iter(sorted(folder.glob("mask_embedding*"))), None):
        raise InputError(f"checkpoint {name}: {own.name}: a mask token's own embedding (MiMo's DFlash) is not read here")
    if not any(folder.glob("*.safetensors")) and (pickled := sorted(f.name for kind in _PICKLED for f in folder.glob(kind))):
        raise InputError(
            f"checkpoint {name}: its weights are pickled ({pickled[0]}), which can run any code when read; convert them "
            "with safetensors"
        )
    slices = ((key, stream.get_slice(key)) for stream, key in stored(folder, name, "numpy"))
    found = [(key, list(one.get_shape()), str(one.get_dtype())) for key, one in slices]
    return Checkpoint(name, raw, {key: shape for key, shape, _ in found}, {key: kind for key, _, kind in found})


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The files that hold a checkpoint's weights: those its index names, where it has one. Raises InputError."""
    whole = folder / _WHOLE
    if (folder / _INDEX).exists():
        said = read_config(folder, _INDEX).get("weight_map")
        named = sorted({str(file) for file in said.values()}) if isinstance(said, dict) else []
        if outside := next((file for file in named if Path(file).name != file), None):
            raise InputError(f"checkpoint {name}: {_INDEX} names {outside!r}, which is no file of its folder")
        missing = [file for file in named if not (folder / file).exists()]
        if missing and (_WHOLE in named or not whole.exists()):
            raise InputError(f"checkpoint {name}: {_INDEX} names {missing[0]}, which is not there")
        if named and not missing and whole.exists() and _WHOLE not in named:
            raise InputError(
                f"checkpoint {name}: holds {_WHOLE}, and {_INDEX}, which names other files; engines read one or the other: "
                "remove what is left over"
            )
        if named:
            return [whole] if missing else [folder / file for file in named]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"checkpoint {name}: no *.safetensors in the folder")
    return [f for f in files if f.name.startswith("model")] or files


def stored(folder: Path, name: str, framework: str) -> Iterator[tuple[Any, str]]:
    """(open file, name of a tensor in it) of every tensor of a checkpoint. Raises InputError, naming the file."""
    met: dict[str, str] = {}
    for file in _weight_files(folder, name):
        try:
            with safe_open(file, framework=framework) as stream:
                for key in stream.keys():  # noqa: SIM118 - not a mapping
                    if key in met:
                        raise InputError(
                            f"checkpoint {name}: {met[key]} and {file.name} both hold {key}; remove the one left over"
                        )
                    met[key] = file.name
                    yield stream, key
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({first_paragraph(error)})") from error
