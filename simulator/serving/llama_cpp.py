"""llama.cpp at commit 0c1e570 (1 October 2026): options as its server was started with and names them in its log.

Left out are its n-gram drafts, which look further back than ours, and MTP and DFlash, of which nobody has seen here what
checkpoints they take.
"""

from __future__ import annotations

from typing import Final

from simulator.serving.engine import Fields, Flags, ServedKind, ServingEngine

_GGUF = "llama.cpp reads GGUF: convert the target first, and name that file"
_DRAFTER = "the drafter is converted to GGUF as well, with --target-model-dir (llama.cpp's docs/speculative.md)"
_CONTEXT = (
    "-c is the tokens of all requests together, unless given as many as the model's own context has: set what they need"
)

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
    flags=Flags(request_cap="-np", step_tokens="-b", gpus="GPUs:", replicas="copies:"),
    options=("--kv-unified",),  # with -np alone each request has that share of the context, however few run
    notes=(_GGUF, _CONTEXT),
    fields=Fields(method="--spec-type", checkpoint="-md", tokens="--spec-draft-n-max"),
    most_requests=256,  # LLAMA_MAX_SEQ of src/llama-cparams.h
    spell=lambda fields: [f"{flag} {value}" for flag, value in fields.items()],
)
