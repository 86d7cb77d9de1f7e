"""Targets whose state cannot be rolled back: their answers follow the exact law, and dense records replay it."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

from drafters.checkpoints import build_drafter
from drafters.decoding import DecodeRequest
from drafters.dense import DenseText, record_anchors
from drafters.generation import respond
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.ngram import NGram
from drafters.sampling import Draws, Proposal, probabilities, sample, verify
from drafters.target import Target
from simulator.policies import PolicySpec
from simulator.records import Round, Sampling
from simulator.replay import replay
from tests.drafters.conftest import END, GAMMA, HIDDEN, LEARNED, VOCAB, micro_config, randomise
from tests.drafters.test_dense import assert_same, smallest_p_value

PROMPT, NEW_TOKENS, SAMPLES, REJECT = (1, 3, 4, 1, 3), 6, 2000, 1e-4
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "moe_intermediate_size": 16, "num_experts": 2,
        "num_experts_per_tok": 1, "shared_expert_intermediate_size": 16, "max_position_embeddings": 256,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "mamba2": {
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 8, "state_size": 8,
        "n_groups": 1, "chunk_size": 8,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SETTINGS))
def recurrent(request: pytest.FixtureRequest) -> Target:
    special = {"eos_token_id": END, "pad_token_id": 0, "bos_token_id": None, "tie_word_embeddings": False}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **SETTINGS[request.param], **special))
    randomise(model, 1, 0.35)
    model.generation_config.eos_token_id = END
    return Target(model)


def drafter_of(name: str, target: Target) -> Drafter:
    """A drafter of random weights over a target of another family: its layers and its configuration are its own."""
    if name == "ngram":
        return NGram(GAMMA, min_match=1, max_match=3)
    layers = 2 if "markov_rank" in LEARNED[name] else 1
    config = {
        **micro_config().to_dict(), "num_target_layers": target.num_layers, "target_layer_ids": [-1, 0, 1],
        "num_hidden_layers": layers, "layer_types": ["full_attention"] * layers, "block_size": GAMMA, "mask_token_id": 5,
        "enable_confidence_head": True, "confidence_head_with_markov": True, **LEARNED[name],
    }  # fmt: skip
    drafter = build_drafter(config, target, gamma=None, name=name)
    own = torch.nn.ModuleDict({n: m for n, m in drafter.named_children() if n not in ("embed_tokens", "lm_head")})
    randomise(own, 7, 0.3)
    return drafter.eval().requires_grad_(False)


def answers(target: Target, sampling: Sampling, limit: int, seed: int, count: int = SAMPLES) -> list[list[int]]:
    requests = [DecodeRequest(PROMPT, limit, (seed, i)) for i in range(count)]
    done = dict(respond(target, requests, sampling, max_batch=count))
    return [done[i].token_ids for i in range(count)]


def law(target: Target, sampling: Sampling, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer of at most `length` tokens, from plain passes over whole texts."""
    found: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        ids = torch.tensor([[*PROMPT, *said] for said in open_])
        with torch.no_grad():
            each = probabilities(sampling, target.model(input_ids=ids, use_cache=False).logits[:, -1])
        longer = {}
        for (said, before), p in zip(open_.items(), each.tolist(), strict=True):
            for token in range(VOCAB):
                if p[token] > 0:
                    (found if token == END else longer)[(*said, token)] = before * p[token]
        open_ = longer
    return found | open_


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, top_p=0.9, top_k=4)], ids=["plain", "cut"])
def test_answers_follow_the_models_law(recurrent: Target, sampling: Sampling) -> None:
    """Whole answers, end token and length limit included, against their exact probabilities."""
    seen = Counter(map(tuple, answers(recurrent, sampling, 3, 11)))
    expected = {said: p * SAMPLES for said, p in law(recurrent, sampling, 3).items()}
    assert sum(expected.values()) == pytest.approx(SAMPLES, rel=1e-4)
    assert set(seen) <= set(expected)
    common = [said for said, n in expected.items() if n >= 5]
    observed = [seen[said] for said in common] + [sum(seen[said] for said in expected if said not in common)]
    wanted = [expected[said] for said in common] + [sum(n for said, n in expected.items() if said not in common)]
    if wanted[-1] < 5:
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    assert len(common) > 10
    assert chisquare(observed, np.array(wanted) * SAMPLES / sum(wanted)).pvalue > REJECT


