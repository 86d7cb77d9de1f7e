"""Drafts of fewer tokens than K: by the engine's table, and as a drafter finds them; what is said of them is true."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.served.acceptance import Acceptance, acceptance_of, interval
from harness.served.draft_lengths import length_of, shares_of_length
from harness.served.kept import traces_of
from harness.served.observed import Drafts, Observation, ServedRequest, Settings, of_rounds, pooled
from harness.served.server import Server, together
from harness.served.sources.registry import read_files
from simulator.policies import PolicySpec
from simulator.replay import replay
from tests.harness.served.writing import Truth, answer, vllm_log, vllm_metrics

TABLE = ((1, 4, 5), (5, 256, 1))
TRUTH = Truth(survival=(0.8, 0.65, 0.55, 0.45, 0.4), base_s=0.008, token_s=0.00003)
LOADS = ([2] * 12 + [32] * 8) * 4


def _by_table(running: float) -> int:
    return 5 if running <= 4 else 1


@dataclass(frozen=True)
class Found:
    """A drafter that finds as many tokens as it does, up to K: geometric; each token accepted as often as another."""

    most: int = 24
    goes_on: float = 0.75
    accepted: float = 0.75
    coverage: float = 0.6
    base_s: float = 0.02
    knee: float = 300.0

    def drafted(self, k: int) -> float:
        return float(sum(self.goes_on ** (j - 1) for j in range(1, k + 1)))

    def tokens(self, k: int) -> float:
        """Of a request, in a step."""
        share = self.accepted * self.goes_on
        return 1 + self.coverage * float(sum(share**j / self.goes_on for j in range(1, k + 1)))

    def step_s(self, k: int, running: float) -> float:
        return self.base_s * (1 + running * (1 + self.coverage * self.drafted(k)) / self.knee)

    def speed(self, k: int, running: float) -> float:
        return self.tokens(k) / self.step_s(k, running)

    def rounds(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(accepted, drafted) of rounds that have a draft."""
        drafted = np.minimum(rng.geometric(1 - self.goes_on, count), self.most)
        return np.minimum(rng.geometric(1 - self.accepted, count) - 1, drafted), drafted


def _log(
    method: str, gamma: int, loads: Sequence[int], stretch: Callable[[int], tuple[int, list[int], int]], table: str = ""
) -> str:
    """vLLM's log; `stretch` says of a load (tokens that were generated, accepted by position after drafts, drafted)."""
    at = datetime(2024, 11, 26, 3, 0, 0)
    config = f"{{'method': '{method}', 'model': 'E3', 'num_speculative_tokens': {gamma}{table}}}"
    lines = [f"INFO 11-26 02:00:00 [utils.py:286] non-default args: {{'model': 'Org/M', 'speculative_config': {config}}}"]
    for n in loads:
        at += timedelta(seconds=10)
        generated, [drafts, *counts], drafted = stretch(n)
        accepted, stamp = sum(counts), f"INFO {at:%m-%d %H:%M:%S}"
        lines.append(
            f"{stamp} Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: "
            f"{generated / 10:.1f} tokens/s, Running: {n} reqs, Waiting: 0 reqs, GPU KV cache usage: 10.0%"
        )
        lines.append(
            f"{stamp} SpecDecoding metrics: Mean acceptance length: {1 + accepted / drafts:.2f}, "
            f"Accepted: {accepted} tokens, Drafted: {drafted} tokens, Per-position acceptance rate: "
            f"{', '.join(f'{c / drafts:.3f}' for c in counts)}, Avg Draft acceptance rate: {100 * accepted / drafted:.1f}%"
        )
    return "\n".join(lines) + "\n"


def table_log(loads: Sequence[int] = LOADS, *, says: bool = True, seed: int = 0, truth: Truth = TRUTH) -> str:
    """Of a server whose K is 5 up to four running, else 1; the log may say so."""
    rng = np.random.default_rng(seed)

    def stretch(n: int) -> tuple[int, list[int], int]:
        k = _by_table(n)
        steps = int(10 / truth.step_s(k, n)) * n
        length = (rng.random((steps, 1)) < truth.survival[:k]).sum(1)  # one draw a draft: as the shares nest
        counts = [int((length >= j).sum()) for j in range(1, 6)]
        return steps + sum(counts), [steps, *counts], steps * k

    table = f", 'num_speculative_tokens_per_batch_size': {[list(row) for row in TABLE]}" if says else ""
    return _log("eagle3", 5, loads, stretch, table)


