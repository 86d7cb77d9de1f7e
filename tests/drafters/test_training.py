"""The trainer: losses against plain formulas, learning that happens, runs that resume to the same bits."""

from __future__ import annotations

import errno
import io
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed
from torch.distributed.tensor import DTensor

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.sharding import load_shared, shared_bytes
from drafters.target import Target
from drafters.training.design import Made, default_taps, make_drafter, save_made, warm_drafter, widen_tables
from drafters.training.held_out import acceptances, drafting_on, ratio, walk
from drafters.training.held_out import prepare as read_held_out
from drafters.training.loop import STATE, Evaluated, Material, Trainer, Watch
from drafters.training.losses import TRAINING, Training, draft_loss
from drafters.training.muon import orthogonal
from drafters.training.recipe import Design, Recipe, cache_bytes
from drafters.training.states import States
from drafters.training.texts import Split, Text, TextBatch, batches, default_share, most_frequent, overlap, split, usable
from simulator.errors import InputError
from simulator.hardware.catalogue import devices
from simulator.hardware.training import Recipe as Needed
from simulator.hardware.training import target_of, training_cost
from simulator.numbers import abbreviated
from simulator.records import MAX_GAMMA, Sampling
from tests.drafters.conftest import END, VOCAB
from tests.drafters.families import family_model, generated, micro_model, prompts

SMALL = {"layers": 1, "gamma": 3}
RECIPE = Recipe(steps=12, batch=4, anchors=4, evaluations=3, patience=3, warmup=0.2)


@pytest.fixture(scope="module")
def texts(target: Target) -> list[Text]:
    """Its own answers to random prompts."""
    rng = np.random.default_rng(0)
    asked = [tuple(int(t) for t in rng.choice([1, 3, 4, 5], size=6)) for _ in range(48)]
    requests = [DecodeRequest(prompt, 10 + i % 9, (i,)) for i, prompt in enumerate(asked)]
    from drafters.kinds.none import NoDrafter

    said = dict(decode(target, NoDrafter(), requests, Sampling(), max_batch=48))
    found = [Text(f"t/{i}", "math" if i % 2 else "code", asked[i], tuple(said[i].token_ids)) for i in range(len(asked))]
    return usable(found, 64)


def design(kind: str, **changes: Any) -> Design:
    sizes = {**SMALL, **({"rank": 4} if kind == "dspark" else {}), **changes}
    return Design(kind=kind, **{k: v for k, v in sizes.items() if not (kind == "mtp" and k == "layers")})


def material_of(made: Made, target: Target, texts: Sequence[Text], folder: Path | None = None, most: int = 0) -> Material:
    states = States(target, made.drafter.tap_layers, texts[:24], folder, most)
    states.open(fill=True)
    held_out = list(read_held_out(target, texts[24:32], made.drafter.tap_layers, Sampling()))
    return Material(texts[:24], states, held_out, Sampling())


def trainer_of(
    kind: str, target: Target, texts: Sequence[Text], folder: Path, recipe: Recipe = RECIPE, **changes: Any
) -> Trainer:
    made = make_drafter(design(kind), target, texts, None, recipe.seed)
    return Trainer(made, target, material_of(made, target, texts, **changes), recipe, torch.float32, folder)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.made.drafter.named_parameters()}


def assert_same(one: Trainer, other: Trainer) -> None:
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


