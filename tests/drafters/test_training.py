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
from torch import distributed
from torch.distributed.tensor import DTensor

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.sharding import load_shared, shared_bytes
from drafters.target import Target
from drafters.training.design import Made, make_drafter, save_made, warm_drafter, widen_tables
from drafters.training.held_out import acceptances, drafting_on
from drafters.training.held_out import prepare as read_held_out
from drafters.training.loop import STATE, Evaluated, Material, Trainer, Watch
from drafters.training.losses import TRAINING, Training, draft_loss
from drafters.training.recipe import Recipe
from drafters.training.states import States
from drafters.training.texts import Text, TextBatch, batches, most_frequent, usable
from simulator.errors import InputError
from simulator.records import Sampling
from tests.drafters.conftest import END, VOCAB
from tests.drafters.families import family_model, prompts
from tests.drafters.training import RECIPE, design


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


def test_too_few_answers_for_a_batch_are_refused(texts: list[Text]) -> None:
    with pytest.raises(InputError, match="--batch 4: there are 3 usable answers"):
        next(batches(texts[:3], 4, 0))