def found_log(found: Found, loads: Sequence[int], seed: int = 0) -> str:
    """Of suffix decoding."""
    rng = np.random.default_rng(seed)

    def stretch(n: int) -> tuple[int, list[int], int]:
        steps = int(10 / found.step_s(found.most, n)) * n
        accepted, drafted = found.rounds(int(found.coverage * steps), rng)
        counts = [int((accepted >= j).sum()) for j in range(1, found.most + 1)]
        return steps + sum(counts), [len(drafted), *counts], int(drafted.sum())

    return _log("suffix", found.most, loads, stretch)


def _answer(accepted: Sequence[int], drafted: Sequence[int], k: int) -> str:
    histogram = np.bincount(accepted, minlength=k + 1).tolist()
    one = answer(list(accepted), histogram, 1 + len(accepted) + sum(accepted), k)
    one["metrics"]["speculative_decoding"].update(per_step_drafted=list(drafted), num_draft_tokens=sum(drafted))
    return json.dumps(one)


def table_answers(count: int = 200, seed: int = 0) -> str:
    """A third of the requests with K = 5, the others with 1; a tenth with 5 at first."""
    rng, lines = np.random.default_rng(seed), []
    for i in range(count):
        sizes = np.array([5] * 40 + [1] * 60 if i % 10 == 9 else [5] * 100 if i % 3 == 0 else [1] * 100)
        accepted = np.minimum((rng.random((100, 1)) < np.array(TRUTH.survival)).sum(1), sizes)
        lines.append(_answer(accepted.tolist(), sizes.tolist(), 5))
    return "\n".join(lines) + "\n"


def read(path: Path, text: str) -> tuple[Server, Acceptance]:
    path.write_text(text)
    server = together(*read_files([path]))
    return server, acceptance_of(server)


