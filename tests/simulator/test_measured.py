"""Profiles measured on an H100 and an H200: whole, rising, with where they come from; how far the docs say rooflines are."""

from __future__ import annotations

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

from simulator.hardware.catalogue import DATA, bundled_profiles, find_profile
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Errors, dump_profile

ROOT = Path(__file__).parents[2]
MODELS = ("qwen3-4b", "qwen3-8b", "qwen3-14b")
CARDS = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
EVERY = pytest.mark.parametrize("model", MODELS)
EVERY_CARD = pytest.mark.parametrize("card", CARDS)


@EVERY_CARD
@EVERY
def test_a_measured_profile_is_whole(model: str, card: str) -> None:
    profile = find_profile(f"{card}-measured/{model}")
    assert profile.name in bundled_profiles()
    assert (profile.source, profile.device, profile.model) == ("measured", CARDS[card], model)
    assert (profile.verify.counts[0], profile.verify.counts[-1]) == (1, 4096)
    assert set(range(1, 9)) | {1 << n for n in range(4, 13)} == set(profile.verify.counts)
    assert profile.errors == Errors(0.4, 0.4, 0.4)  # it stands for an engine, and was not measured on one
    assert profile.eager is not None
    assert (profile.eager.counts[0], profile.eager.counts[-1]) == (1, 4096)
    assert set(profile.draft) == {"dspark", "dflash", "eagle3", "mtp", "ngram"}
    for name, curve in profile.draft.items():
        assert curve.drafted == (1, 7)
        assert curve.block == (name not in ("eagle3", "mtp"))
        assert all((c.counts[0], c.counts[-1]) == (1, 512) for c in curve.requests)
    curves = [profile.verify, profile.eager, *(c for d in profile.draft.values() for c in d.requests)]
    assert all(a <= b for c in curves for a, b in pairwise(c.seconds))
    assert profile.context_by_width is not None
    assert profile.context_by_width.counts == (1, 2, 4, 8)
    load = StepLoad(8, context_tokens=8 * 2048)
    parts = profile.cost("dspark", 7, 8, 64).step(load, 7, 56, Longest(7, 2048))
    assert 0 < parts.overhead_s < parts.draft_s < parts.target_s
    assert (DATA / f"{card}-measured" / f"{model}.json").read_text(encoding="utf-8") == dump_profile(profile) + "\n"


@EVERY_CARD
@EVERY
def test_it_says_where_it_comes_from(model: str, card: str) -> None:
    said = find_profile(f"{card}-measured/{model}").provenance
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said["date"])
    assert all(f"{what} " in said["versions"] for what in ("torch", "transformers", "CUDA", "driver"))
    assert "target 1 to 4096 tokens" in said["grid"]
    assert "contexts to 8192" in said["grid"]
    assert all(part in said["fit"] for part in ("target", "prefill", "dspark", "dflash", "eagle3", "mtp"))
    assert said["command"].startswith(f"harness profile --architecture {model} --device cuda")
    assert re.fullmatch(r"[0-9a-f]{40}", said["commit"])
    assert {"timing", "attention", "host", "sampling", "weights", "live check"} <= set(said)


@pytest.mark.parametrize(
    ("card", "passes_off", "drafts_off", "context_off"),
    [("h100", (-63, -24), (-70, -19), 1), ("h200", (-71, -24), (-72, -23), 27)],
)
def test_the_docs_say_how_far_rooflines_are(
    card: str, passes_off: tuple[int, int], drafts_off: tuple[int, int], context_off: int
) -> None:
    """The table is the one that the tool prints, and the sentences around it hold for it."""
    lines = runpy.run_path(str(ROOT / "tools" / "measured_hardware.py"))["table"](card)
    assert "\n".join(lines) in (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    off = {
        line.split("|")[1].strip(): [int(x.replace("−", "-").replace(" ", "")) for x in re.findall(r", ([+−]\d+) %", line)]
        for line in lines[2:]
    }
    assert all(len(errors) == len(MODELS) for errors in off.values())
    passes = [e for name, errors in off.items() if name.startswith("target") for e in errors]
    drafts = [e for name, errors in off.items() if "γ =" in name for e in errors]
    assert (min(passes), max(passes)) == passes_off
    assert (min(drafts), max(drafts)) == drafts_off
    said = f"{-passes_off[1]} to {-passes_off[0]} % shorter and drafts {-drafts_off[1]} to {-drafts_off[0]} %"
    assert said in (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert max(map(abs, off["a context token"])) <= context_off
    assert max(map(abs, off["cache, tokens"])) <= 9


@EVERY_CARD
@EVERY
def test_rooflines_keep_their_names(model: str, card: str) -> None:
    assert find_profile(f"{card}/{model}").source == "roofline"
