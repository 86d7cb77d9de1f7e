"""The doctor: its statistics on numbers that are known, and a checkpoint that declares the wrong layers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from drafters.checkpoints import facts_of, read_declared
from drafters.conventions import Variant, flips, gammas, neighbours
from drafters.doctor import LONGER, Diagnosis, Reading, diagnose, texts_of
from drafters.formats.contract import Declared
from drafters.formats.files import Checkpoint
from drafters.formats.registry import declare
from drafters.target import Target
from harness.cli.app import app
from harness.cli.doctor import judge
from harness.recording.suite import load_suite
from simulator.errors import AnswerIsNo
from tests.documented import differences
from tests.drafters.test_formats import LAYER, PUBLISHED
from tests.drafters.test_golden_formats import GOLDEN, of_each, reference

TINY = Path(__file__).parents[2] / "drafters" / "tiny"
TEXTS, ANCHORS = 24, 60


def diagnosis(*lengths: float, commonest: float = 0.1, seed: int = 0, spread: float = 0.2) -> Diagnosis:
    """Readings that accept so many tokens on average, with texts that differ as `spread` says, all alike."""
    rng = np.random.default_rng(seed)
    easy = np.exp(spread * rng.standard_normal(TEXTS))
    readings = [
        Reading(Variant({"order": i} if i else {}, (f"reading {i}",) if i else ()), rng.poisson(length * ANCHORS * easy)
                .astype(np.float64), rng.poisson(min(length, 1.0) / 2 * ANCHORS * easy).astype(np.float64),
                (min(length, 1.0) / 2,))
        for i, length in enumerate(lengths)
    ]  # fmt: skip
    anchors = np.full(TEXTS, float(ANCHORS))
    return Diagnosis("x", {}, 1, anchors, commonest * anchors, tuple(readings), ())


def test_what_is_clearly_better_is_said() -> None:
    found = diagnosis(1.0, 1.5, 0.1)
    assert found.better is found.readings[1]
    gain, low, high = found.gain(found.readings[1])
    assert low < gain < high
    assert gain == pytest.approx(0.5, abs=0.15)
    assert found.alike == []


def test_what_is_alike_cannot_be_told_apart() -> None:
    found = diagnosis(1.0, 1.0, 0.1)
    assert found.better is None
    assert found.alike == [found.readings[1]]


def test_what_may_be_much_better_is_told_though_it_is_not_sure() -> None:
    """A seventh more on average, in texts that differ by more than that: neither sure nor ruled out."""
    found = diagnosis(1.0, 1.0, 0.1)
    assert found.may_be_better is None
    apart = np.where(np.arange(TEXTS) % 2, 60.0, -42.0)
    wide = replace(found.readings[1], accepted=found.readings[0].accepted + apart)
    unsure = replace(found, readings=(found.readings[0], wide, found.readings[2]))
    assert unsure.better is None
    assert unsure.may_be_better is wide


def test_readings_that_are_all_alike_are_rarely_told_apart() -> None:
    """Of 200 checkpoints with twelve equal readings at most 8 % are said to have a better one; 5 % is meant."""
    assert sum(diagnosis(*[1.0] * 13, seed=seed).better is not None for seed in range(200)) <= 16


@pytest.mark.parametrize(("others", "best"), [([30.0, 60.0], 2), ([80.0, -10.0], 1)])
def test_one_answer_hides_neither_what_is_better_in_all_others_nor_what_is_better_for_sure(
    others: list[float], best: int
) -> None:
    """As found: one base of the angles gives a little in every text, that and the layers much in all but one, which counts
    more than all others: its average is unsure, the number of texts is not. Without that number the first is taken."""
    declared = np.array([278.0, *[50.0] * 23])
    more = [np.zeros(24), np.array([0, *[5.0, 6.0, 4.0] * 7, 5, 5]), np.array([-240, *others * 11, 40])]
    words: list[tuple[str, ...]] = [(), ("base 1",), ("base 1", "taps")]
    readings = [
        Reading(Variant(dict.fromkeys(said, 1), said), declared + own, declared, (0.5,))
        for said, own in zip(words, more, strict=True)
    ]
    found = Diagnosis("x", {}, 1, np.full(24, 63.0), np.full(24, 3.0), tuple(readings), ())
    assert found.length(readings[2]) > found.length(readings[1])
    assert found.gain(readings[2])[1] < 0 < found.gain(readings[2])[0]
    assert found.ahead(readings[2])[1] == 24
    assert found.better is readings[best]
    assert readings[1] not in found.alike


@pytest.mark.parametrize(("changes", "more"), [({"order": 1}, 0.5), ({"block": 7}, 9.0)])
def test_what_is_hardly_more_and_a_longer_block_are_no_better(changes: dict[str, Any], more: float) -> None:
    """However sure: one token in a hundred is no misread convention, and a block's length hardly shows."""
    declared = np.full(24, 50.0)
    readings = [
        Reading(Variant({}, ()), declared, declared, (0.5,)),
        Reading(Variant(changes, ("other",)), declared + more, declared, (0.5,)),
    ]
    found = Diagnosis("x", {}, 1, np.full(24, 63.0), np.full(24, 3.0), tuple(readings), ())
    assert found.gain(readings[1])[1] > 0
    assert found.better is None


