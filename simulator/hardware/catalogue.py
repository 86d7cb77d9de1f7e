"""Profiles by name: `h100/qwen3-4b` is a file that comes with the package or, where there is none, a roofline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from simulator.errors import InputError, NoSuchLayout, first_paragraph
from simulator.hardware.architecture import model_of, named
from simulator.hardware.graphs import capturing
from simulator.hardware.model import FORMAT_BYTES, Attention, Drafters, Format, Model
from simulator.hardware.profile import Profile, load_profile, same_model
from simulator.hardware.roofline import LONGEST_CONTEXT, MOST_GPUS, Assumptions, Device, roofline
from simulator.numbers import counted

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a roofline is to be made, where that is not as usual. Raises InputError where a number makes no sense."""

    model: Path | None = None
    """Hugging Face's `config.json` of the target, or the folder it lies in, or a model as `models.json` has them."""
    gpus: int | None = None
    """GPUs that share a replica; None takes the fewest that hold the model."""
    weights: Format | None = None
    cache: Format | None = None
    """Number formats of weights, and of keys and values; None takes the model's own."""
    mean_context: int | None = None
    """Tokens of a context at which windows and compressed caches are averaged; None takes 2,048. See `Assumptions`."""
    captured: int | None = None
    """Tokens of the largest pass that the engine captures; None takes the profile's own. Of any profile that has some."""

    def __post_init__(self) -> None:
        for option, value, most in (("--tp", self.gpus, MOST_GPUS), ("--mean-context", self.mean_context, LONGEST_CONTEXT)):
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{option} {value}: must be a whole number from 1 to {most:,}")

    @property
    def usual(self) -> bool:
        """Whether nothing is said of the roofline itself."""
        return replace(self, captured=None) == Asked()

    @property
    def said(self) -> str:
        """What belongs to a profile's name."""
        context = self.mean_context and f"context{self.mean_context}"
        told = (self.weights, self.cache and f"kv-{self.cache}", self.gpus and f"tp{self.gpus}", context)
        return "".join(f",{one}" for one in told if one)


def find_profile(name: str, asked: Asked = Asked()) -> Profile:
    """`device/model`, the path of one's own profile, or a device where `asked` names the model; bundled names in any case.

    Raises InputError that lists what is known.
    """
    name = name if Path(name).is_file() else _in_small_letters(name)
    found = _found(name) if asked.usual else _modelled(name, asked)
    if asked.captured is None:
        return found
    return replace(capturing(found, asked.captured), name=f"{found.name},captured{asked.captured}")


def _in_small_letters(name: str) -> str:
    """A name as bundled ones are written, where its device, or all of it, is one: `L40S` is l40s."""
    small = name.lower()
    return small if small in _files() or small.partition("/")[0] in devices() else name


def _found(name: str) -> Profile:
    """A profile as usual."""
    if name in (files := _files()):
        return load_profile(files[name])
    device, _, model = name.partition("/")
    known_devices, known_models = devices(), models()
    if device in known_devices and model in known_models:
        return roofline(known_devices[device], known_models[model], name=name)
    if (path := Path(name)).is_file():
        return load_profile(path)
    if name in known_devices:
        raise InputError(f"hardware {name}: is a device: name a model too, {name}/{next(iter(known_models))}, or --model")
    if device in known_devices:
        raise InputError(
            f"hardware {name}: no model known here is {model}: there are {', '.join(known_models)}; for your own name "
            f"{device} alone, and its config.json with --model"
        )
    raise InputError(
        f"hardware {name}: no such file, and not device/model with a device of {', '.join(known_devices)}"
        f" and a model of {', '.join(known_models)}"
    )


