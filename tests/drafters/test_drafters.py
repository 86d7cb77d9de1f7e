"""The contract every drafter keeps, and each mechanism against an obvious reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drafters.cache import Positions
from drafters.dense import DenseText, record_anchors
from drafters.kinds.block import DSpark, MarkovHead
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.ngram import NGram
from drafters.kinds.text import TextDrafter
from drafters.sampling import Draws, Proposal
from drafters.target import Target
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.records import Sampling
from tests.drafters.conftest import ALL, LEARNED, VOCAB

TEXT = torch.tensor([[1, 3, 4, 1, 3, 5, 4, 1, 3, 4], [4, 4, 1, 5, 3, 1, 4, 4, 1, 5]])


def draws(batch: int, gamma: int, seed: int = 0) -> Draws:
    uniform = torch.rand(batch, 2 * gamma + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Draws(uniform[:, :gamma], uniform[:, gamma:-1], uniform[:, -1])


@torch.inference_mode()
def propose(drafter: Drafter, target: Target, text: Tensor, anchors: list[int], pieces: list[int]) -> Proposal:
    """Feed `text` up to each row's anchor, first `pieces` tokens at a time, then the rest; then propose."""
    state = drafter.start(len(text), 32)
    taps = target.read(text, drafter.tap_layers).taps if drafter.tap_layers else torch.zeros(*text.shape, 0)
    start = [0] * len(text)
    for piece in [*pieces, 99]:
        length = [min(anchor - first, piece) for anchor, first in zip(anchors, start, strict=True)]
        at = Positions.of(start, max(length) + 1, text.device).tensor.clamp(max=text.shape[1] - 1)
        rows = torch.arange(len(text)).unsqueeze(1)
        new = Positions.of(start, max(length), text.device)
        drafter.observe(state, slice(0, len(text)), new, taps[rows, at[:, :-1]], text[rows, at], torch.tensor(length))
        start = [first + count for first, count in zip(start, length, strict=True)]
    anchor = text[torch.arange(len(text)), torch.tensor(anchors)]
    position = Positions.of(anchors, 1, text.device)
    return drafter.propose(state, slice(0, len(text)), anchor, position, Sampling(), draws(len(text), drafter.gamma))


def test_no_kind_is_left_out() -> None:
    assert {name.partition("-")[0] for name in ALL} >= KINDS.keys()


@pytest.mark.parametrize("name", ALL)
class TestEveryDrafter:
    """What the decode loop relies on."""

    def test_proposal_has_the_declared_shape(self, name: str, make: Callable[[str], Drafter], target: Target) -> None:
        drafter = make(name)
        proposal = propose(drafter, target, TEXT, [5, 8], [])
        assert proposal.tokens.shape == (2, drafter.gamma)
        assert max(proposal.drafted) <= drafter.gamma
        assert bool(((proposal.tokens >= 0) & (proposal.tokens < VOCAB)).all())
        if proposal.probs is not None:
            assert proposal.probs.shape == (2, drafter.gamma, VOCAB)
            torch.testing.assert_close(proposal.probs.sum(-1), torch.ones(2, drafter.gamma))
            assert bool((proposal.probs.gather(-1, proposal.tokens.unsqueeze(-1)) > 0).all())
        if proposal.confidence is not None:
            assert proposal.confidence.shape == (2, drafter.gamma)
            assert bool(((proposal.confidence > 0) & (proposal.confidence < 1)).all())

    def test_context_may_come_in_pieces(self, name: str, make: Callable[[str], Drafter], target: Target) -> None:
        drafter = make(name)
        whole = propose(drafter, target, TEXT, [6, 8], [])
        pieces = propose(drafter, target, TEXT, [6, 8], [3, 1])
        assert torch.equal(whole.tokens, pieces.tokens)
        assert whole.drafted == pieces.drafted
        if whole.probs is not None and pieces.probs is not None:
            torch.testing.assert_close(whole.probs, pieces.probs, atol=1e-5, rtol=0)

    def test_rows_do_not_see_each_other(self, name: str, make: Callable[[str], Drafter], target: Target) -> None:
        drafter = make(name)
        together = propose(drafter, target, TEXT, [5, 8], [])
        alone = propose(drafter, target, TEXT[:1], [5], [])
        drafted = alone.drafted[0]
        assert together.drafted[0] == drafted
        if together.probs is not None and alone.probs is not None:
            torch.testing.assert_close(together.probs[:1, 0], alone.probs[:, 0], atol=1e-5, rtol=0)
        else:
            assert torch.equal(together.tokens[0, :drafted], alone.tokens[0, :drafted])

    def test_nothing_after_the_anchor_is_seen(self, name: str, make: Callable[[str], Drafter], target: Target) -> None:
        drafter = make(name)
        other = TEXT.clone()
        other[:, 7:] = 0
        before, after = (propose(drafter, target, text, [6, 6], []) for text in (TEXT, other))
        assert torch.equal(before.tokens, after.tokens)

    def test_a_moved_row_goes_on_where_it_was(self, name: str, make: Callable[[str], Drafter], target: Target) -> None:
        drafter = make(name)
        if not drafter.gamma:
            return
        state = drafter.start(2, 32)
        taps = target.read(TEXT, drafter.tap_layers).taps if drafter.tap_layers else torch.zeros(*TEXT.shape, 0)
        length = torch.tensor([6, 6])
        with torch.inference_mode():
            drafter.observe(state, slice(0, 2), Positions.of([0, 0], 6, TEXT.device), taps[:, :6], TEXT[:, :7], length)
            u = draws(1, drafter.gamma)
            second = propose(drafter, target, TEXT[1:], [6], [])
            state.move(torch.tensor([1]), torch.tensor([0]))
            kept = drafter.propose(state, slice(0, 1), TEXT[1:, 6], Positions.of([6], 1, TEXT.device), Sampling(), u)
        assert torch.equal(kept.tokens, second.tokens)