def test_of_angles_that_cannot_be_told_apart_the_targets_are_taken() -> None:
    """As found: a draft of the target's own base, declared otherwise, drafted a little better with a third."""
    declared = np.full(24, 50.0)
    words = ["rotary plain, base 500000", "rotary the target's", "rotary plain, base 10000", "taps one lower"]
    more = [np.zeros(24), *(np.array([a, b] * 12) for a, b in ((30.0, 20.0), (20.0, 29.0), (5.0, 6.0), (4.0, 5.0)))]
    readings = [
        Reading(Variant({word.split()[0]: word} if word else {}, (word,) if word else ()), declared + own, declared, (0.5,))
        for word, own in zip(["", *words], more, strict=True)
    ]
    found = Diagnosis("x", {}, 1, np.full(24, 63.0), np.full(24, 3.0), tuple(readings), ())
    assert found.length(readings[1]) > found.length(readings[2])
    assert found.better is readings[2]
    assert readings[1] in found.alike
    less = Diagnosis("x", {}, 1, np.full(24, 63.0), np.full(24, 3.0), (readings[0], readings[1], readings[3]), ())
    assert less.better is readings[1]


@pytest.mark.parametrize(("first", "sure"), [(400.0, False), (20.0, True)])
def test_a_combination_never_wins_over_a_part_that_accepts_as_much(first: float, sure: bool) -> None:
    """As found: a base of the angles gave most, in one answer above all, and that with a norm that is no such less, but in
    more of them; a wrong base gave a little in each. The base is the answer, or it takes more of them to tell."""
    declared = np.full(24, 50.0)
    words: list[tuple[str, ...]] = [(), ("base 1",), ("base 1", "norms"), ("base 2",)]
    more = [np.zeros(24), np.array([first, *[12.0, -9.0] * 11, 10.0]), np.array([9.0] * 24), np.array([4.0, 5.0] * 12)]
    if sure:
        more[1] = np.array([20.0, 21.0] * 12)
    readings = [
        Reading(Variant({word.split()[0] + word[-1]: 1 for word in said}, said), declared + own, declared, (0.5,))
        for said, own in zip(words, more, strict=True)
    ]
    found = Diagnosis("x", {}, 1, np.full(24, 63.0), np.full(24, 3.0), tuple(readings), ())
    assert found.length(readings[1]) > found.length(readings[2])
    assert found.surpasses(readings[2])
    assert found.surpasses(readings[1]) is sure
    assert found.parts(readings[2]) == [readings[1]]
    assert found.better is (readings[1] if sure else None)
    assert found.unsure == (None if sure else (readings[1], readings[2]))
    with pytest.raises(AnswerIsNo, match="better with base 1: " if sure else r"cannot be told yet: base 1 .*--texts"):
        judge(found, "a head")