def _modelled(name: str, asked: Asked) -> Profile:
    """A roofline made otherwise than usual."""
    short, _, bundled = name.partition("/")
    if asked.model is not None:
        both = short in devices() and bool(bundled)  # as profiles that were made so are called
        name = short if both else name
        device = devices().get(name) or _device(name)
        model = model_file(asked.model, asked)
        if both and bundled.lower() != (own := model.name.rpartition("/")[2].lower()):
            raise InputError(f"hardware {short}/{bundled}: --model is {own}; name the device alone, {short}")
        called = f"{name if name in devices() else Path(name).stem}/{model.name.rpartition('/')[2].lower()}"
    elif short in devices() and bundled in models() and name not in _files():
        device, called = devices()[short], name
        model = _in_formats(models()[bundled], asked)
    elif (measured := _measured(name)) is not None:
        return _as_measured(measured, asked)
    else:
        raise InputError(
            f"hardware {name}: --tp, --weights, --kv and --mean-context say how a roofline is made: "
            + (
                f"name {short} alone, and the model's config.json with --model, "
                if bundled and short in devices()
                else f"name a device of {', '.join(devices())} with --model, "
            )
            + f"or device/model with a model of {', '.join(models())}"
        )
    if asked.gpus is not None and (uneven := model.uneven(asked.gpus)):
        raise InputError(f"--tp {asked.gpus}: {uneven}; engines refuse it")
    try:
        given = Assumptions() if asked.mean_context is None else Assumptions(context_tokens=asked.mean_context)
        made = roofline(device, model, name=called + asked.said, gpus=asked.gpus, given=given)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"hardware {name}: makes no profile of {model.name}: {error}") from None
    formats, checkpoint = _told(model, asked, None if asked.model else models()[bundled])
    return replace(made, formats=formats, checkpoint=checkpoint)


def _measured(name: str) -> Profile | None:
    """A profile of what was measured, one that comes with the package or of one's own; None of a name of anything else."""
    if name in (files := _files()):
        return load_profile(files[name])
    return load_profile(Path(name)) if Path(name).is_file() else None


def _as_measured(profile: Profile, asked: Asked) -> Profile:
    """The profile, where nothing is asked of it but what it is of. Raises InputError, NoSuchLayout for other GPUs."""
    n, each = asked.gpus, counted(profile.gpus, "GPU")
    if replace(asked, gpus=None, captured=None) != Asked():
        raise InputError(
            f"hardware {profile.name}: is of what was measured: --weights, --kv and --mean-context cannot change it; "
            "measure so, and `harness hardware fit` the rows"
        )
    if n is None or n == profile.gpus:
        return profile
    more = f"; as replicas of {each}: --gpus {n} --tp {profile.gpus}" if n % profile.gpus == 0 else ""
    raise NoSuchLayout(
        f"hardware {profile.name}: is measured on {each} that serve{'s' * (profile.gpus == 1)} one copy of the model, not "
        f"on --tp {n}: rows measured so, fitted by `harness hardware fit`, give a profile of it{more}"
    )


def measured_on(name: str | None) -> int | None:
    """How many GPUs share the model in a profile of what was measured; None of what is modelled, or is no profile.

    Raises InputError for a file that is no profile.
    """
    if name is None:
        return None
    file = Path(name).is_file()
    if file and "memory_bytes" in _own(Path(name), "hardware"):  # a device
        return None
    found = _measured(name if file else _in_small_letters(name))
    return None if found is None else found.gpus


def _told(model: Model, asked: Asked, bundled: Model | None) -> tuple[dict[str, str], dict[str, str]]:
    """Number formats that are not the checkpoint's own, and its own that are not bf16, both of weights and of cache."""
    try:
        own = model_file(asked.model, replace(asked, weights=None, cache=None)) if asked.model else bundled
    except InputError:  # formats that nobody here knows
        own = None
    formats: dict[str, str] = {}
    if asked.weights and (own is None or (own.dense_format, own.expert_format) != (asked.weights, asked.weights)):
        formats["weights"] = asked.weights
    if asked.cache and (own is None or own.cache_format != asked.cache):
        formats["cache"] = asked.cache
    checkpoint = {"weights": model.quantised} if model.quantised else {}
    if asked.model and not asked.cache and model.cache_format != "bf16":
        checkpoint["cache"] = model.cache_format
    return formats, checkpoint


