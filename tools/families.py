"""What Specyard does with every family of causal language models that transformers has: `python tools/families.py`.

Prints docs/targets.md. Every family is tried on a micro model with random weights, made on the spot: some minutes on a core.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).parents[1]))  # the micro models are those of the tests

import torch
import transformers

from drafters.generation import rows_at_once
from drafters.target import Target
from simulator.errors import InputError
from tests.drafters.families import FAMILIES, check_decoding, check_reading, check_recording, family_model

PAGE: Final = """\
# Targets

A target is a causal language model of transformers. Made by `python tools/families.py > docs/targets.md` with transformers
{version}: each family as a micro model with random weights, in float32 on a CPU.

* **runs**: live decoding and recording. Greedy decoding of three prompts of different lengths together, with and without
  drafts by look-up, some of them rejected, gave token for token what the model's own `generate` gives.
* **records**: dense recording alone, since its state cannot be rolled back when a draft is rejected. Responses come from
  the model's own `generate`, under the suite's sampling settings and no others, or from `--responses`. Greedy ones were
  what the model says when it reads the whole text, and padding on the right changed nothing. `--mode live` is refused, and
  `harness run` leaves its live speed pass out.
* **records given responses**: its `generate` does not work with this transformers, so responses come from `--responses`,
  each with its end token.
* **refused**: when it is loaded, in the words beside it.

This is tried out again on every target that is loaded, whatever its family: that its head alone gives its logits, that what
it makes of a token depends on no later one, and, before it decodes, that after a rejected draft it goes on as if there had
been none. Learned drafters read what decoder layers put out; where that is not one state for a token, look-up is what there
is. Encoders asked to be decoders (BERT) and decoders of encoder-decoders (Marian) are here as well.

A folder whose weights are not what its `config.json` says is refused when it is loaded, whatever its family: tensors that
are lacking or of other shapes, layers that are not counted, parts of another family, biases and scales that have no place, a
head that differs from the embedding it is tied to, quantisations that transformers does not have, adapters beside weights.

{counts}

| family | | why, or what to know |
|---|---|---|
{rows}
"""


class Row(NamedTuple):
    """One family's line."""

    family: str
    does: str
    note: str


def tried(family: str) -> Row:
    """What Specyard does with a family. Raises AssertionError where it does it wrongly."""
    try:
        target = Target(family_model(family))
    except InputError as error:
        return Row(family, "refused", str(error).partition(": ")[2])
    notes = []
    if target.cannot_decode is None:
        check_decoding(target)
        check_reading(target)
        does = "runs"
        if not target.decodes_together:
            notes.append("rows of a batch are read one after another: it makes all masks itself")
    else:
        does = "records"
        notes.append(target.cannot_decode)
        try:
            together = rows_at_once(target) > 1
            check_recording(target)
            if not together:
                notes.append("its `generate` is right only for one text at a time, and so used")
        except InputError as error:
            check_reading(target)
            does = "records given responses"
            notes.append(str(error).partition(": ")[2].partition("; give")[0])
    try:
        target.check_taps(range(-1, target.num_layers))
    except InputError:
        notes.append("n-gram only: its layers do not give one state for a token")
    return Row(family, does, "; ".join(notes))


def main() -> None:
    """Print the page; with names of families, only their lines."""
    torch.set_num_threads(1)
    rows = []
    for family in sys.argv[1:] or FAMILIES:
        print(family, file=sys.stderr, flush=True)
        with redirect_stdout(sys.stderr):  # some models print warnings
            rows.append(tried(family))
    lines = "\n".join(f"| {r.family} | {r.does} | {r.note.replace('|', '/')} |" for r in rows)
    if sys.argv[1:]:
        print(lines)
        return
    run, record, given, refused = (
        sum(r.does == does for r in rows) for does in ("runs", "records", "records given responses", "refused")
    )
    told = f"{run} run, {record} record, {given} record given responses, {refused} are refused"
    counts = f"Of {len(rows)} families and variants {told}."
    print(PAGE.format(version=transformers.__version__, counts=counts, rows=lines), end="")


if __name__ == "__main__":
    main()