def test_answers_of_one_token_are_left_out_unless_most_are_such(monkeypatch: pytest.MonkeyPatch) -> None:
    for loops, kept in ((1, 7), (4, 4), (5, 8)):
        said = {i: SimpleNamespace(token_ids=[7] * 9 + [8] * 3 if i < loops else [*range(12)]) for i in range(8)}
        monkeypatch.setattr("drafters.doctor.decode", lambda *_, said=said, **__: said.items())
        texts = texts_of(None, [[1, 2]] * 8, 12, 2)  # type: ignore[arg-type]
        assert len(texts) == kept


def test_what_accepts_as_often_as_the_commonest_token_does_not_beat_chance() -> None:
    assert not diagnosis(0.2, 0.2, commonest=0.12).beats_chance
    assert diagnosis(1.0, 0.2, commonest=0.12).beats_chance


def test_what_few_answers_cannot_tell_is_not_called_chance() -> None:
    """41 % where the commonest token has 22 %, over answers that differ as much: it may draft, and more answers tell."""
    first, commonest = np.array([60.0, 55, 3, 2, 20, 4, 3, 50]), np.array([5.0, 50, 12, 10, 2, 9, 8, 9])
    reading = Reading(Variant({}, ()), first, first, (float(first.sum() / 480),))
    found = Diagnosis("x", {}, 1, np.full(8, 60.0), commonest, (reading,), ())
    assert not found.beats_chance
    with pytest.raises(AnswerIsNo, match=r"cannot be told yet.*41%.*22%.*--texts"):
        judge(found, "a head")
    worse = replace(found, commonest=first + 1)
    with pytest.raises(AnswerIsNo, match="no better than the commonest"):
        judge(worse, "a head")


def test_one_answer_of_one_token_hides_no_drafter() -> None:
    """As found: eleven of twelve texts drafted, and one that says one token 46 times of 47."""
    first = np.array([10.0, 3, 29, 4, 1, 1, 29, 2, 27, 7, 30, 5])
    commonest = np.array([0.0, 0, 0, 0, 0, 46, 0, 0, 1, 0, 0, 0])
    reading = Reading(Variant({}, ()), first, first, (0.26,))
    found = Diagnosis("x", {}, 1, np.full(12, 47.0), commonest, (reading,), ())
    assert found.beats_chance
    assert not Diagnosis("x", {}, 1, np.full(12, 47.0), np.flip(first), (reading,), ()).beats_chance


def run(*options: str) -> Any:
    done = CliRunner().invoke(app, ["doctor", *options, "--json"])
    return done.exit_code, json.loads(done.stdout)["doctor"], done.stderr


@pytest.mark.slow
def test_the_bundled_drafters_are_read_as_they_declare() -> None:
    for name in ("eagle3", "dspark"):
        code, told, _ = run(str(TINY / name), "--target", "tiny", "--texts", "12", "--max-new-tokens", "32")
        assert (code, told["verdict"], told["format"]) == (0, "declared", "DeepSpec")
        assert told["table"][0]["reading"] == "as declared"


@pytest.mark.slow
def test_layers_declared_one_too_high_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "wrong layers"
    shutil.copytree(TINY / "dspark", folder)
    config = json.loads((folder / "config.json").read_text())
    config["target_layer_ids"] = [i + 1 for i in config["target_layer_ids"]]
    (folder / "config.json").write_text(json.dumps(config))
    code, told, said = run(str(folder), "--target", "tiny")
    assert code == 1
    assert (told["verdict"], told["best"]) == ("other", "taps one lower")
    assert told["interval"][0] > 0
    assert "taps one lower" in said.splitlines()[-1]


