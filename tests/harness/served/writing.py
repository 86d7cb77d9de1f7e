"""Files as engines write them, of servers whose truth is known: made here, so that a clone alone tests every source."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SURVIVAL = (0.75, 0.5, 0.3)
EVERY_S = 10


@dataclass(frozen=True)
class Truth:
    """A server: how it is accepted, and how long its steps take."""

    survival: tuple[float, ...] = SURVIVAL
    base_s: float = 0.010
    token_s: float = 0.00002
    draft_s: float = 0.0004
    """Of each drafted token."""
    request_s: float = 0.0
    """Of each request, however many tokens of it: its context."""
    knee: float = np.inf
    """Tokens in a pass from which each takes `beyond_s` more."""
    beyond_s: float = 0.0

    def step_s(self, k: int, running: float) -> float:
        """Seconds of a step of so many requests with k drafted tokens."""
        tokens = running * (1 + k)
        over = max(tokens - self.knee, 0.0) * self.beyond_s
        return self.base_s + self.token_s * tokens + over + self.request_s * running + self.draft_s * k

    def tokens(self, k: int) -> float:
        """Of a request, in a step."""
        return 1 + sum(self.survival[:k])

    def speed(self, k: int, running: float) -> float:
        """Tokens a second of a request."""
        return self.tokens(k) / self.step_s(k, running)


def vllm_log(
    truth: Truth,
    running: Sequence[int],
    seed: int = 0,
    *,
    k: Callable[[int], int] | None = None,
    clumped: float = 0.0,
    method: str = "eagle3",
) -> str:
    """vLLM's log of stretches of ten seconds, so many running; `clumped` is the spread of acceptance between them. Without a
    `method` it was not set to draft."""
    rng, at = np.random.default_rng(seed), datetime(2024, 11, 26, 10, 0, 0)
    gamma = len(truth.survival)
    lines = [
        "(APIServer pid=1) INFO 11-26 09:59:00 [api_utils.py:286] non-default args: {'model': 'Org/Model-8B'"
        + (
            f", 'speculative_config': {{'method': '{method}', 'model': 'Org/Draft', 'num_speculative_tokens': {gamma}}}}}"
            if method
            else "}"
        ),
        "(APIServer pid=1) INFO 11-26 09:59:01 [x.py:1] Application startup complete.",
    ]
    for n in running:
        at += timedelta(seconds=EVERY_S)
        now = gamma if k is None else k(n)
        steps = int(EVERY_S / truth.step_s(now, n)) * n
        shift = clumped * rng.standard_normal()
        shares = np.clip(np.array(truth.survival) * np.exp(shift), 0, 0.99)
        alphas = shares / np.concatenate([[1.0], shares[:-1]])
        counts, left = [], steps
        for alpha in alphas[:now]:
            left = rng.binomial(left, min(alpha, 1.0))
            counts.append(left)
        lines += _stretch(at, n, steps, steps if now else 0, steps * now, counts, gamma)
    return "\n".join(lines) + "\n"


def _stretch(
    at: datetime, running: int, slots: int, drafts: int, drafted: int, accepted_at: Sequence[int], gamma: int
) -> list[str]:
    """vLLM's lines at the end of a stretch in which requests took so many steps, with so many drafts in them."""
    accepted, stamp = sum(accepted_at), f"(APIServer pid=1) INFO {at:%m-%d %H:%M:%S}"
    lines = [
        f"{stamp} [loggers.py:335] Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: "
        f"{(slots + accepted) / EVERY_S:.1f} tokens/s, Running: {running} reqs, Waiting: 0 reqs, GPU KV cache usage: "
        f"{running / 50:.1f}%, Prefix cache hit rate: 0.0%"
    ]
    if drafts:
        rates = ", ".join(f"{c / drafts:.3f}" for c in [*accepted_at, *[0] * (gamma - len(accepted_at))])
        lines.append(
            f"{stamp} [metrics.py:120] SpecDecoding metrics: Mean acceptance length: {1 + accepted / drafts:.2f}, "
            f"Accepted throughput: {accepted / EVERY_S:.2f} tokens/s, Drafted throughput: "
            f"{drafted / EVERY_S:.2f} tokens/s, Accepted: {accepted} tokens, Drafted: {drafted} tokens, "
            f"Per-position acceptance rate: {rates}, Avg Draft acceptance rate: {100 * accepted / drafted:.1f}%"
        )
    return lines


