"""The trainer: losses against plain formulas, learning that happens, runs that resume to the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from drafters.checkpoints import build_drafter, load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from drafters.training import corpus
from drafters.training import drafter as training
from drafters.training.card import write_drafter_card
from drafters.training.drafter import TRAINING, draft_loss, train_drafter
from drafters.training.onpolicy import Example, TextBatch, generate, read_examples, text_batches
from drafters.training.tokenizer import save_tokenizer, train_tokenizer
from drafters.training.trainer import Schedule
from simulator.errors import InputError
from simulator.records import Sampling
from tests.drafters.conftest import drafter_config
from tests.drafters.families import family_model, generated, prompts


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    texts = [tuple(int(t) for t in rng.choice([1, 3, 4, 5], size=24)) for _ in range(64)]
    return [Example("math", t[:6], t[6 : 10 + i % 14]) for i, t in enumerate(texts)]


@pytest.mark.parametrize("kind", TRAINING)
def test_the_loss_is_the_formula(kind: str, make: Callable[[str], Drafter], target: Target) -> None:
    """One anchor of one text, each term written out."""
    drafter = make(kind)
    assert isinstance(drafter, LearnedDrafter)
    ids = torch.tensor([[1, 3, 4, 1, 3, 5, 4, 1]])
    batch = TextBatch(ids, torch.tensor([5]), torch.tensor([7]))  # the only anchor possible is 5: token 6 is the last
    loss, _ = draft_loss(kind, target, drafter, batch, 1, torch.Generator().manual_seed(0))
    seen = target.read(ids, drafter.tap_layers)
    p = target.head(seen.hidden)[0, 5].softmax(-1)
    draft = drafter.teacher_forced(seen.taps, ids, torch.tensor([[5]]), ids[:, None, [6, 7, 7]])
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
            c, overlap = draft.confidence_logits[0, 0, 0].sigmoid(), torch.minimum(p, q).sum()
            expected = expected - (overlap * c.log() + (1 - overlap) * (1 - c).log())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TRAINING)
def test_training_raises_the_expected_accepted_length(
    kind: str, target: Target, examples: list[Example], tmp_path: Path
) -> None:
    config = drafter_config(kind, target)
    train_drafter(kind, target, examples, config, tmp_path / kind, Schedule(60, warmup_steps=5), 0, rows=8, anchors=8)
    log = [json.loads(line) for line in (tmp_path / kind / "training" / "log.jsonl").read_text().splitlines()]
    trained = load_drafter(str(tmp_path / kind), target)
    assert isinstance(trained, LearnedDrafter)
    batch = next(text_batches(examples, 32, 9))
    _, after = draft_loss(kind, target, trained, batch, 16, torch.Generator().manual_seed(1))
    before = untrained_accepted_length(kind, target, batch)
    assert after["tau"] > before + 0.15
    assert log[-1]["step"] == 60


@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_targets_of_other_families_have_drafters_too(family: str, kind: str) -> None:
    target = Target(family_model(family))
    config = training.drafter_config(kind, target, (0, 2), layers=2, block=4, rank=8)
    drafter = build_drafter(config, target, gamma=None, name=kind)
    request = DecodeRequest(prompts()[0], 12, (0,))
    [(_, done)] = decode(target, drafter.eval(), [request], Sampling(temperature=0), max_batch=1)
    assert done.token_ids == generated(target.model, prompts()[0], 12)


def test_a_card_of_what_was_not_trained_here_is_refused(target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.jsonl: missing; cards are written of what was trained here"):
        write_drafter_card("mtp", target, tmp_path, 0, [])


def untrained_accepted_length(kind: str, target: Target, batch: TextBatch) -> float:
    """τ expected of untrained weights."""
    from drafters.training.drafter import _initialise

    torch.manual_seed(0)
    drafter = build_drafter(drafter_config(kind, target), target, gamma=None, name=kind)
    _initialise(drafter)
    return draft_loss(kind, target, drafter, batch, 16, torch.Generator().manual_seed(1))[1]["tau"]


def test_an_interrupted_run_ends_with_the_same_weights(
    target: Target, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drafters.training.trainer import Trainer

    config, schedule = drafter_config("dspark", target), Schedule(12, warmup_steps=2)
    train_drafter("dspark", target, examples, config, tmp_path / "whole", schedule, 3, rows=4, anchors=4)

    update = Trainer._update

    def killed(self: Trainer[TextBatch]) -> None:
        if self.step == 7:
            self._save()
            raise KeyboardInterrupt
        update(self)

    monkeypatch.setattr(Trainer, "_update", killed)
    with pytest.raises(KeyboardInterrupt):
        train_drafter("dspark", target, examples, config, tmp_path / "parts", schedule, 3, rows=4, anchors=4)
    monkeypatch.setattr(Trainer, "_update", update)
    train_drafter("dspark", target, examples, config, tmp_path / "parts", schedule, 3, rows=4, anchors=4)
    one, other = (load_drafter(str(tmp_path / n), target) for n in ("whole", "parts"))
    assert isinstance(one, LearnedDrafter)
    assert isinstance(other, LearnedDrafter)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_dialogues_become_turns() -> None:
    assert corpus.split_dialogue("User: Hi\nAssistant: Hello\nUser: Bye") == ("Hi", "Hello", "Bye")
    assert corpus.split_dialogue("What is 2 + 2?") == ("What is 2 + 2?",)
    assert corpus.split_dialogue("User: a\nUser: b") == ("User: a\nUser: b",)


def test_documents_may_hold_any_character(tmp_path: Path) -> None:
    row = {"domain": "chat", "source": "test", "prompt": "Hi", "response": "a\u2028b\x85c"}
    text = json.dumps(row, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"{text}\n{text}\n", encoding="utf-8")
    assert [d.turns for d in corpus.read_documents(tmp_path)] == [("Hi", "a\u2028b\x85c")] * 2


def test_rows_start_with_a_document_and_batches_follow_the_step() -> None:
    encoded = [np.full(n, i + 1, dtype=np.uint16) for i, n in enumerate([5, 30, 40, 7, 64, 90, 12, 33, 8, 21])]
    rows = corpus.pack(encoded, 64, np.random.default_rng(0))
    assert rows.shape[1] == 64
    assert all(row[0] != 0 for row in rows)
    batches = corpus.batches(encoded, 64, 128, seed=1)
    first = [next(batches) for _ in range(6)]
    later = corpus.batches(encoded, 64, 128, seed=1, start_step=4)
    assert np.array_equal(first[4], next(later))
    assert np.array_equal(first[5], next(later))


def test_too_little_text_is_refused(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fill one batch of 4"):
        next(corpus.batches([np.ones(20, dtype=np.uint16)], 64, 256, seed=0))
    with pytest.raises(InputError, match="3 usable responses do not fill one batch of 4"):
        next(text_batches(examples[:3], 4, seed=0))
    with pytest.raises(InputError, match=r"no \*\.jsonl"):
        corpus.read_documents(tmp_path)


def test_tokenizer_files_load_and_responses_resume(target: Target, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    texts = ["def f(x):\n    return x + 1", "The answer is 42. " * 3, "Tom has 3 apples & 4 pears."] * 4
    save_tokenizer(train_tokenizer(texts, 300), tmp_path / "tokenizer", 128)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = "Tom has 3 apples: é → 7\n\n    done"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert chat == corpus.chat_text(["Hi"])

    class Words:
        """Any text to a few of the micro target's tokens."""

        def encode(self, text: str) -> list[int]:
            return [1 + 2 * (len(text) % 2), 4, 1]

    micro = Target(target.model)
    micro.tokenizer = Words()  # type: ignore[assignment]
    documents = [corpus.Document("chat", "test", ("a" * i, "b")) for i in range(1, 700)]
    file = tmp_path / "responses.jsonl"
    generate(micro, documents, file, seed=4)
    whole = read_examples(file)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:600]))
    generate(micro, documents, file, seed=4)
    assert read_examples(file) == whole
    assert len(whole) == 699