def test_json_has_the_documented_keys() -> None:
    options = [str(TINY / "mtp"), "--target", "tiny", "--texts", "4", "--max-new-tokens", "8", "--json"]
    done = CliRunner().invoke(app, ["doctor", *options])
    assert done.exit_code in (0, 1), done.output
    assert differences(done.stdout) == []


def test_a_better_reading_that_no_format_can_express_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = diagnosis(1.0, 1.5)
    capped = replace(found.readings[1], variant=Variant({"softcap": 30.0}, ("softcap 30",)))
    monkeypatch.setattr("drafters.doctor.diagnose", lambda *_: replace(found, readings=(found.readings[0], capped)))
    options = [str(TINY / "mtp"), "--target", "tiny", "--texts", "4", "--max-new-tokens", "8"]
    options += ["--corrected", str(tmp_path / "new")]
    done = CliRunner().invoke(app, ["doctor", *options])
    assert done.exit_code == 1, done.output
    assert re.search(r"softcap 30 +1\.", done.stdout)
    assert "--corrected: checkpoint" in done.stdout
    assert "cannot be written as" in done.stdout
    assert "next," not in done.stdout
    code, told, _ = run(*options)
    assert (code, told["best"], told["corrected"]) == (1, "softcap 30", None)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_there_is_told_at_once() -> None:
    done = CliRunner().invoke(app, ["doctor", "./nowhere", "--target", "tiny"])
    assert done.exit_code == 2
    assert "checkpoint ./nowhere: no such folder" in done.stderr


@pytest.mark.parametrize("word", ["none", "ngram"])
def test_what_has_no_weights_is_refused(word: str) -> None:
    done = CliRunner().invoke(app, ["doctor", word, "--target", "tiny"])
    assert done.exit_code == 2
    assert f"checkpoint {word}: has no weights" in done.stderr


def tried(raw: dict[str, Any], target: Target, *tensors: str) -> set[str]:
    """Readings of what a configuration declares, beside it."""
    declared = declare(Checkpoint("mine", raw), facts_of(target))
    return {variant.name for variant in flips(declared, target, dict.fromkeys(tensors, (16, 16)))}


def test_every_convention_that_can_differ_is_flipped_and_no_other(target: Target) -> None:
    eagle = PUBLISHED["EAGLE-3 (SpecForge, SGLang)"]
    found = tried({**eagle, "layer_types": None, "use_sliding_window": False}, target)
    assert {"residual normed feature", "fed back after the norm", "norm of taps each", "norm of taps joined",
            "order feature, embedding", "norms × 1 + w", "rotary interleaved", "taps one lower"} <= found  # fmt: skip
    assert not {name for name in found if name.startswith(("d2t", "layout", "windows", "inside", "the head"))}
    assert {"no windows", "windows from the anchor"} <= tried(eagle, target)
    assert "the head of its own embedding" in tried(eagle, target, "embed_tokens.weight")
    assert "d2t ids" in tried(PUBLISHED["EAGLE-3.1"], target)

    zlab = {**PUBLISHED["DFlash (z-lab, SpecForge)"], "layer_types": None, "use_sliding_window": False}
    assert {"layout anchor-first", "inside the block causal", "block one longer"} <= tried(zlab, target)
    zlab["dflash_config"] = {**zlab["dflash_config"], "causal": True}
    assert "inside the block bidirectional" in tried(zlab, target)

    mtp = tried(PUBLISHED["speculators mtp"], target)
    assert {"order feature, embedding", "taps the last, after the target's last norm"} <= mtp
    assert not {name for name in mtp if name.startswith(("residual", "fed back", "norm of taps"))}
    plain = tried({**eagle, "eagle_config": {"use_aux_hidden_state": False}}, target)
    assert "taps the last, before the target's last norm" in plain
    scaled = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 123.0}
    turned = tried({**eagle, "is_neox_style": False, **scaled}, target)
    assert {"rotary not interleaved", "rotary plain, base 123"} <= turned
    assert LAYER["rope_theta"] not in (1e4, 5e5, 1e6)
    assert "rotary scaled as declared, base 500000" in turned
    assert "the sequential head" in tried(zlab, target, "markov_head.markov_w1.weight")