def walked_log(
    truth: Truth, running: Callable[[float], int], k: Callable[[int], int], seconds: float, seed: int = 0, *,
    method: str = "eagle3", found: float = 1.0,
) -> tuple[str, list[float]]:  # fmt: skip
    """vLLM's log of a server whose load goes up and down, step by step, K by what runs: stretches end within rows of its
    table. Beside it what 0, 1, …, K drafted at every load would give in tokens a second, over what was served. A look-up
    finds drafts in a share of steps (`found`)."""
    rng, begin = np.random.default_rng(seed), datetime(2026, 11, 27, 2, 0, 0)
    gamma, now_s, until_s = len(truth.survival), 0.0, float(EVERY_S)
    alphas = np.array(truth.survival) / [1.0, *truth.survival[:-1]]
    slots, drafts, drafted, at = 0, 0, 0, np.zeros(gamma, int)
    ideal, served = np.zeros(gamma + 1), 0.0
    lines = [
        "(APIServer pid=1) INFO 11-27 01:59:00 [api_utils.py:286] non-default args: {'model': 'Org/Model-8B', "
        f"'speculative_config': {{'method': '{method}', 'model': 'Org/Draft', 'num_speculative_tokens': {gamma}}}}}",
    ]

    def step_s(k: int, n: int) -> float:
        return (1 - found) * truth.step_s(0, n) + found * truth.step_s(k, n)

    def tokens(k: int) -> float:
        return 1 + found * (truth.tokens(k) - 1)

    while now_s < seconds:
        n = running(now_s)
        own, left = k(n), 0
        if own:
            left = n if found == 1 else rng.binomial(n, found)
        slots, drafts, drafted = slots + n, drafts + left, drafted + left * own
        for position in range(own):
            left = rng.binomial(left, alphas[position])
            at[position] += left
        took_s = step_s(own, n)
        ideal += [took_s * n * tokens(one) / step_s(one, n) for one in range(gamma + 1)]
        served, now_s = served + n * tokens(own), now_s + took_s
        if now_s >= until_s:
            lines += _stretch(begin + timedelta(seconds=until_s), n, slots, drafts, drafted, at.tolist(), gamma)
            slots, drafts, drafted, at, until_s = 0, 0, 0, np.zeros(gamma, int), until_s + EVERY_S
    return "\n".join(lines) + "\n", (ideal / served - 1).tolist()


@dataclass(frozen=True)
class Clients:
    """So many users, each of whom asks again when answered: prompts are computed in the steps of the others."""

    users: Callable[[float], int]
    """By seconds since the beginning."""
    answer: int = 200
    prompt: int = 0
    prompt_s: float = 0.0
    """Seconds that each token of a prompt takes."""
    survival: Callable[[int], tuple[float, ...]] | None = None
    """By users; the server's own without it."""
    differ: bool = False
    """Whether answers are of half to one and a half times as many tokens, so that they end one by one."""
    think_s: float = 0.0
    """Seconds until they ask again, on average: at times nothing runs."""


class _Step(NamedTuple):
    """A step of a server that clients ask."""

    now_s: float
    """When it ends."""
    took_s: float
    users: int
    running: int
    new: int
    """Whose prompts were computed beside."""
    left: int
    """That run on."""
    accepted: npt.NDArray[np.int_]
    """Whether each request's drafts were, [running, K]."""
    given: int
    """Tokens of answers."""