def test_an_answer_depends_on_its_own_seed_alone(recurrent: Target) -> None:
    """Not on what else is answered, in which order or how many together."""
    requests = [DecodeRequest(PROMPT[: 2 + i % 3], 12, (4, i)) for i in range(9)]
    together = dict(respond(recurrent, requests, Sampling(), max_batch=9))
    alone = dict(respond(recurrent, requests[::-1], Sampling(), max_batch=1))
    assert [together[i].token_ids for i in range(9)] == [alone[8 - i].token_ids for i in range(9)]
    assert len({tuple(d.token_ids) for d in together.values()}) > 3
    for done in together.values():
        assert (done.token_ids[-1] == END) == (done.finish == "stop")
        assert len(done.rounds) == len(done.token_ids) - 1


def test_settings_of_the_models_own_do_not_change_the_law(recurrent: Target) -> None:
    before, own = answers(recurrent, Sampling(), 8, 3, 50), recurrent.model.generation_config
    changes = {
        "repetition_penalty": 9.0, "suppress_tokens": [1, 3], "min_new_tokens": 8, "temperature": 0.1, "do_sample": True,
        "top_k": 1, "no_repeat_ngram_size": 1, "max_length": 3, "num_beams": 2,
    }  # fmt: skip
    kept = {name: getattr(own, name) for name in changes}
    try:
        own.update(**changes)
        assert answers(recurrent, Sampling(), 8, 3, 50) == before
        assert recurrent.model.generation_config is own
        assert own.repetition_penalty == 9.0
    finally:
        own.update(**kept)


def dense(target: Target, drafter: Drafter, sampling: Sampling) -> list[list[Round]]:
    """Rounds replayed from dense records of the target's own answers."""
    texts = []
    for i, said in enumerate(answers(target, sampling, NEW_TOKENS + GAMMA, 21)):
        ids = tuple(said)
        ended = ids[-1] == END and len(ids) <= NEW_TOKENS
        texts.append(DenseText(PROMPT, ids[:NEW_TOKENS], ids[NEW_TOKENS:], ended, (22, i)))
    [recorded] = record_anchors(target, [drafter], texts, sampling)[0].values()
    return [replay(a, PolicySpec.parse("fixed:3").bind()) for a in recorded]


def rereading(target: Target, drafter: Drafter, sampling: Sampling) -> list[list[Round]]:
    """The live loop without a cache: every round reads all of every text again. Slow and obvious."""
    random = np.random.default_rng(5)
    first = answers(target, sampling, 1, 31)
    said = [list(s) for s in first]
    rounds: list[list[Round]] = [[] for _ in said]
    while running := [i for i, s in enumerate(said) if s[-1] != END and len(s) < NEW_TOKENS]:
        running.sort(key=lambda i: len(said[i]))
        groups = [(n, list(group)) for n, group in itertools.groupby(running, key=lambda i: len(said[i]))]
        for length, alike in groups:  # texts of one length at a time: nothing is padded
            ids = torch.tensor([[*PROMPT, *said[i]] for i in alike])
            uniform = torch.from_numpy(random.random((2 * GAMMA + 1, len(alike))))
            draws = Draws(uniform[:GAMMA].T, uniform[GAMMA:-1].T, uniform[-1])
            proposal = proposed(target, drafter, ids, sampling, draws)
            with torch.no_grad():
                drafted = torch.cat([ids, proposal.tokens], 1)
                logits = target.model(input_ids=drafted, use_cache=False).logits[:, ids.shape[1] - 1 :]
            verdict = verify(proposal, torch.tensor(proposal.drafted), probabilities(sampling, logits), draws)
            for row, i in enumerate(alike):
                accepted = int(verdict.accepted[row])
                new = [*proposal.tokens[row, :accepted].tolist(), int(verdict.next_token[row])]
                new = new[: NEW_TOKENS - length]
                if END in new:
                    new = new[: new.index(END) + 1]
                    accepted = min(accepted, len(new))
                said[i] += new
                offered = proposal.drafted[row]
                sure = () if proposal.confidence is None else tuple(proposal.confidence[row].tolist())
                rounds[i].append(Round(offered, offered, accepted, len(new), sure, running=1))
    return rounds