@pytest.mark.parametrize("kind", TRAINING)
def test_the_loss_is_the_formula(kind: str, make: Callable[[str], Drafter], target: Target) -> None:
    """One anchor of one text, each term written out."""
    drafter = make(kind)
    assert isinstance(drafter, LearnedDrafter)
    ids, gamma = torch.tensor([[1, 3, 4, 1, 3, 5, 4, 1]]), drafter.gamma
    batch = TextBatch(ids, torch.tensor([5]), torch.tensor([7]))  # token 6 is the last: position 1 alone counts
    seen = target.read(ids, drafter.tap_layers)
    loss, survival = draft_loss(kind, target, drafter, batch, seen, torch.tensor([[5]]))
    p = target.head(seen.hidden)[0, 5].softmax(-1)
    draft = drafter.teacher_forced(seen.taps, ids, torch.tensor([[5]]), ids[:, None, [6, 7, 7][:gamma]])
    q, y = draft.logits[0, 0, 0].softmax(-1), 4
    l1 = (q - p).abs().sum()
    if kind == "eagle3":
        expected = -(p * q.log()).sum()
    elif kind == "mtp":
        expected = -q[y].log() + l1
    else:
        expected = 0.1 * -q[y].log() + 0.9 * l1
        if kind == "dspark":
            assert draft.confidence_logits is not None
            c, overlap_ = draft.confidence_logits[0, 0, 0].sigmoid(), torch.minimum(p, q).sum()
            expected = expected - (overlap_ * c.log() + (1 - overlap_) * (1 - c).log())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(survival, torch.minimum(p, q).sum(), atol=1e-5, rtol=1e-5)


def test_on_a_reduced_vocabulary_what_cannot_be_said_counts_in_l1_alone(target: Target, texts: list[Text]) -> None:
    said = [0, 1, 3, 5]
    made = make_drafter(design("dspark", vocabulary=4), target, texts, said, 0)
    ids = torch.tensor([[1, 3, 4, 1, 3, 5, 4]])
    batch, at = TextBatch(ids, torch.tensor([5]), torch.tensor([7])), torch.tensor([[5]])
    seen = target.read(ids, made.drafter.tap_layers)
    loss, survival = draft_loss("dspark", target, made.drafter, batch, seen, at)
    p = target.head(seen.hidden)[0, 5].softmax(-1)
    draft = made.drafter.teacher_forced(seen.taps, ids, at, ids[:, None, [6, 6, 6]])
    q = draft.logits[0, 0, 0].softmax(-1)
    assert draft.logits.shape[-1] == VOCAB
    assert q[[2, 4]].tolist() == [0, 0]
    shared = torch.minimum(p, q).sum()
    bce = shared * 0.5 + (1 - shared) * 0.5  # a fresh confidence head says ½
    torch.testing.assert_close(survival, shared, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, 0.9 * (q - p).abs().sum() + bce * 2 * np.log(2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", TRAINING)
def test_training_raises_the_accepted_length_and_the_loader_reads_what_it_writes(
    kind: str, target: Target, texts: list[Text], tmp_path: Path
) -> None:
    trainer = trainer_of(kind, target, texts, tmp_path / "state", replace(RECIPE, steps=60, evaluations=4, patience=9))
    trainer.run()
    first = trainer.evaluated[0]
    assert trainer.best.tau > first.tau + 0.05
    save_made(trainer.made, target, tmp_path / "checkpoint")
    loaded = load_drafter(str(tmp_path / "checkpoint"), target)
    assert isinstance(loaded, LearnedDrafter)
    assert loaded.kind == kind
    held_out = trainer.material.held_out
    again = drafting_on(loaded, held_out, Sampling(), torch.float32)
    assert [d.tau for d in again] == pytest.approx([d.tau for d in trainer.best.drafting], abs=0.03)  # bfloat16


@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "gemma4 (text)",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gemma2", "gpt2")),
    ],
)
def test_targets_of_every_family_have_drafters(family: str, kind: str, tmp_path: Path) -> None:
    """Made, written and read again they decode as the target alone."""
    target = Target(family_model(family))
    made = make_drafter(design(kind, layers=1 if kind == "eagle3" else 2), target, [], None, 0)
    save_made(made, target, tmp_path)
    drafter = load_drafter(str(tmp_path), target)
    own = {"llama": "llama" if kind == "eagle3" else "qwen3", "gemma4 (text)": "qwen3" if kind == "mtp" else "gemma4"}
    assert isinstance(drafter, LearnedDrafter)
    assert drafter.settings.shape.family == own.get(family, "qwen3")
    request = DecodeRequest(prompts()[0], 8, (0,))
    [(_, done)] = decode(target, drafter, [request], Sampling(temperature=0), max_batch=1)
    assert done.token_ids == generated(target.model, prompts()[0], 8)


