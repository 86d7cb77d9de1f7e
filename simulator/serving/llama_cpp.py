"""llama.cpp at commit 0c1e570 (1 October 2026): options as its server was started with and names them in its log.

Left out are its n-gram drafts, which look further back than ours; DFlash, of which it drafts blocks of z-lab's layout as
`draft-dflash` and of DeepSpec's as `draft-dspark`, and a recording does not say which its drafter has; and MTP, of which
nobody has seen here what checkpoints it takes. What a server that drafts so was seen to do has advice (`harness advise`), so
how they are told how many tokens to draft is known here: each in a way of its own (its docs/speculative.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from simulator.serving.engine import Fields, Flags, ServedKind, ServingEngine

_GGUF = "llama.cpp reads GGUF: convert the target first, and name that file"
_DRAFTER = "the drafter is converted to GGUF as well, with --target-model-dir (llama.cpp's docs/speculative.md)"
_CONTEXT = (
    "-c is the tokens of all requests together, unless given as many as the model's own context has: set what they need"
)
_SPLIT = (
    "the GPUs share every layer, as simulated, by --split-mode tensor alone (llama.cpp's docs/multi-gpu.md: experimental; "
    "it wants an unquantised cache, sizes no context by itself, so set -c, and does not start with every architecture); by "
    "itself llama.cpp puts some layers on each, which is slower where few tokens run"
)
_TYPE, _TOKENS = "--spec-type", "--spec-draft-n-max"
_TOKENS_OF: Final = {
    "ngram-simple": "--spec-ngram-simple-size-m",
    "ngram-map-k": "--spec-ngram-map-k-size-m",
    "ngram-map-k4v": "--spec-ngram-map-k4v-size-m",
    "ngram-mod": "--spec-ngram-mod-n-max",
}
"""How many tokens its look-ups draft; `--spec-draft-n-max` acts on what has a drafter alone."""
_MOD, _LEAST, _LEAST_UNLESS_SET = "ngram-mod", "--spec-ngram-mod-n-min", 48
_CACHE, _OF_CACHE = "ngram-cache", 8
_SOME: Final = "ngram"
"""A look-up of which nobody says which it is."""
_NAMED: Final = {
    _SOME: "METHOD",
    "draft_model": "draft-simple",
    "draft": "draft-simple",
    "mtp": "draft-mtp",
    "dflash": "draft-dflash",
}
"""Its words for kinds of drafters."""


def _types(fields: Mapping[str, Any]) -> list[str]:
    """Its ways to draft, of which there may be several; its sums in a log write them otherwise than the option."""
    types = [word.strip() for word in str(fields[_TYPE]).split(",")]
    return [word.replace("_", "-") if word.startswith(_SOME) else word for word in types]


def _spelled(fields: Mapping[str, Any]) -> list[str]:
    """Words of the command, with the tokens of a draft as each way to draft is told them."""
    types = _types(fields)
    named = ",".join(_NAMED.get(word, word) for word in types)
    words = [f"{_TYPE} {named}", *(f"{flag} {value}" for flag, value in fields.items() if flag not in (_TYPE, _TOKENS))]
    k = fields.get(_TOKENS)
    if k is None:
        return words
    told = dict.fromkeys(_TOKENS_OF.get(word, _TOKENS) for word in types if word not in (_CACHE, _SOME))
    words += [f"{flag} {k}" for flag in told]
    return [*words, f"{_LEAST} {k}"] if _MOD in types and k < _LEAST_UNLESS_SET else words


def _notes(fields: Mapping[str, Any]) -> list[str]:
    """What is to be known of how many tokens look-ups draft."""
    types, k, notes = _types(fields), fields.get(_TOKENS), list[str]()
    if _CACHE in types:
        notes.append(f"K cannot be set: {_CACHE} drafts up to {_OF_CACHE} tokens, and llama.cpp has no option for it")
    if _MOD in types and k is not None and k < _LEAST_UNLESS_SET:
        notes.append(
            f"{_MOD} throws away drafts shorter than {_LEAST}, {_LEAST_UNLESS_SET} unless set: above {k} that is all"
        )
    if _SOME in types:
        options = ", ".join(_TOKENS_OF.values())
        notes.append(f"no file says which look-up it is, and each has an option of its own for how many tokens: {options}")
    return notes


LLAMA_CPP: Final = ServingEngine(
    name="llama.cpp",
    serve="llama-server -m",
    version="0c1e570",
    kinds={
        "eagle3": ServedKind(method="draft-eagle3", note=_DRAFTER),
        "dspark": ServedKind(method="draft-dspark", note=_DRAFTER),
    },
    policies=("none", "fixed"),
    drafting="greedy",
    flags=Flags(
        request_cap="-np",
        step_tokens="-b",
        pass_tokens="-ub",  # 512 unless set, and -b alone is computed in so many passes
        gpus="GPUs:",
        replicas="copies:",
        shared="--split-mode tensor",
        no_prefix_cache="--no-cache-prompt",
    ),
    options=("--kv-unified",),  # with -np alone each request has that share of the context, however few run
    notes=(_GGUF, _CONTEXT),
    shared_note=_SPLIT,
    fields=Fields(method=_TYPE, checkpoint="-md", tokens=_TOKENS),
    most_requests=256,  # LLAMA_MAX_SEQ of src/llama-cparams.h
    spell=_spelled,
    spelled_notes=_notes,
)
