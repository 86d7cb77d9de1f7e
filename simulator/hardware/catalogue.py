"""Profiles by name: `h100/qwen3-4b` is a file that comes with the package or, where there is none, a roofline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulator.errors import InputError
from simulator.hardware.profile import Profile, load_profile, same_model
from simulator.hardware.roofline import Attention, Device, Drafters, Model, roofline

DATA = Path(__file__).parent / "data"


def find_profile(name: str) -> Profile:
    """`device/model`, or the path of one's own profile. Raises InputError that lists what is known."""
    if name in (files := _files()):
        return load_profile(files[name])
    device, _, model = name.partition("/")
    known_devices, known_models = devices(), models()
    if device in known_devices and model in known_models:
        return roofline(known_devices[device], known_models[model], name=name)
    if (path := Path(name)).is_file():
        return load_profile(path)
    raise InputError(
        f"hardware {name}: no such file, and not device/model with a device of {', '.join(known_devices)}"
        f" and a model of {', '.join(known_models)}"
    )


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


def _model(raw: dict[str, Any]) -> Model:
    drafters = raw["drafters"] | {"attention": Attention(**raw["drafters"]["attention"])}
    attention = tuple(Attention(**layers) for layers in raw["attention"])
    return Model(**raw | {"drafters": Drafters(**drafters), "attention": attention})


def _read(file: str) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((DATA / file).read_text(encoding="utf-8"))
    return content


def _files() -> dict[str, Path]:
    return {f"{file.parent.name}/{file.stem}": file for file in sorted(DATA.glob("*/*.json"))}