@pytest.mark.parametrize("kind", ["dspark", "eagle3"])
def test_a_gemmas_drafter_in_speculators_format_is_as_the_library_builds_it(kind: str, tmp_path: Path) -> None:
    """Qwen3's layers over the bare rows of a table that the target itself scales, whether the files hold a copy or not; in
    DeepSpec's format Gemma-4's over scaled ones."""
    target, ids = Target(family_model("gemma4 (text)")), torch.tensor([[3, 7]])
    target.config.final_logit_softcapping = 30.0
    table = target.embedding.get_parameter("weight")
    for written, factor in (("speculators", 1.0), ("deepspec", 64**0.5)):
        folder = tmp_path / written
        made = make_drafter(design(kind, layers=1, format=written), target, [], None, 0)
        save_made(made, target, folder)
        loaded = load_drafter(str(folder), target)
        assert isinstance(loaded, LearnedDrafter)
        for drafter in (made.drafter, loaded):
            torch.testing.assert_close(drafter.embed(ids), table[ids] * factor, atol=1e-2, rtol=1e-2)
        settings = loaded.settings
        expected = ("qwen3", None, "silu") if factor == 1 else ("gemma4", 30.0, target.config.hidden_activation)
        assert (settings.shape.family, settings.softcap, settings.shape.activation) == expected
    reduced = make_drafter(design(kind, layers=1, vocabulary=4), target, [], [3, 4, 5, 9], 0)
    assert reduced.format == "speculators"


def test_a_head_that_does_more_than_its_matrix_is_shared_as_its_matrix(tmp_path: Path) -> None:
    """Dory's scales its logits, by a number that no drafter's format has."""
    target = Target(family_model("dory"))
    assert {name for name, _ in target.lm_head.named_parameters()} == {"weight", "logit_scale"}
    made = make_drafter(design("mtp", format="speculators"), target, [], None, 0)
    save_made(made, target, tmp_path)
    loaded = load_drafter(str(tmp_path), target)
    assert isinstance(loaded, LearnedDrafter)
    states = torch.randn(3, target.hidden_size, generator=torch.Generator().manual_seed(0))
    for drafter in (made.drafter, loaded):
        torch.testing.assert_close(drafter.lm_head(states), states @ target.lm_head.get_parameter("weight").T)


def test_a_target_whose_embedding_is_narrower_than_its_states_lends_no_tables(tmp_path: Path) -> None:
    """OPT-350m's, which projects between the two."""
    wide, narrow = (Target(micro_model("opt", ffn_dim=128, word_embed_proj_dim=size)) for size in (64, 32))
    with pytest.raises(InputError, match=r"rows of its embedding have 32 numbers and a draft's states 64"):
        make_drafter(design("dspark"), narrow, [], None, 0)
    save_made(make_drafter(design("mtp", format="speculators"), wide, [], None, 0), wide, tmp_path)
    with pytest.raises(InputError, match="rows of its embedding have 32 numbers"):
        load_drafter(str(tmp_path), narrow)


def test_a_target_whose_head_has_a_bias_is_refused_before_training_or_has_drafts_of_a_reduced_vocabulary(
    tmp_path: Path,
) -> None:
    target = Target(family_model("phi"))
    with pytest.raises(InputError, match=r"its output head has a bias.*--vocabulary"):
        make_drafter(design("dspark"), target, [], None, 0)
    save_made(make_drafter(design("dspark", vocabulary=4), target, [], [3, 4, 5, 9], 0), target, tmp_path)
    loaded = load_drafter(str(tmp_path), target)
    assert isinstance(loaded, LearnedDrafter)
    assert loaded.lm_head.get_parameter("weight").shape == (4, target.hidden_size)


@pytest.mark.parametrize("kind", ["dspark", "eagle3"])
def test_a_reduced_vocabulary_is_written_and_gone_on_from(
    kind: str, target: Target, texts: list[Text], tmp_path: Path
) -> None:
    ids, coverage = most_frequent(texts, 4, VOCAB)
    said = [token for text in texts for token in text.response]
    assert coverage == pytest.approx(np.isin(said, ids).mean())
    made = make_drafter(design(kind, vocabulary=4), target, texts, ids, 0)
    save_made(made, target, tmp_path / "one")
    warm = warm_drafter(str(tmp_path / "one"), kind, target)
    assert warm.drafter.draft_ids is not None
    assert warm.drafter.draft_ids.tolist() == ids
    save_made(warm, target, tmp_path / "two")
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == (tmp_path / "one" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=f"is of kind {kind}, and mtp"):
        warm_drafter(str(tmp_path / "one"), "mtp", target)