@pytest.mark.parametrize(
    ("draft", "said"),
    [([1] * 9, "drafts 9 tokens where at most 3"), ([VOCAB], f"drafts token {VOCAB}"), ([-1], "drafts token -1")],
)
def test_what_no_text_may_draft_is_one_sentence(draft: list[int], said: str, target: Target) -> None:
    class Text:
        def append(self, token: int) -> None:
            pass

        def follow(self, gamma: int) -> list[int]:
            return draft

    class Bad(TextDrafter):
        kind = "bad"

        def new_text(self) -> Text:
            return Text()

    text = DenseText((1, 3), (4, 1), (3, 3, 3), False, (0,))
    with pytest.raises(InputError, match=f"drafter bad: .*{said}"):
        record_anchors(target, [Bad(3)], [text], Sampling())


@pytest.mark.parametrize("name", list(LEARNED))
def test_live_and_teacher_forced_agree(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    """Many blocks in one pass give what one live round after another gives."""
    drafter = make(name)
    assert isinstance(drafter, LearnedDrafter)
    anchors = torch.tensor([[2, 5, 8], [1, 4, 9]])
    forced = torch.zeros(2, 3, drafter.gamma, dtype=torch.int64)
    live = []
    for a in range(3):
        live.append(propose(drafter, target, TEXT, anchors[:, a].tolist(), []))
        forced[:, a] = live[a].tokens
    taps = target.read(TEXT, drafter.tap_layers).taps
    with torch.inference_mode():
        draft = drafter.teacher_forced(taps, TEXT, anchors, forced)
    for a in range(3):
        probs = live[a].probs
        assert probs is not None
        torch.testing.assert_close(draft.logits[:, a].softmax(-1), probs, atol=1e-5, rtol=0)
        if draft.confidence_logits is not None:
            confidence = live[a].confidence
            assert confidence is not None
            torch.testing.assert_close(draft.confidence_logits[:, a].sigmoid(), confidence, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vanilla", "gated", "rnn"])
def test_markov_heads_follow_their_formulas(kind: str) -> None:
    """bias = W2·W1[x]; gated: W2·(σ(gate[h ; W1x]) ⊙ W1x); rnn: GRU-like state over [s ; W1x ; h]."""
    torch.manual_seed(0)
    head, rank = MarkovHead(kind, 6, 4, 8), 4  # type: ignore[arg-type]
    torch.nn.init.normal_(head.markov_w1.weight)
    tokens, hidden, state = [3, 1, 5], torch.randn(3, 8), torch.zeros(rank)
    expected_state = torch.zeros(rank)
    for token, h in zip(tokens, hidden, strict=True):
        w1 = head.markov_w1.weight[token]
        bias, state = head.step(w1, h, state)
        if kind == "vanilla":
            read = w1
        elif kind == "gated":
            read = torch.sigmoid(head.gate_proj.weight @ torch.cat([h, w1]) + head.gate_proj.bias) * w1
        else:
            z = head.joint_proj.weight @ torch.cat([expected_state, w1, h]) + head.joint_proj.bias
            g, c, o = z[:rank], z[rank : 2 * rank], z[2 * rank :]
            expected_state = torch.sigmoid(g) * expected_state + (1 - torch.sigmoid(g)) * torch.tanh(c)
            read = torch.tanh(o)
        torch.testing.assert_close(bias, head.markov_w2.weight @ read)
    torch.testing.assert_close(state, expected_state)


def test_dspark_block_is_bidirectional_and_dflash_ignores_drafted_tokens(
    make: Callable[[str], Drafter], target: Target
) -> None:
    """The backbone is one parallel pass: only the sequential head may react to a drafted token."""
    for name, reacts in (("dflash", False), ("dspark", True)):
        drafter = make(name)
        assert isinstance(drafter, DSpark)
        taps = target.read(TEXT, drafter.tap_layers).taps
        anchors = torch.tensor([[4], [4]])
        with torch.inference_mode():
            one, other = (drafter.teacher_forced(taps, TEXT, anchors, torch.full((2, 1, 3), t)).logits for t in (1, 4))
        assert torch.equal(one[:, :, 0], other[:, :, 0])
        assert torch.equal(one[:, :, 1:], other[:, :, 1:]) != reacts


def brute_force_lookup(text: list[int], gamma: int, low: int, high: int) -> list[int]:
    """Every suffix length from long to short, every earlier place from late to early."""
    for size in range(high, low - 1, -1):
        if size >= len(text):
            continue
        matches = [i for i in range(len(text) - size) if text[i : i + size] == text[-size:]]
        if matches:
            return text[matches[-1] + size :][:gamma]
    return []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_ngram_finds_the_latest_longest_match(text: list[int], gamma: int, low: int, more: int) -> None:
    found = NGram(gamma, min_match=low, max_match=low + more).drafts_along(text, len(text) - 1)
    assert found == [brute_force_lookup(text, gamma, low, low + more)]
