"""Pairs: a target and its drafters, named in a YAML file or on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from drafters.chat import PLAIN
from drafters.gguf import SMOLLM2, is_gguf, plain_source
from harness import stops
from simulator.drafter_kinds import WEIGHTLESS
from simulator.errors import InputError, first_paragraph

BUNDLED_PAIRS = Path(__file__).parent / "pairs"
_JINJA = re.compile(r"\{\{|\{%")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""How the hub writes the names of models, owner/model."""


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a recording runs. Sources are folders (relative to the pair's file), hub ids, or `ngram`."""

    target: str
    drafters: dict[str, str]
    """Name in reports → checkpoint."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is bfloat16 where the device computes in it by itself, else float32."""
    device: str = "auto"
    """`auto` is the GPU where there is one."""
    chat_template: str | msgspec.UnsetType = msgspec.UNSET
    """In place of the tokenizer's: `plain`, a Jinja template, or in a YAML file also the file of one. Once a pair is read,
    the template itself, so that it is kept with what is measured."""

    def __post_init__(self) -> None:
        if "none" in (*self.drafters, *self.drafters.values()):
            raise ValueError("drafters: 'none' is always there as the baseline; leave it out")
        for name in self.drafters:
            if not name.strip() or not name.isprintable() or "," in name or "=" in name:
                raise ValueError(f"drafters: {name!a} is no name; a word without , and = is one")


def load_pair(name: str | Pair) -> Pair:
    """Read a pair: the path of a YAML file, or the name of a bundled pair; one that is read stays. Raises InputError."""
    if isinstance(name, Pair):
        return name
    known = _bundled()
    path = BUNDLED_PAIRS / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        raise InputError(f"pair {name}: no such file, and no bundled pair of that name (bundled: {', '.join(known)})")
    try:
        pair = msgspec.yaml.decode(path.read_bytes(), type=Pair)
        given = msgspec.yaml.decode(path.read_bytes(), type=dict[str, object])
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    except (msgspec.DecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    resolved = {drafter: _resolve(source, path.parent) for drafter, source in pair.drafters.items()}
    target = _resolve(pair.target, path.parent)
    if pair.target in known and not is_gguf(target) and not Path(target).exists():  # that of the bundled pair
        base = load_pair(pair.target)  # with its numeric type, as --target takes it, but for what the file says itself
        pair, target = msgspec.structs.replace(base, **{name: getattr(pair, name) for name in given}), base.target
    if pair.chat_template is not msgspec.UNSET:
        own = read_template(pair.chat_template, f"{path}: chat_template", path.parent)
        pair = msgspec.structs.replace(pair, chat_template=own)
    return msgspec.structs.replace(pair, target=target, drafters=resolved)


def read_template(template: str, option: str, folder: Path = Path()) -> str:
    """A chat template: what a file holds, or what is written in its place, Jinja or `plain`. Raises InputError."""
    found = template
    if template != PLAIN and not _JINJA.search(template):
        try:
            found = (folder / Path(template).expanduser()).read_text(encoding="utf-8-sig")
        except (OSError, ValueError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or "not a text"
            named = template if len(template) <= 200 else f"…{template[-199:]}"  # a path's end is its file's name
            raise InputError(f"{option} {named}: is `{PLAIN}` or a file with a Jinja template ({why})") from None
        if not _JINJA.search(found):
            raise InputError(f"{option} {template}: holds no Jinja template, which has {{{{ … }}}} for the messages")
    return found


def asked_pair(
    pair: str, target: str | None = None, drafters: Sequence[str] | None = None, chat_template: str | None = None
) -> tuple[str | Pair, list[str] | None]:
    """The pair that a command line asks for, independent of the current folder, and the drafters to run; None is all.

    Args:
        pair: a pair's file, or the name of a bundled one.
        target: stands in for `pair`: a folder, a hub id, or the name of a bundled pair, whose target it is.
        drafters: names of the pair's, or NAME=PATH for one's own beside them; several names may have commas between.
        chat_template: `plain`, or the file of one, in place of the pair's.

    Raises:
        InputError: a name stands twice, a source is neither here nor written as a hub id, or there is no such template.
    """
    texts = [part for text in drafters or () for part in ([text] if "=" in text else text.split(","))]
    split = [(name.strip(), source.strip() if joint else None) for name, joint, source in (t.partition("=") for t in texts)]
    own = {name: sourced(f"--drafter {name}={source}", source) for name, source in split if source is not None}
    chosen = [name for name, _ in split] if drafters else None
    if target is not None:  # kinds without weights need no path
        own |= {name: name for name, source in split if source is None and name in WEIGHTLESS and name != "none"}
    elif not own and chat_template is None:
        path = Path(pair)
        return (str(path.resolve()) if path.is_file() else pair), chosen
    named = [name for name, source in split if source is not None]
    if target is None:
        base = load_pair(pair)
    elif target in _bundled():  # with its numeric type
        base = msgspec.structs.replace(load_pair(target), drafters={})
    else:
        base = Pair(sourced(f"--target {target}", target), {})
    if twice := next((name for name in named if named.count(name) > 1 or name in base.drafters), None):
        raise InputError(f"--drafter {twice}: two drafters would have this name; call one otherwise")
    if chat_template is not None:
        base = msgspec.structs.replace(base, chat_template=read_template(chat_template, "--chat-template"))
    try:
        made = msgspec.structs.replace(base, drafters={**base.drafters, **own})
    except ValueError as error:
        raise InputError(f"--drafter: {error}") from None
    choose_drafters(made, chosen)
    return made, chosen


def pair_name(pair: str | Pair) -> str:
    """What reports call a pair: a file goes by its stem, one of the command line by its target."""
    if isinstance(pair, Pair):
        bundled = (name for name in _bundled() if Path(pair.target).is_dir() and load_pair(name).target == pair.target)
        return next(bundled, Path(pair.target).name)
    return Path(pair).stem if pair.endswith((".yaml", ".yml")) else pair


def as_typed(target: str) -> str:
    """What a target is named by on a command line: a bundled pair whose target it is, or as it stands."""
    return next((name for name in _bundled() if Path(target).is_dir() and load_pair(name).target == target), target)


def sourced(option: str, source: str) -> str:
    """What an option names, independent of the current folder. Raises InputError where it names nothing that may exist."""
    if source in (*WEIGHTLESS, SMOLLM2):
        return source
    try:
        path = Path(source).expanduser()
        if source and path.exists():
            return str(path.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, or no name of a file
        pass
    if not HUB_ID.fullmatch(source):
        raise InputError(f"{option}: no such folder, and not written as the hub writes names, owner/model")
    return source


def choose_drafters(pair: Pair, wanted: list[str] | None) -> dict[str, str]:
    """The drafters of `pair` to run, `none` first; `wanted` None takes all. Raises InputError for an unknown name."""
    available = {"none": "none", **pair.drafters}
    for drafter in wanted or []:
        if drafter not in available:
            raise InputError(f"drafter {drafter}: not in this pair, which has {', '.join(available)}")
    return {d: s for d, s in available.items() if wanted is None or d in wanted or d == "none"}


def check_hub(pair: Pair, wanted: list[str] | None = None, say: Callable[[str], None] = stops.say) -> None:
    """Raise InputError within seconds where something is to come from the hub and nothing answers there.

    What downloads would try again and again. What is in the cache needs no network. A target from GGUF is converted here,
    once, before several workers would.
    """
    plain_source(pair.target, say)
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    for source in (pair.target, *choose_drafters(pair, wanted).values()):
        if source in WEIGHTLESS or is_gguf(source) or Path(source).exists():
            continue
        offline = constants.HF_HUB_OFFLINE
        try:
            if isinstance(try_to_load_from_cache(source, "config.json"), str):
                continue
            if not offline:
                say(f"looking for {source} on the hub")
                HfApi().model_info(source, timeout=_ANSWER_S)
        except (HfHubHTTPError, HFValidationError):  # it answers, or can have no such name: told where it is loaded
            continue
        except Exception as error:  # of whatever library its client asks with
            why = first_paragraph(error)
            raise InputError(
                f"{source}: no such folder, not in the hub's cache, and {constants.ENDPOINT} does not answer ({why})"
            ) from None
        if offline:
            raise InputError(f"{source}: no such folder, not in the hub's cache, and HF_HUB_OFFLINE has nobody ask the hub")


_ANSWER_S = 5.0
"""Seconds that the hub has to take a connection, and to answer on it."""


def _bundled() -> list[str]:
    """Names of the pairs that come with the package."""
    return sorted(f.stem for f in BUNDLED_PAIRS.glob("*.yaml"))


def _resolve(source: str, folder: Path) -> str:
    """A path that starts with a dot is relative to the pair's file; anything else is taken as it stands."""
    return str((folder / source).resolve()) if source.startswith(".") else source