@pytest.mark.parametrize("kind", ["dspark", "eagle3"])
def test_held_out_answers_are_accepted_as_a_recording_says(kind: str, target: Target, texts: list[Text]) -> None:
    """β of dense recording, at every anchor whose position lies in the answer."""
    made = make_drafter(design(kind), target, texts, None, 3)
    for sampling in (Sampling(), Sampling(0.7, 0.9), Sampling(0)):
        text = next(t for t in texts if t.response[-1] == END) if sampling.temperature else texts[0]
        [one] = read_held_out(target, [text], made.drafter.tap_layers, sampling)
        ours = acceptances(made.drafter, one, sampling)
        dense = DenseText(text.prompt, text.response, () if text.response[-1] == END else (1,) * 3, True, (0,))
        try:
            [recorded] = record_anchors(target, [made.drafter.eval()], [dense], sampling)
        finally:
            made.drafter.train()
        [[anchors]] = recorded.values()
        inside = np.arange(len(ours))[:, None] + np.arange(1, made.drafter.gamma + 1) <= len(ours)
        np.testing.assert_allclose(ours[inside], anchors.accept_prob[inside], atol=1e-4)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_walk_is_the_mean_of_walks(anchors: int, gamma: int, seed: int) -> None:
    """Against every way to walk, counted out one by one."""
    accept = np.random.default_rng(seed).random((anchors, gamma))

    def rounds_from(t: int) -> float:
        if t >= anchors:
            return 0.0
        total, reach, left = 1.0, 1.0, anchors - t
        for a in range(gamma + 1):
            stops = reach * (1 - accept[t, a]) if a < gamma else reach
            total += stops * rounds_from(t + min(a + 1, left))
            reach = reach * accept[t, a] if a < gamma else 0.0
        return total

    tokens, rounds, counts = walk(accept)
    assert tokens == anchors
    assert rounds == pytest.approx(rounds_from(0))
    assert (counts[0] <= counts[1] + 1e-12).all()


def test_acceptance_one_everywhere_commits_whole_blocks() -> None:
    tokens, rounds, counts = walk(np.ones((12, 3)))
    assert tokens / rounds == 4
    assert (counts[0] == counts[1]).all()


@given(st.lists(st.tuples(st.integers(2, 60), st.integers(1, 30)), min_size=2, max_size=12))
@settings(max_examples=50, deadline=None)
def test_the_error_of_an_accepted_length_is_a_ratios(answers: list[tuple[int, int]]) -> None:
    """The variance of the mean of what each unit moves the ratio by; alike units have none, and one says nothing."""
    tokens, rounds = np.array(answers, float).T
    found, error = ratio(tokens, rounds)
    moves = (tokens - found * rounds) / rounds.mean()
    assert found == pytest.approx(tokens.sum() / rounds.sum())
    assert error == pytest.approx(moves.std(ddof=1) / len(moves) ** 0.5, abs=1e-12)
    assert ratio(tokens[:1], rounds[:1])[1] is None


class Killed(BaseException):
    """As from outside."""


