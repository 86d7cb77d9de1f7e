"""Configurations of models and drafters, as far as they are read without a library that takes seconds to import."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.errors import InputError, first_paragraph

ADAPTER_FILE = "adapter_config.json"
"""What weights are to be changed by, where a folder holds an adapter (LoRA)."""
_SHAPES = Path(__file__).parent / "architectures.json"
_MASKED = {"full_attention", "sliding_attention"}
"""Kinds of layers that keep every position apart, so that a rejected one is forgotten by masking it."""
_WITHOUT_STATE = {"mlp", "moe"}
"""Kinds of layers that look at one position alone."""
OWN_MASKS = {"local_attention"}
"""Kinds of layers that keep every position apart, but mask what they see by themselves, alike in all rows."""
_OTHER_NAMES = {"attention": "full_attention", "global": "full_attention", "local": "local_attention", "conv": "convolution"}
"""What configurations call kinds of layers beside the names that most use."""
_SETTINGS = "tokenizer_config.json"
_OF_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates", "tekken.json")
"""Files that chat templates may be in beside a tokenizer's settings; Mistral's tokenizer has its own."""
_OF_DRAFTERS = re.compile(r"DSpark|DFlash|Eagle3|MTPModel$")
"""What the architectures of drafters are called by."""
_SPECULATORS = ("speculators_model_type", "speculators_config")
_NESTED = ("dspark_config", "dflash_config")
_FIELDS_OF_DRAFTERS = (*_SPECULATORS, *_NESTED, "eagle_config", "draft_vocab_size")
"""Fields that configurations of drafters alone have."""
_OF_THE_TARGET = {"vocab_size": "vocab_size", "num_target_layers": "num_hidden_layers"}
"""What drafters' configurations say of their target, and what it calls that itself."""


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """`config.json` of a checkpoint, or another of its JSON files. Raises InputError."""
    file = folder / name
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{file}: missing; a checkpoint has a config.json and *.safetensors") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: not JSON (line {error.lineno}: {error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({first_paragraph(error)})") from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: must be a JSON object")
    return config


def known_architectures() -> dict[str, dict[str, Any]]:
    """Configurations that come with the package, by short name."""
    shapes: dict[str, dict[str, Any]] = json.loads(_SHAPES.read_text(encoding="utf-8"))
    return shapes


def read_architecture(source: str) -> Mapping[str, Any]:
    """A configuration: by a known name, or of a `config.json` or a folder with one. Raises InputError."""
    known = known_architectures()
    if source in known:
        return known[source]
    path = Path(source)
    if path.is_dir():
        return read_config(path)
    if not path.is_file():
        raise InputError(f"architecture {source}: no such file, and not one of {', '.join(known)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise InputError(f"{path}: must be a JSON object with a model_type, as Hugging Face's config.json is")
    return raw


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Kinds of a text configuration's decoder layers, each once: `full_attention`, `sliding_attention` or another."""
    for field in ("layer_types", "layers_block_type", "attention_layers"):
        if declared := getattr(config, field, None):
            return tuple(sorted({_OTHER_NAMES.get(kind, kind) for kind in declared} - _WITHOUT_STATE))
    if getattr(config, "sliding_window", None) is not None:
        return ("sliding_attention",)
    if getattr(config, "attention_chunk_size", None) is not None:
        return ("chunked_attention",)
    return ("full_attention",)


def folded_state(config: Any) -> str | None:
    """Which layers, by a text configuration, fold all tokens into one state, in words; None where none does."""
    folded = [kind for kind in layer_kinds(config) if kind not in _MASKED | OWN_MASKS]
    return f"its {' and '.join(folded).replace('_', ' ')} layers keep a state that cannot be rolled back" if folded else None


def lacks_template(folder: Path) -> bool:
    """Whether a tokenizer's files say that it has no chat template; False too where they do not tell."""
    if not (folder / _SETTINGS).exists() or any((folder / name).exists() for name in _OF_TEMPLATES):
        return False
    return not read_config(folder, _SETTINGS).get("chat_template")


def is_drafter(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a drafter that reads a target's states, so far as it tells by itself."""
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    return bool(_OF_DRAFTERS.search(architecture)) or any(name in config for name in _FIELDS_OF_DRAFTERS)


def another_target(drafter: Mapping[str, Any], target: Mapping[str, Any]) -> str | None:
    """What configurations tell against a drafter by themselves: another target than `target`; None where nothing does."""
    text = target.get("text_config")
    own = text if isinstance(text, Mapping) else target
    if any(name in drafter for name in _SPECULATORS):
        places = [drafter.get("transformer_layer_config")]
    else:
        places = [*(drafter.get(name) for name in (*_NESTED, "text_config")), drafter]
    for field, theirs in _OF_THE_TARGET.items():
        said = next((place[field] for place in places if isinstance(place, Mapping) and place.get(field)), None)
        has = own.get(theirs)
        if isinstance(said, int) and isinstance(has, int) and said != has:
            return of_another_target(field, said, has)
    return None


def layers_of(config: Mapping[str, Any]) -> int | None:
    """How many layers a model's configuration says that it has, where it does."""
    return _whole_number(config, "num_hidden_layers")


def vocabulary_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model's configuration says that it has, where it does."""
    return _whole_number(config, "vocab_size")


def context_of(config: Mapping[str, Any]) -> int | None:
    """The longest context that a model's configuration says, where it does."""
    return _whole_number(config, "max_position_embeddings")


def _whole_number(config: Mapping[str, Any], field: str) -> int | None:
    """A field of a text configuration."""
    text = config.get("text_config")
    said = (text if isinstance(text, Mapping) else config).get(field)
    return said if isinstance(said, int) else None


def of_another_target(field: str, value: Any, own: int) -> str:
    """What is wrong with a drafter whose configuration says another number of its target than the target has."""
    return f"{field} is {value!r}, but the target has {own}; it was trained for another target"
