"""The bundled target with other files beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drafters

TINY = Path(drafters.__file__).parent / "tiny"


def changed_target(folder: Path, **changes: dict[str, Any]) -> Path:
    """A copy in `folder`, its weights linked; `changes` are put into `config`, `generation_config` or `tokenizer_config`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (TINY / "target").iterdir():
        if file.suffix == ".json" and file.name != "tokenizer.json":
            content = json.loads(file.read_text())
            (folder / file.name).write_text(json.dumps(content | changes.get(file.stem, {})))
        elif not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    return folder


def pair_of(target: Path, **settings: Any) -> str:
    """A pair's file beside `target`: lookup alone in float32, unless `settings` say otherwise."""
    file = target.with_suffix(".yaml")
    file.write_text(json.dumps({"target": str(target), "drafters": {"ngram": "ngram"}, "dtype": "float32"} | settings))
    return str(file)