@pytest.mark.parametrize(
    ("kind", "stop", "cached"),
    [
        ("dspark", Killed, True), ("dspark", KeyboardInterrupt, False), ("dflash", Killed, False),
        ("eagle3", KeyboardInterrupt, True), ("mtp", Killed, False),
    ],
)  # fmt: skip
def test_a_killed_run_ends_with_the_same_bits(
    kind: str, stop: type[BaseException], cached: bool, target: Target, texts: list[Text], tmp_path: Path
) -> None:
    def begun(name: str) -> Trainer:
        more = {"folder": tmp_path / f"{name} cache", "most": 10**6} if cached else {}
        made = make_drafter(design(kind), target, texts, None, 0)
        material = material_of(made, target, texts, **more)
        return Trainer(made, target, material, RECIPE, torch.float32, tmp_path / name, save_every_s=0)

    whole = begun("whole")
    whole.run()
    parts = begun("parts")

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise stop

    with pytest.raises(stop):
        parts.run(Watch(advance=kill))
    again, kept = begun("parts"), list[int]()
    assert again.step in (6, 7)
    again.run(Watch(kept=lambda: kept.append(again.step)))
    assert kept[0] in (6, 7)  # it is there from the start
    assert_same(whole, again)
    assert str(again.evaluated) == str(whole.evaluated)