def test_the_targets_scaling_is_read_with_every_usual_base(target: Target) -> None:
    """As found: a draft of the target's scaling and a base of its own, declared plain, was written with a wrong base."""
    own = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    scaled = SimpleNamespace(
        config=SimpleNamespace(rope_parameters=own), num_layers=target.num_layers, tokenizer=target.tokenizer
    )
    declared = declare(Checkpoint("mine", PUBLISHED["EAGLE-3 (SpecForge, SGLang)"]), facts_of(target))
    found = {one.name: one for one in flips(declared, cast("Target", scaled), {}) if "shape" in one.changes}
    bases = {dict(one.changes["shape"].rotary)["rope_theta"] for name, one in found.items() if "target's" in name}
    assert bases == {1e4, 5e5, 1e6, LAYER["rope_theta"]}
    assert dict(found["rotary the target's"].changes["shape"].rotary) == own
    assert "rotary scaled as the target's, base 10000" not in found  # it is that
    assert not {name for name in tried(PUBLISHED["EAGLE-3 (SpecForge, SGLang)"], target) if "scaled as the target" in name}


def test_of_angles_alike_none_is_taken_that_another_surpasses() -> None:
    """The target's own are no better guess than any where a third is surely better than they."""
    declared = np.full(24, 50.0)
    words = ["rotary plain, base 1e+06", "rotary the target's", "rotary plain, base 500000"]
    more = [np.zeros(24), *(np.array([a, b] * 12) for a, b in ((62.0, 1.0), (22.0, 24.0), (26.0, 28.0)))]
    readings = [
        Reading(Variant({"rotary": word} if word else {}, (word,) if word else ()), declared + own, declared, (0.5,))
        for word, own in zip(["", *words], more, strict=True)
    ]
    found = Diagnosis("x", {}, 1, np.full(24, 63.0), np.full(24, 3.0), tuple(readings), ())
    assert not found.surpasses(readings[1], readings[2])
    assert found.surpasses(readings[3], readings[2])
    assert found.better is readings[1]


def test_each_of_several_taps_is_asked_about_by_itself(target: Target) -> None:
    declared = declare(Checkpoint("mine", PUBLISHED["DFlash (z-lab, SpecForge)"]), facts_of(target))
    settings = replace(declared.settings, taps=(-1, 0, 2))
    found = {variant.name: variant.changes["taps"] for variant in neighbours(settings, target)}
    assert found == {"tap h[2] for h[1]": (-1, 1, 2), "tap h[2] for h[3]": (-1, 0, 1)}  # the target has three layers
    assert not list(neighbours(replace(settings, taps=(3,)), target))


def test_what_was_dismissed_counts_in_how_sure_one_is() -> None:
    found = diagnosis(1.0, 1.5)
    unsure = replace(found, dismissed=("tap h[1] for h[2]",) * 99)
    assert unsure.error == pytest.approx(found.error / 100)
    assert unsure.gain(found.readings[1])[1] < found.gain(found.readings[1])[1]


def test_every_length_of_block_in_either_layout_has_its_text_and_counts_alike(target: Target) -> None:
    """Of the shortest reading's positions all are compared; the longest one's are all among the answers'."""
    raw = {**PUBLISHED["DFlash (z-lab, SpecForge)"], "layer_types": None, "use_sliding_window": False, "block_size": 5}
    for first, expected in ((False, {3, 4, 5, 6}), (True, {3, 4, 5, 6})):
        own = {**raw["dflash_config"], "sample_from_anchor": first}
        declared = declare(Checkpoint("mine", {**raw, "dflash_config": own}), facts_of(target))
        assert declared.gamma == 4 + first
        assert {*gammas(declared, list(flips(declared, target, {})))} == expected
        assert max(expected) <= declared.gamma + LONGER