def _in_formats(model: Model, asked: Asked) -> Model:
    """The model in other number formats."""
    low = sorted({model.dense_format, model.expert_format} - {"bf16"})
    changes: dict[str, Any] = {"quantised": model.quantised or " and ".join(low)}
    if asked.weights is not None:
        changes |= {"dense_format": asked.weights, "expert_format": asked.weights}
    if asked.cache is not None and asked.cache != model.cache_format:
        if model.cache_format != "bf16":
            raise InputError(f"--kv {asked.cache}: {model.name} keeps its cache in {model.cache_format} of its own")
        share = FORMAT_BYTES[asked.cache] / FORMAT_BYTES["bf16"]
        changes["cache_format"] = asked.cache
        changes["attention"] = tuple(replace(a, entry_bytes=a.entry_bytes * share) for a in model.attention)
    return replace(model, **changes)


def model_file(file: Path, asked: Asked) -> Model:
    """A model of one's own, in either form."""
    source = file / "config.json" if file.is_dir() else file
    raw = _own(source, "model")
    if "mlp_parameters" in raw and "attention" in raw:
        try:
            return _in_formats(_model(raw), asked)
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"model {source}: not as models.json has them: {first_paragraph(error)}") from None
    return model_of(raw, named(source, raw), str(source), weights=asked.weights, cache=asked.cache)


def _device(name: str) -> Device:
    """A device of one's own. Raises InputError."""
    if not Path(name).is_file():
        raise InputError(
            f"hardware {name}: with --model a device is named, one of {', '.join(devices())}, or a JSON file of its own"
        )
    raw, known = _own(Path(name), "hardware"), [field.name for field in fields(Device)]
    if wrong := [f"lacks {name}" for name in known if name not in raw] + [
        f"has {name}" for name in raw if name not in known
    ]:
        raise InputError(f"hardware {name}: {wrong[0]}; a device has {', '.join(known)}, as in devices.json")
    device = Device(**raw)
    for field, unit in _SIZES.items():
        size = raw[field]
        if field == "fp8_flops" and size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, int | float) or not unit <= size <= 1e6 * unit:
            raise InputError(f"hardware {name}: {field} must be from {unit:g} to {1e6 * unit:g} a device, got {size!r}")
    return device


_SIZES = {"bf16_flops": 1e11, "fp8_flops": 1e11, "bandwidth_bytes": 1e9, "memory_bytes": 1e8, "link_bytes": 1e7}
"""What the sizes of a device are at least; no device has a million times as much."""


def _own(file: Path, what: str) -> dict[str, Any]:
    """An object of a JSON file of one's own. Raises InputError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{what} {file}: not readable: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{what} {file}: not JSON: {first_paragraph(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{what} {file}: must be a JSON object")
    return content


def bundled_profiles() -> list[str]:
    """Every name that `find_profile` knows: files that come with the package, and devices × models."""
    return sorted({*_files(), *(f"{device}/{model}" for device in devices() for model in models())})


def profile_of(target: str) -> str | None:
    """A profile of a model by the name of the target or its folder, on an H100; None where no model here is that one."""
    target = target.rstrip("/")
    same = [name for name, model in models().items() if target and same_model(model.name, target)]
    return f"h100/{same[0]}" if same else None


def devices() -> dict[str, Device]:
    """Datasheets by short name."""
    return {name: Device(**raw) for name, raw in _read("devices.json").items()}


def models() -> dict[str, Model]:
    """Targets by short name."""
    return {name: _model(raw) for name, raw in _read("models.json").items()}


def configs() -> dict[str, dict[str, Any]]:
    """Configurations of further targets by short name, as their checkpoints have them, as far as `model_of` reads them."""
    return _read("configs.json")


def config_of(raw: Mapping[str, Any]) -> str:
    """What a configuration calls its model."""
    return str(raw["_name_or_path"])


def _model(raw: dict[str, Any]) -> Model:
    drafters = raw["drafters"] | {"attention": Attention(**raw["drafters"]["attention"])}
    attention = tuple(Attention(**layers) for layers in raw["attention"])
    return Model(**raw | {"drafters": Drafters(**drafters), "attention": attention})


def _read(file: str) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((DATA / file).read_text(encoding="utf-8"))
    return content


def _files() -> dict[str, Path]:
    return {f"{file.parent.name}/{file.stem}": file for file in sorted(DATA.glob("*/*.json"))}