def advised(path: Path, text: str, *words: str) -> dict[str, Any]:
    path.write_text(text)
    done = CliRunner().invoke(app, ["advise", str(path), *words, "--json"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


class TestTable:
    """K by batch size."""

    @pytest.mark.parametrize("says", [True, False])
    def test_positions_are_counted_over_drafts_that_have_them(self, says: bool, tmp_path: Path) -> None:
        server, found = read(tmp_path / "a", table_log(says=says))
        assert found.survival == pytest.approx(TRUTH.survival, abs=0.01)
        assert (server.shortener, found.known) == ("engine", 5)
        assert "over drafts of k tokens" in server.notes[0]
        for k, share in enumerate(TRUTH.survival):
            low, high = interval(found.survivals[:, k])
            assert low - 0.01 < share < high + 0.01
        assert [server.served_k(n) for n in (2, 3, 32, 60)] == [5, 5, 1, 1]

    @pytest.mark.parametrize("words", [(), ("--hardware", "h100/qwen3-8b")])
    @pytest.mark.parametrize("says", [True, False])
    def test_gains_are_over_the_k_that_was_served_at_a_load(
        self, words: tuple[str, ...], says: bool, tmp_path: Path
    ) -> None:
        told = advised(tmp_path / "a", table_log(says=says), *words)
        before = sum(n * TRUTH.speed(_by_table(n), n) for n in LOADS)
        for one in told["by_tokens"]:
            k = one["tokens"]
            truth = sum(n * TRUTH.speed(k, n) for n in LOADS) / before - 1
            # The profile is of another machine than the log, whose drafter takes more; a line of the log at which the load
            # turns from 2 to 32 is of neither.
            off = 0.03 if words else 0.015
            assert one["gain"]["low"] - off < truth < one["gain"]["high"] + off
        at = {one["running"]: one for one in told["loads"]}
        assert not at[2]["sure"]  # 5 is best there, and was served
        assert at[2]["gain"]["low"] <= 0 <= at[2]["gain"]["high"]
        if words:
            truth = TRUTH.speed(at[32]["best"], 32) / TRUTH.speed(1, 32) - 1
            assert at[32]["best"] > 1
            assert at[32]["gain"]["low"] < truth < at[32]["gain"]["high"]
        assert told["tokens"] != 1

    def test_what_is_kept_is_the_table(self, tmp_path: Path) -> None:
        """Where tokens cost as much as they give above four running, it is right."""
        truth = Truth(TRUTH.survival, base_s=0.008, token_s=0.0002)
        assert truth.speed(1, 32) > truth.speed(5, 32)
        told = advised(tmp_path / "a", table_log(truth=truth))
        assert told["verdict"] == "keep"
        assert "per_batch_size" in told["flags"]
        assert told["expected"]["tokens_per_draft"]["value"] < 3

    def test_of_each_request_its_own_drafts_count(self, tmp_path: Path) -> None:
        server, found = read(tmp_path / "a", table_answers())
        assert found.survival == pytest.approx(TRUTH.survival, abs=0.02)
        assert server.drafts.accepted_at[4] / server.drafts.drafts < 0.25  # as counted
        for k in range(1, 6):
            low, high = interval(found.tokens_drawn(k))
            assert low - 0.01 < TRUTH.tokens(k) < high

    def test_intervals_of_requests_hold_the_truth(self, tmp_path: Path) -> None:
        inside = []
        for seed in range(30):
            _, found = read(tmp_path / "a", table_answers(30, seed))
            for k in range(1, 6):
                low, high = interval(found.tokens_drawn(k))
                inside.append(low <= TRUTH.tokens(k) <= high)
        assert np.mean(inside) > 0.85

    def test_answers_alone_do_not_say_at_which_load(self, tmp_path: Path) -> None:
        told = advised(tmp_path / "a", table_answers(), "--drafter", "eagle3", "--hardware", "h100/qwen3-8b")
        assert told["verdict"] == "keep"
        assert not any(one["sure"] for one in told["loads"])
        assert any("at which load" in one for one in told["cannot"])

    def test_a_run_has_drafts_as_long_as_they_were(self, tmp_path: Path) -> None:
        server, found = read(tmp_path / "a", table_answers(30))
        trace, told = traces_of(server, found, "mine", "eagle3", 0)
        assert any("as long as they were verified" in one for one in told)
        for (_, anchors), request in zip(trace, server.told_apart, strict=True):
            walked = [(r.accepted, r.verified) for r in replay(anchors, PolicySpec.fixed(5).bind())]
            assert walked == list(zip(request.rounds, request.verified or (5,) * len(request.rounds), strict=True))

    def test_k_that_was_never_drafted_is_not_known(self, tmp_path: Path) -> None:
        """All day 32 were running: nothing is known of positions after the first."""
        server, found = read(tmp_path / "a", table_log([32] * 30))
        assert (server.gamma, found.known) == (5, 1)
        told = advised(tmp_path / "a", table_log([32] * 30), "--hardware", "h100/qwen3-8b")
        assert [one["tokens"] for one in told["by_tokens"]] == [0, 1]
        assert len(told["acceptance"]["positions"]) == 1
        assert "more than 1 tokens a draft" in told["cannot"][0]
        assert CliRunner().invoke(app, ["advise", str(tmp_path / "a")]).exit_code == 0

    def test_averages_of_several_k_make_nothing_sure(self, tmp_path: Path) -> None:
        """One scrape: half of the drafts had one token."""
        text = vllm_metrics(40_000, (32_000, 13_000, 11_000, 9_000, 8_000), 40_000, 400)
        text = text.replace("draft_tokens_total{", "was{").replace(
            "# TYPE", 'vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 120000.0\n# TYPE'
        )
        told = advised(tmp_path / "a", text, "--drafter", "eagle3", "--hardware", "h100/qwen3-8b")
        assert told["verdict"] == "keep"
        assert not any(one["sure"] for one in told["loads"])
        assert any("no file says which were short" in one for one in told["cannot"])

    def test_stretches_in_which_k_changed_say_nothing(self) -> None:
        def drafts(drafted: float, *at: float) -> Drafts:
            return Drafts(drafts=100, drafted=drafted, accepted=sum(at), accepted_at=at)

        assert length_of(drafts(500, 80, 60, 50, 40, 30), 5) == 5
        assert length_of(drafts(100, 80, 0, 0, 0, 0), 5) == 1
        assert length_of(drafts(300, 80, 40, 30, 20, 10), 5) is None  # of 5, and of 1
        assert length_of(drafts(340, 80, 40, 30, 0, 0), 5) is None


class TestFound:
    """As many as a drafter finds."""

    LOADS = (8,) * 40 + (64,) * 40

    def test_a_step_verifies_what_was_drafted(self, tmp_path: Path) -> None:
        server, found = read(tmp_path / "a", found_log(Found(), self.LOADS))
        assert found.drafted[24] == pytest.approx(server.drafts.drafted / server.drafts.drafts)
        assert found.drafted[1:] == pytest.approx([Found().drafted(k) for k in range(1, 25)], rel=0.02)
        assert server.shortener == "drafter"

    @pytest.mark.parametrize("truth", [Found(), Found(goes_on=0.9, accepted=0.6), Found(goes_on=0.5, accepted=0.9)])
    def test_gains_of_a_cap_hold_the_truth(self, truth: Found, tmp_path: Path) -> None:
        told = advised(tmp_path / "a", found_log(truth, self.LOADS))
        before = sum(n * truth.speed(24, n) for n in self.LOADS)
        gained = {k: sum(n * truth.speed(k, n) for n in self.LOADS) / before - 1 for k in range(1, 25)}
        for one in told["by_tokens"]:
            assert one["gain"]["low"] - 0.005 < gained[one["tokens"]] < one["gain"]["high"] + 0.005
        if told["verdict"] != "keep":
            rows = told["rows"] or [[1, 256, told["tokens"]]]
            k = {n: next(k for first, last, k in rows if first <= n <= last) for n in {*self.LOADS}}
            assert sum(n * truth.speed(k[n], n) for n in self.LOADS) > before

    def test_rounds_say_how_long_drafts_were(self, tmp_path: Path) -> None:
        """No method is named: lengths that change from draft to draft are a drafter's own."""
        rng, truth = np.random.default_rng(0), Found()
        rounds = [truth.rounds(60, rng) for _ in range(40)]
        text = "\n".join(_answer(a.tolist(), d.tolist(), 24) for a, d in rounds) + "\n"
        server, found = read(tmp_path / "a", text)
        drafted = np.concatenate([d for _, d in rounds])
        assert server.shortener == "drafter"
        assert found.drafted[5] == pytest.approx(np.minimum(drafted, 5).mean())
        accepted = np.concatenate([a for a, _ in rounds])
        assert found.survival == pytest.approx([(accepted >= k).mean() for k in range(1, 25)])

    def test_lengths_are_no_less_than_what_was_accepted(self) -> None:
        drafts = Drafts(drafts=100, drafted=300, accepted=150, accepted_at=(50, 40, 30, 30))
        shares = shares_of_length(drafts, (), np.array(drafts.survival))
        assert shares.sum() == pytest.approx(3)
        assert (shares >= drafts.survival).all()

    def test_a_run_of_averages_has_drafts_of_their_lengths(self, tmp_path: Path) -> None:
        server, found = read(tmp_path / "a", found_log(Found(), self.LOADS))
        trace, _ = traces_of(server, found, "mine", "ngram", 0)
        drafted = trace.anchors.drafted[trace.anchors.drafted > 0]
        assert drafted.mean() == pytest.approx(Found().drafted(24), rel=0.03)


def test_whole_drafts_stay_as_they_are(tmp_path: Path) -> None:
    server, found = read(tmp_path / "a", vllm_log(Truth(), LOADS))
    assert (server.shortener, found.known, server.notes) == ("nobody", 3, ())
    assert found.drafted.tolist() == [0, 1, 2, 3]


SERVED = Path(os.environ.get("SPECYARD_SERVED", Path(__file__).parents[4] / "shared" / "served"))


@pytest.mark.skipif(not SERVED.is_dir(), reason="no captured files: SPECYARD_SERVED names their folder")
@pytest.mark.parametrize(("folder", "tokens"), [("vllm_draft3", 3.9514), ("vllm_ngram5", 1.3348)])
def test_tokens_a_step_are_those_that_were_counted(folder: str, tokens: float) -> None:
    """Of two scrapes, in JSON as on the screen, as the capture's notes have it."""
    scrapes = [str(SERVED / folder / f"metrics_{when}_c4.prom") for when in ("before", "after")]
    scrapes = [one if Path(one).exists() else one.replace("_before", "").replace("_after", "") for one in scrapes]
    told = json.loads(CliRunner().invoke(app, ["advise", *scrapes, "--json"]).stdout)
    step = told["acceptance"]["tokens_per_step"]
    assert step["value"] == pytest.approx(tokens, abs=1e-4)
    assert step["low"] <= step["value"] <= step["high"]
    assert f"{tokens:.2f} tokens a step" in CliRunner().invoke(app, ["advise", *scrapes]).stdout


def test_whole_drafts_of_short_answers_give_what_those_got() -> None:
    """An end cuts the last draft, all of which counts as accepted: tokens a step were too many."""
    rng, gamma, requests = np.random.default_rng(3), 7, list[ServedRequest]()
    for _ in range(60):
        ease, tokens, rounds = rng.beta(2, 2), int(rng.integers(3, 16)), list[int]()
        while sum(rounds) + len(rounds) < tokens - 1:
            rounds.append(int(np.argmin([*(rng.random(gamma) < ease), False])))
        drafts = of_rounds(rounds, [gamma] * len(rounds), gamma)
        requests.append(ServedRequest(output_tokens=tokens, drafts=drafts, rounds=tuple(rounds)))
    told = Observation(
        source="made", files=("made",), settings=Settings(engine="vLLM", method="eagle3", gamma=gamma, speculates=True),
        drafts=pooled([one.drafts for one in requests]), told_apart=tuple(requests), requests=len(requests),
        generated=sum(one.output_tokens for one in requests), request_steps=sum(len(one.rounds) for one in requests),
    )  # fmt: skip
    whole = sum(one.output_tokens - 1 for one in requests) / sum(len(one.rounds) for one in requests)
    assert acceptance_of(together([told])).tokens(gamma) == pytest.approx(whole, rel=1e-6)