def _walked(truth: Truth, clients: Clients, k: int, seconds: float, seed: int) -> Iterator[_Step]:
    rng, left, now_s, asks_s = np.random.default_rng(seed), np.zeros(0, int), 0.0, np.zeros(clients.users(0.0))
    while now_s < seconds:
        n = clients.users(now_s)
        new, running = max(n - len(left), 0), len(left)
        if clients.think_s:
            now_s = now_s if running else max(now_s, float(asks_s.min()))
            new, asks_s = int((asks_s <= now_s).sum()), asks_s[asks_s > now_s]
        survival = np.array(clients.survival(n) if clients.survival else truth.survival)[:k]
        alphas = survival / [1.0, *survival[:-1]][: len(survival)]
        accepted = np.cumprod(rng.random((running, k)) < alphas, 1).astype(int)
        told = np.minimum(accepted.sum(1) + 1, left)
        took_s = truth.step_s(k, max(running, 1)) + new * clients.prompt * clients.prompt_s
        left = left - told
        ended = int((left <= 0).sum())
        answers = rng.integers(clients.answer // 2, clients.answer * 3 // 2, new) if clients.differ else clients.answer
        left = np.concatenate([left[left > 0], np.full(new, answers) - 1])
        now_s += took_s
        asks_s = np.concatenate([asks_s, now_s + rng.exponential(clients.think_s, ended)])
        yield _Step(now_s, took_s, n, running, new, len(left), accepted, int(told.sum()) + new)


def clients_log(
    truth: Truth, clients: Clients, k: int, seconds: float, *, seed: int = 0, method: str = "eagle3"
) -> tuple[str, dict[int, float]]:
    """(vLLM's log of a server that drafts so many tokens, tokens a second by users), walked step by step and request by
    request: what an answer's end cuts counts as accepted, and the first token comes of no draft."""
    begin, gamma, until_s = datetime(2026, 11, 27, 2, 0, 0), len(truth.survival), float(EVERY_S)
    slots, drafts, at, prompts, given = 0, 0, np.zeros(gamma, int), 0, 0
    by_users, spent = dict[int, float](), dict[int, float]()
    config = (
        f"'speculative_config': {{'method': '{method}', 'model': 'Org/D', 'num_speculative_tokens': {gamma}}}" if k else ""
    )
    lines = [f"(APIServer pid=1) INFO 11-27 01:59:00 [a.py:1] non-default args: {{'model': 'Org/Model-8B', {config}}}"]
    for step in _walked(truth, clients, k, seconds, seed):
        n, running = step.users, step.running
        slots, drafts, prompts = slots + running, drafts + (running if k else 0), prompts + step.new * clients.prompt
        at[:k] += step.accepted.sum(0)
        given += step.given
        by_users[n], spent[n] = by_users.get(n, 0.0) + step.given, spent.get(n, 0.0) + step.took_s
        if step.now_s >= until_s:
            load, *rest = _stretch(
                begin + timedelta(seconds=until_s), step.left, slots, drafts, drafts * k, at.tolist(), gamma
            )
            load = re.sub(r"prompt throughput: [\d.]+", f"prompt throughput: {prompts / EVERY_S:.1f}", load)
            lines += [re.sub(r"generation throughput: [\d.]+", f"generation throughput: {given / EVERY_S:.1f}", load), *rest]
            slots, drafts, at, prompts, given, until_s = 0, 0, np.zeros(gamma, int), 0, 0, until_s + EVERY_S
    return "\n".join(lines) + "\n", {n: by_users[n] / spent[n] for n in by_users}


def sglang_clients_log(
    truth: Truth, clients: Clients, k: int, seconds: float, every: int, seed: int = 0
) -> tuple[str, float]:
    """(SGLang's log of such a server, a line of each prompt and of so many decoding steps; tokens a second)."""
    begin, gamma, last_s, given, tokens, slots, decoded = datetime(2026, 11, 27, 2), len(truth.survival), 0.0, 0, 0, 0, 0
    drafts = f"speculative_algorithm='EAGLE3', speculative_num_draft_tokens={gamma + 1}, " if k else ""
    lines = [f"[{begin}] server_args=ServerArgs(model_path='Org/M', {drafts}decode_log_interval={every})"]
    for step in _walked(truth, clients, k, seconds, seed):
        stamp = f"[{begin + timedelta(seconds=int(step.now_s))} TP0]"
        given, tokens, slots = given + step.given, tokens + int(step.accepted.sum()) + step.running, slots + step.running
        if step.new:
            lines.append(
                f"{stamp} Prefill batch, #new-seq: {step.new}, #new-token: {step.new * clients.prompt}, #cached-token: 0, "
                f"token usage: 0.10, #running-req: {step.running}, #queue-req: 0, cuda graph: False, input throughput "
                "(token/s): 9.00"
            )
        decoded += 1 if step.running else 0
        if decoded == every:
            length = tokens / slots
            share = f"accept len: {length:.2f}, accept rate: {(length - 1) / gamma:.2f}, " if k else ""
            lines.append(
                f"{stamp} Decode batch, #running-req: {step.running}, #token: 9, token usage: 0.10, {share}cuda graph: "
                f"True, gen throughput (token/s): {tokens / (step.now_s - last_s):.2f}, #queue-req: 0"
            )
            last_s, tokens, slots, decoded = step.now_s, 0, 0, 0
    return "\n".join(lines) + "\n", given / step.now_s


def sglang_log(running: Sequence[int], *, length: float = 2.5, gamma: int = 3, begins: str = "10:00:00") -> str:
    """SGLang's log of a server whose steps take 50 ms: a line every 40 of them."""
    at = datetime.fromisoformat(f"2026-11-26 {begins}")
    lines = [
        f"[{at}] server_args=ServerArgs(model_path='Org/M', speculative_algorithm='EAGLE3', speculative_num_steps={gamma}, "
        f"speculative_eagle_topk=1, speculative_num_draft_tokens={gamma + 1})"
    ]
    for n in running:
        at += timedelta(seconds=2)
        lines.append(
            f"[{at} TP0] Decode batch, #running-req: {n}, #token: 9, accept len: {length:.2f}, accept rate: "
            f"{(length - 1) / gamma:.2f}, cuda graph: True, gen throughput (token/s): {n * length / 0.05:.2f}, #queue-req: 0"
        )
    return "\n".join(lines) + "\n"


def vllm_metrics(
    drafts: int,
    at: Sequence[int],
    slots: int,
    requests: int,
    *,
    began: float = 1000.0,
    cut: int = 0,
    steps: int = 100,
    model: str = "m",
) -> str:
    """vLLM's metrics, as they stand once so much was served."""
    label, accepted = f'{{engine="0",model_name="{model}"}}', sum(at)
    generated = slots + accepted + requests - cut
    rows = {
        "vllm:generation_tokens_total": generated, "vllm:generation_tokens_created": began,
        "vllm:prompt_tokens_total": 100 * requests, "vllm:time_to_first_token_seconds_count": requests,
        "vllm:inter_token_latency_seconds_count": slots, "vllm:inter_token_latency_seconds_sum": slots * 0.02,
        "vllm:iteration_tokens_total_count": steps, "vllm:iteration_tokens_total_sum": 5 * steps,
        "vllm:spec_decode_num_drafts_total": drafts, "vllm:spec_decode_num_draft_tokens_total": drafts * len(at),
        "vllm:spec_decode_num_accepted_tokens_total": accepted, "vllm:num_requests_running": 0,
    }  # fmt: skip
    lines = ["# HELP vllm:generation_tokens_total Tokens.", "# TYPE vllm:generation_tokens_total counter"]
    lines += [f"{name}{label} {float(value)}" for name, value in rows.items() if drafts or "spec_decode" not in name]
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    lines += [f'{name}{{engine="0",model_name="{model}",position="{i}"}} {float(n)}' for i, n in enumerate(at)]
    return "\n".join(lines) + "\n"


def answer(accepted: Sequence[int] | None, histogram: Sequence[int], tokens: int, k: int = 3) -> dict[str, Any]:
    """One answer of vLLM's with what became of its drafts."""
    told = {
        "mean_acceptance_length": 1.0, "draft_acceptance_rate": 0.0, "acceptance_histogram": list(histogram),
        "num_spec_steps": sum(histogram), "num_accepted_draft_tokens": sum(i * n for i, n in enumerate(histogram)),
        "num_draft_tokens": k * sum(histogram), "num_spec_tokens": k,
        "per_step_accepted": None if accepted is None else list(accepted),
        "per_step_drafted": None if accepted is None else [k] * len(accepted),
    }  # fmt: skip
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    return {"id": "x", "model": "m", "usage": usage, "metrics": {"speculative_decoding": told}}


def answers(count: int, seed: int = 0, survival: Sequence[float] = SURVIVAL, rounds: int = 30) -> str:
    """Answers, one a line, of requests that differ in ease."""
    rng, k = np.random.default_rng(seed), len(survival)
    lines = []
    for _ in range(count):
        shares = np.clip(np.array(survival) * np.exp(0.2 * rng.standard_normal()), 0, 1)
        accepted = (rng.random((rounds, 1)) < shares).sum(1)
        histogram = np.bincount(accepted, minlength=k + 1).tolist()
        lines.append(json.dumps(answer(accepted.tolist(), histogram, int(1 + rounds + accepted.sum()), k)))
    return "\n".join(lines) + "\n"


def dspark_dump() -> str:
    """SGLang's record of two steps of two requests, one of them with less verified."""

    def request(rid: str, verify: int, accepted: int) -> dict[str, Any]:
        return {
            "rid": rid, "prefix_len": 10, "verify_len": verify + 1, "acc_len": accepted + 1, "correct_drafts": accepted,
            "cap_trim": 0, "bonus_token": 1, "draft_tokens": [1] * 3, "confidence": [0.9, 0.8, 0.7],
        }  # fmt: skip

    steps = [[("a", 3, 3), ("b", 3, 1)], [("a", 1, 1), ("b", 3, 0)]]
    records = [
        {
            "forward_ct": i, "bs": 2, "num_verify_tokens": sum(1 + v for _, v, _ in own), "step_gpu_ms": 10.0,
            "draft_gpu_ms": 2.0, "target_verify_gpu_ms": 7.0, "reqs": [request(*one) for one in own],
        }
        for i, own in enumerate(steps)
    ]  # fmt: skip
    return json.dumps({"internal_states": [{"dspark_info_record": {"mode": "compact", "gamma": 3, "records": records}}]})


def write_served(folder: Path) -> None:
    """Files of a server, in a folder: a log and a later one, one that switches off above a load, and answers."""
    loads = [4, 8, 16, 32] * 6
    (folder / "served.log").write_text(vllm_log(Truth(), loads))
    (folder / "later.log").write_text(vllm_log(Truth(), loads, seed=1))
    (folder / "table.log").write_text(vllm_log(Truth(), sorted(loads), k=lambda n: 3 if n < 20 else 0))
    (folder / "answers.jsonl").write_text(answers(12))