def test_what_is_kept_is_whole_or_told_to_be_damaged(
    target: Target, texts: list[Text], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, state = replace(RECIPE, steps=4), tmp_path / "state" / STATE
    trainer = trainer_of("mtp", target, texts, tmp_path / "state", recipe)
    trainer.run()
    kept = state.read_bytes()

    def full(state: object, file: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    def ended(state: object, file: object) -> None:
        """As torch tells of a full disk."""
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(InputError, match="step 4 cannot be kept"):
            trainer._save()
    assert [state.read_bytes()] == [file.read_bytes() for file in state.parent.iterdir()] == [kept]
    for there, said in ((True, "what was kept before is there"), (False, "nothing was kept before")):
        state.write_bytes(kept) if there else state.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(torch, "save", ended)
            with pytest.raises(InputError, match=f"no space left on the disk of --out; make room.*; {said}$"):
                trainer._save()
    state.write_bytes(kept)
    for error in (PermissionError(13, "Permission denied"), torch.OutOfMemoryError("CUDA out of memory")):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "load", Mock(side_effect=error))
            with pytest.raises(InputError, match=r"state\.pt: cannot be read now \(.*; it stays there to be gone on from$"):
                trainer_of("mtp", target, texts, tmp_path / "state", recipe)
    lacking = io.BytesIO()
    torch.save({name: value for name, value in torch.load(state).items() if name != "evaluated"}, lacking)
    for damaged in (kept[: len(kept) // 2], b"", b"[]", lacking.getvalue()):
        state.write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.pt: cannot be gone on from .*; remove it to begin anew"):
            trainer_of("mtp", target, texts, tmp_path / "state", recipe)


def test_parts_of_a_step_add_up_to_the_step(target: Target, texts: list[Text], tmp_path: Path) -> None:
    one = trainer_of("dspark", target, texts, tmp_path / "one", replace(RECIPE, steps=3))
    four = trainer_of("dspark", target, texts, tmp_path / "four", replace(RECIPE, steps=3, accumulate=4))
    one.run()
    four.run()
    assert [e.loss for e in one.evaluated[1:]] == pytest.approx([e.loss for e in four.evaluated[1:]], rel=1e-4)


@pytest.mark.parametrize("kind", TRAINING)
def test_a_target_of_16_bits_has_drafters_that_train_in_float32(kind: str, tmp_path: Path) -> None:
    target = Target(family_model("llama").to(torch.bfloat16))
    some = [Text(f"t/{i}", "d", prompts()[i % 3], tuple(prompts()[i % 3][:9])) for i in range(32)]
    made = make_drafter(design(kind), target, some, None, 0)
    widen_tables(made.drafter)
    recipe = replace(RECIPE, steps=2, evaluations=1)
    trainer = Trainer(made, target, material_of(made, target, some), recipe, torch.float32, tmp_path / "state")
    trainer.run()
    assert np.isfinite(trainer.evaluated[-1].loss)
    save_made(made, target, tmp_path / "new")
    loaded = load_drafter(str(tmp_path / "new"), target)
    assert isinstance(loaded, LearnedDrafter)
    assert loaded.lm_head is target.lm_head  # its own copy is the target's


def test_states_that_are_kept_are_those_that_are_computed(target: Target, texts: list[Text], tmp_path: Path) -> None:
    """As many as fit; the others are read anew beside them."""
    bare = States(target, (0, 1), texts)
    some = States(target, (0, 1), texts, tmp_path / "cache", bare.all_bytes // 3)
    some.open(fill=True)
    assert 0 < some.kept < len(texts)
    assert some.kept_bytes <= bare.all_bytes // 3
    assert (tmp_path / "cache" / "states").stat().st_size == some.kept_bytes
    chosen = [0, some.kept - 1, some.kept, len(texts) - 1]
    (batch, kept), (_, anew) = some.read(chosen), bare.read(chosen)
    for row, length in enumerate(batch.length.tolist()):
        torch.testing.assert_close(kept.hidden[row, :length], anew.hidden[row, :length], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(kept.taps[row, :length], anew.taps[row, :length], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma4 (text)", "qwen3_moe"])
def test_a_target_that_is_shared_out_reads_as_it_did(family: str, tmp_path: Path) -> None:
    """Here among one process; tests of the command share it out among two."""
    read, ids = Target(family_model(family)), torch.tensor([prompts()[0]])
    whole, size = read.read(ids, (-1, 2)), sum(p.numel() * p.itemsize for p in read.model.parameters())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        target = load_shared(lambda: read, torch.device("cpu"))
        shared = sum(isinstance(p, DTensor) for p in target.model.parameters())
        for _ in range(2):
            again = target.read(ids, (-1, 2))
            torch.testing.assert_close(again.hidden, whole.hidden)
            torch.testing.assert_close(again.taps, whole.taps)
    finally:
        distributed.destroy_process_group()
    assert shared >= 4 * target.num_layers
    assert shared_bytes(target) == (size, size)


@pytest.mark.slow
def test_targets_are_loaded_one_after_another_and_a_share_is_kept_of_each(tmp_path: Path) -> None:
    """By two processes of a machine, which end with the halves of all layers."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    processes = [context.Process(target=_loads, args=(str(tmp_path / "group"), rank, told)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = sorted(told.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    (_, began, ended, whole, own), (_, began_next, _, _, other) = found
    assert began < ended <= began_next
    assert own < 0.75 * whole
    assert abs(own - other) <= 0.01 * whole
    assert own + other >= whole  # tables and norms stay whole with both


def _loads(group: str, rank: int, told: Any) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    times = []

    def load() -> Target:
        times.append(time.monotonic())
        target = Target(family_model("llama"))
        times.append(time.monotonic())
        return target

    target = load_shared(load, torch.device("cpu"))
    told.put((rank, *times, *shared_bytes(target)))
    distributed.destroy_process_group()


def test_a_loss_that_is_not_finite_names_its_batch(target: Target, texts: list[Text], tmp_path: Path) -> None:
    trainer = trainer_of("mtp", target, texts, tmp_path / "state")
    next(iter(trainer.made.drafter.layers.parameters())).data.fill_(torch.nan)
    trainer._course.evaluated.append(Evaluated(0, 1.0, ()))
    with pytest.raises(InputError, match=r"step 1: the loss of the batch of t/\d+, .* is not finite; lower"):
        trainer.run()
    assert not (tmp_path / "state" / STATE).exists()


def test_it_stops_when_the_accepted_length_no_longer_rises(target: Target, texts: list[Text], tmp_path: Path) -> None:
    """Rates of nothing change nothing: the first evaluation stays the best. Rates fall before it stops."""
    recipe = replace(RECIPE, steps=100, evaluations=50, patience=3, learning_rate=1e-9, matrix_rate=1e-9)
    trainer = trainer_of("mtp", target, texts, tmp_path / "state", recipe)
    trainer.run()
    assert [e.step for e in trainer.evaluated] == [0, 2, 4, 6, 8, 10]
    assert (trainer.step, trainer.steps, trainer.best.step) == (10, 10, 0)
    assert [recipe.rate(step, trainer.steps) for step in (6, 9)] == [1, 0.25]


@pytest.mark.parametrize(("steps", "times"), [(39, 20), (7, 20), (100, 3), (1, 1)])
def test_held_out_answers_are_drafted_on_as_often_as_asked(
    steps: int, times: int, target: Target, texts: list[Text], tmp_path: Path
) -> None:
    """Evenly, the last step among them."""
    trainer = trainer_of("mtp", target, texts, tmp_path / "state", replace(RECIPE, steps=steps, evaluations=times))
    due = []
    for step in range(steps + 1):
        trainer._course.step = step
        if trainer._due():
            due.append(step)
    assert due[0] == 0
    assert due[-1] == steps
    assert len(due) == min(steps, times) + 1
    assert np.ptp(np.diff(due)) <= 1


def test_every_answer_is_trained_on(tmp_path: Path) -> None:
    """Those that are left over of batches are others in every epoch, also where batches are sorted by length."""
    texts = [Text(str(i), "d", (1,), (2,) * (i + 3)) for i in range(31)]
    drawn = batches(texts, 16, 0)
    visits = Counter(i for _ in range(200) for i in next(drawn))
    assert len(visits) == 31
    assert min(visits.values()) > 200 * 16 / 31 * 0.75


def test_what_nobody_can_say_is_no_infinite_loss(target: Target, texts: list[Text]) -> None:
    """Positions beyond a text count nothing, whatever their loss is."""
    made = make_drafter(design("dspark"), target, texts, None, 0)
    batch = TextBatch.of(texts[:2], target.device)
    seen = target.read(batch.ids, made.drafter.tap_layers)
    at = (batch.length - 2).unsqueeze(-1)
    with pytest.MonkeyPatch.context() as patch:
        told = Training(lambda d: torch.full_like(d.l1, torch.inf) if d.k else d.l1, "")
        patch.setitem(TRAINING, "dspark", told)
        loss, _ = draft_loss("dspark", target, made.drafter, batch, seen, at)
    assert bool(loss.isfinite())


def test_prompts_are_held_out_with_their_conversations_and_their_doubles() -> None:
    made = [Text(f"{i}.{t}", "d", (i % 50, *range(t)), (1, 2, 3), str(i)) for i in range(100) for t in range(3)]
    parts = split(made, 0.3)
    sides = [{t.prompt[0] for t in part} for part in parts]
    assert not sides[0] & sides[1]
    assert 0.1 < len(parts.held_out) / len(made) < 0.5
    later = [replace(t, opening=(int(t.conversation) % 50,)) for t in made if not t.name.endswith(".0")]
    assert {t.name for t in split(later, 0.3).held_out} == {t.name for t in parts.held_out} - {t.name for t in made[::3]}
    assert split(made, 0.3) == parts
    with pytest.raises(InputError, match="of 1 different prompts none is held out"):
        split(made[:3], 0.01)


def test_overlap_counts_runs_of_13_tokens_and_no_template() -> None:
    template, rng = (7, 7, 7), np.random.default_rng(0)
    rows = [tuple(int(x) for x in rng.integers(10, 1000, 30)) for _ in range(4)]
    train = [Text(str(i), "d", template + rows[i] + template, rows[i + 1]) for i in range(2)]
    fresh = Text("x", "d", template + rows[3] + template, (1, 2, 3))
    assert overlap(Split(train, [fresh])) == (0, 0)
    known = Text("y", "d", template + rows[0][:20] + rows[3][:10] + template, rows[2])
    of_prompts, of_answers = overlap(Split(train, [known]))
    assert of_prompts == pytest.approx(8 / 18)
    assert of_answers == 1


@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_batches_follow_the_step_alone(count: int, size: int, start: int) -> None:
    some = [Text(str(i), "d", (1,) * (i % 7 + 1), (2,) * 3) for i in range(count)]
    whole, later = batches(some, size, 5), batches(some, size, 5, start)
    drawn = [next(whole) for _ in range(start + 3)]
    assert drawn[start:] == [next(later) for _ in range(3)]
    assert all(len({*batch}) == size for batch in drawn)


def test_too_few_answers_for_a_batch_are_refused(texts: list[Text]) -> None:
    with pytest.raises(InputError, match="--batch 4: there are 3 usable answers"):
        next(batches(texts[:3], 4, 0))


def test_an_orthogonal_update_has_singular_values_of_about_one() -> None:
    for shape in ((8, 8), (16, 6), (5, 20)):
        values = torch.linalg.svdvals(
            orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1)), torch.float32)
        )
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_the_longest_draft_is_one_that_records_hold() -> None:
    assert Design(kind="dflash", gamma=MAX_GAMMA - 1).gamma == 253
    with pytest.raises(ValueError, match="--gamma 254"):
        Design(kind="dflash", gamma=MAX_GAMMA)


def test_rates_rise_and_fall() -> None:
    recipe = Recipe(warmup=0.1, decay=0.5)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.2])
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


@pytest.mark.parametrize(("text", "size"), [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("0", 0), ("7B", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert cache_bytes(text) == size


@pytest.mark.parametrize(
    ("make_one", "said"),
    [
        (lambda: Design(kind="ngram"), "KIND ngram"),
        (lambda: Design(kind="eagle3", rank=4), "--rank 4"),
        (lambda: Design(kind="mtp", layers=2), "--layers 2"),
        (lambda: Design(kind="mtp", vocabulary=8), "--vocabulary 8"),
        (lambda: Design(kind="dspark", taps=(1, 1)), "--taps 1,1"),
        (lambda: Recipe(learning_rate=float("nan")), "--learning-rate nan"),
        (lambda: Recipe(accumulate=99), "--accumulate 99"),
        (lambda: cache_bytes("20 goblins"), "--cache 20 goblins"),
    ],
)
def test_what_cannot_be_meant_is_refused(make_one: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_one()


@pytest.mark.parametrize(("kind", "layers"), [(k, n) for k in ("dspark", "dflash", "eagle3") for n in (1, 2, 3, 4, 5, 36)])
def test_the_last_layer_is_tapped_where_there_is_no_other(kind: str, layers: int) -> None:
    taps = default_taps(kind, layers)
    assert taps == tuple(sorted({*taps}))
    assert (layers - 1 in taps) == (layers == 1)


@pytest.mark.parametrize(("heads", "shared"), [((8, 8), False), ((8, 16), False), ((8, 16), True)])
def test_drafts_over_gemma4_have_the_heads_of_its_full_layers(heads: tuple[int, int], shared: bool, tmp_path: Path) -> None:
    """As transformers writes its configuration now; and what training would take is told of the same shape."""
    own = {
        "head_dim": heads[0], "global_head_dim": heads[1], "num_global_key_value_heads": 1 if shared else None,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 6, "layer_types": ["sliding_attention", "full_attention"] * 3, "attention_k_eq_v": shared,
        "hidden_size_per_layer_input": 0, "vocab_size": VOCAB,
    }  # fmt: skip
    model = micro_model("gemma4_text", **own)
    made = make_drafter(design("eagle3", taps=(1, 2, 3)), Target(model), [], None, 0)
    full: Any = model.model.layers[-1].self_attn
    shape = made.drafter.settings.shape
    assert (shape.family, shape.head_dim) == ("gemma4", full.head_dim)
    assert shape.kv_heads * shape.head_dim == full.k_proj.out_features
    model.config.save_pretrained(tmp_path)
    trained = sum(p.numel() for p in made.drafter.parameters() if p.requires_grad)
    cost = training_cost("eagle3", target_of(str(tmp_path)), devices()["h100"], 1, Needed(tokens=1e6, epochs=1))
    assert cost.parameters == pytest.approx(trained, rel=0.02)  # norms apart


@pytest.mark.parametrize(("prompts", "share"), [(3, 0.2), (40, 0.2), (80, 0.1), (160, 0.05), (10**4, 0.05)])
def test_of_few_prompts_a_larger_share_is_held_out(prompts: int, share: float) -> None:
    """So that about eight are, of a fifth at most; turns of a conversation are one."""
    texts = [Text(f"{i}/{t}", "chat", (i, *[7] * t), (1, 2, 3), str(i)) for i in range(prompts) for t in (0, 1)]
    assert default_share(texts) == pytest.approx(share)


def test_small_numbers_of_parameters_are_told() -> None:
    assert [abbreviated(n) for n in (57_312, 12_400_000, 640)] == ["57.3 k", "12.4 M", "640"]