@cache
def judged_by(name: str, count: int = 12, tokens: int = 48) -> tuple[Target, Any]:
    """A golden target, and its answers to a few prompts."""
    target = Target.load(str(GOLDEN / name), live=True, chat_template="plain")
    asked = load_suite("math_code_chat").prompts
    chosen = [asked[i * len(asked) // count] for i in range(count)]
    return target, texts_of(
        target, [target.encode_chat([{"role": "user", "content": prompt.turns[0]}]) for prompt in chosen], tokens, 9
    )


Tensors = dict[str, Tensor]
AUX = "eagle_aux_hidden_state_layer_ids"


def taps(step: int) -> Callable[[dict[str, Any], Tensors], None]:
    def wrong(raw: dict[str, Any], _: Tensors) -> None:
        for of in (raw, *(value for value in raw.values() if isinstance(value, dict))):
            for field in [field for field in of if field.endswith("layer_ids")]:
                of[field] = [i + step for i in of[field]]

    return wrong


def tap(place: int, step: int) -> Callable[[dict[str, Any], Tensors], None]:
    def wrong(raw: dict[str, Any], _: Tensors) -> None:
        for of in (raw, *(value for value in raw.values() if isinstance(value, dict))):
            for field in [field for field in of if field.endswith("layer_ids")]:
                of[field] = [one + step * (i == place) for i, one in enumerate(of[field])]

    return wrong


def said(field: str, value: Any, *places: str) -> Callable[[dict[str, Any], Tensors], None]:
    def wrong(raw: dict[str, Any], _: Tensors) -> None:
        for place in places:
            raw = raw[place]
        raw[field] = value

    return wrong


def together(*wrongs: Callable[[dict[str, Any], Tensors], None]) -> Callable[[dict[str, Any], Tensors], None]:
    def wrong(raw: dict[str, Any], tensors: Tensors) -> None:
        for one in wrongs:
            one(raw, tensors)

    return wrong


def absolute(_: dict[str, Any], tensors: Tensors) -> None:
    tensors["d2t"] = tensors["d2t"] + torch.arange(len(tensors["d2t"]))


def reversed_pairs(_: dict[str, Any], tensors: Tensors) -> None:
    for name in [n for n in tensors if n.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "input_proj.weight"))]:
        if "eagle" not in name and tensors[name].shape[1] == 128:
            tensors[name] = torch.cat(tensors[name].chunk(2, -1)[::-1], -1).contiguous()


def reversed_taps(_: dict[str, Any], tensors: Tensors) -> None:
    tensors["fc.weight"] = torch.cat(tensors["fc.weight"].chunk(3, -1)[::-1], -1).contiguous()