def proposed(target: Target, drafter: Drafter, ids: torch.Tensor, sampling: Sampling, draws: Draws) -> Proposal:
    """A block after the last of `ids` [B, N], from taps of the whole text."""
    if not isinstance(drafter, LearnedDrafter):
        found = [drafter.drafts_along(row, len(row) - 1)[-1] for row in ids.tolist()]  # type: ignore[attr-defined]
        tokens = torch.tensor([[*draft, *[0] * (GAMMA - len(draft))] for draft in found])
        return Proposal(tokens, tuple(map(len, found)), None)
    tokens, probs = [], []

    def choose(k: int, logits: torch.Tensor) -> torch.Tensor:
        probs.append(probabilities(sampling, logits[:, 0]))
        tokens.append(sample(probs[k], draws.draft[:, k]))
        return tokens[k].unsqueeze(1)

    with torch.no_grad():
        taps = target.read(ids, drafter.tap_layers).taps
        anchor = torch.full((len(ids), 1), ids.shape[1] - 1)
        draft = drafter.draft(drafter.read(taps, ids, anchor), ids[:, -1:], choose)
    confidence = None if draft.confidence_logits is None else draft.confidence_logits[:, 0].sigmoid()
    return Proposal(torch.stack(tokens, 1), (GAMMA,) * len(ids), torch.stack(probs, 1), confidence)


@pytest.mark.parametrize("name", ["dspark", "eagle3", "ngram"])
def test_dense_records_replay_as_a_loop_that_reads_everything_again(recurrent: Target, name: str) -> None:
    drafter, sampling = drafter_of(name, recurrent), Sampling(top_p=0.9)
    replayed, live = dense(recurrent, drafter, sampling), rereading(recurrent, drafter, sampling)
    assert len({r.accepted for rounds in live for r in rounds}) > 2
    assert smallest_p_value(replayed, live) > REJECT


def test_a_wrong_target_is_caught(recurrent: Target) -> None:
    """The test above has power: an answer of another temperature is drafted and accepted otherwise."""
    drafter = drafter_of("dspark", recurrent)
    replayed = dense(recurrent, drafter, Sampling(temperature=2.0))
    assert smallest_p_value(replayed, rereading(recurrent, drafter, Sampling())) < REJECT


def test_a_state_has_no_longest_context(recurrent: Target) -> None:
    assert recurrent.max_positions == (256 if recurrent.config.model_type == "qwen3_next" else sys.maxsize)


def words(random: np.random.Generator, lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for length in lengths:
        yield tuple(int(i) for i in random.choice([1, 3, 4, 5], size=length))


@pytest.mark.parametrize("name", ["dspark", "eagle3", "ngram"])
def test_records_do_not_depend_on_padding(recurrent: Target, name: str) -> None:
    """One text alone or beside longer ones: what stands to the right of a text does not reach its state."""
    random, drafter = np.random.default_rng(4), drafter_of(name, recurrent)
    texts = [
        DenseText(prompt, said, (1, 3, 4), False, (0, i))
        for i, (prompt, said) in enumerate(itertools.pairwise(words(random, (3, 9, 4, 30, 5, 20))))
    ]
    [together] = record_anchors(recurrent, [drafter], texts, Sampling(), fresh=True)[0].values()
    for text, recorded in zip(texts, together, strict=True):
        [[alone]] = record_anchors(recurrent, [drafter], [text], Sampling(), fresh=True)[0].values()
        assert_same(alone, recorded)