def less_one(_: dict[str, Any], tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith("norm.weight")]:
        tensors[name] = tensors[name] - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("eagle3_specforge", taps(1), "taps one lower"),
        ("eagle3_specforge", absolute, "d2t ids"),
        ("eagle3_specforge", reversed_pairs, "order feature, embedding"),
        ("eagle3_specforge", said("norm_before_residual", True), "residual feature"),
        ("eagle3_nvidia", said("norm_before_fc", False, "eagle_config"), "norm of taps joined"),
        ("eagle3_1_specforge", said("norm_output", False), "fed back after the norm"),
        ("eagle3_1_specforge", said("fc_norm", False), "norm of taps each"),
        ("speculators_eagle3", less_one, "norms × 1 + w"),
        ("speculators_eagle3_residual", taps(1), "taps one lower"),
        ("deepspec_gemma4_dspark", taps(1), "taps one lower"),  # one of them is no layer of the target then
        ("speculators_dspark_anchor_first", said("sample_from_anchor", False), "layout anchor-first"),
        ("specforge_dspark", said("sample_from_anchor", False, "dflash_config"), "layout anchor-first"),
        ("zlab_dflash", taps(-1), "taps one higher"),
        ("speculators_mtp", reversed_pairs, "order feature, embedding"),
        ("specforge_dspark", said("markov_rank", 0, "dflash_config"), "the sequential head"),  # its tensors are left
        ("speculators_dflash", said("mask_token_id", 0), "mask token 3 for 0"),
        ("speculators_dspark_fill_in", said("mask_token_id", 2), "mask token 3 for 2"),
        # One of several taps, where the next layer's output is not as good.
        ("speculators_eagle3", tap(0, -1), "tap h[2] for h[1]"),
        ("eagle3_nvidia", tap(2, 1), "tap h[7] for h[8]"),
        ("zlab_dflash", tap(3, 1), "tap h[6] for h[7]"),
        ("speculators_dspark_anchor_first", tap(3, 1), "tap h[6] for h[7]"),
        ("speculators_eagle3_residual", together(tap(0, -1), tap(1, -1)), "tap h[1] for h[0] and tap h[4] for h[3]"),
        # Of bases that cannot be told apart the one that is declared.
        ("eagle3_nvidia", said("rope_scaling", None), "rotary scaled as the target's, base 500000"),
        # Two at once: the second counts little while the first is wrong, or neither leaves anything by itself.
        ("eagle3_specforge", together(taps(1), said("norm_output", True)), "taps one lower and fed back before the norm"),
        ("eagle3_nvidia", together(taps(-1), said("norm_before_fc", False, "eagle_config")),
         "taps one higher and norm of taps joined"),
        ("speculators_dspark_anchor_first", together(taps(1), said("sample_from_anchor", False)),
         "taps one lower and layout anchor-first"),
        ("speculators_eagle3", together(absolute, reversed_pairs), "d2t ids and order feature, embedding"),
        ("speculators_dflash", together(taps(1), said("sample_from_anchor", True)), "taps one lower and layout fill-in"),
        ("speculators_dflash", together(said("sample_from_anchor", True), said("mask_token_id", 0)),
         "layout fill-in and mask token 3 for 0"),
        ("speculators_dspark_fill_in", together(taps(1), less_one), "taps one lower and norms × 1 + w"),
        ("zlab_dflash", together(taps(-1), said("rope_theta", 1e6)), "taps one higher and rotary plain, base 10000"),
        ("eagle3_specforge", reversed_taps, "taps joined in reverse order"),
        ("specforge_dspark", together(taps(1), said("sample_from_anchor", False, "dflash_config"), said("rope_theta", 1e6)),
         "taps one lower and layout anchor-first and rotary plain, base 10000"),  # three
    ],
)  # fmt: skip
def test_a_convention_that_is_declared_wrong_is_named(name: str, wrong: Any, right: str, tmp_path: Path) -> None:
    if not (GOLDEN / name).is_dir():
        pytest.skip(f"no golden vectors in {GOLDEN}")
    raw, tensors = json.loads((GOLDEN / name / "config.json").read_text()), load_file(GOLDEN / name / "model.safetensors")
    wrong(raw, tensors)
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    save_file(tensors, tmp_path / "model.safetensors")
    little = any(word in right for word in (" and ", "mask", "base 500000"))
    as_many = (24, 64) if little else ()  # what two at once leave is little: as many as the command takes by default
    target, texts = judged_by(reference(GOLDEN / name)["target"], *as_many)
    declared: Declared = read_declared(tmp_path, facts_of(target)._replace(beyond=1), name)
    found = diagnose(declared, tmp_path, target, texts, name)
    assert found.beats_chance
    assert found.better is not None
    assert set(right.split(" and ")) <= set(found.better.variant.words)


@pytest.mark.slow
@of_each
def test_what_publishers_declare_is_not_corrected(folder: Path) -> None:
    """By as many answers as the command takes by default."""
    target, texts = judged_by(reference(folder)["target"], 24, 64)
    declared = read_declared(folder, facts_of(target)._replace(beyond=1), folder.name)
    found = diagnose(declared, folder, target, texts, folder.name)
    assert found.beats_chance
    assert found.better is None
