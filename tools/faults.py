"""Planted faults: each is put into a copy of the project, and its one named test must fail there.

Tests that pass say nothing of what they would notice. `python tools/faults.py` says it of the faults below, and ends with 1
where one survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_S = 240
"""Seconds of one test, what it compiles included."""


class FaultError(Exception):
    """A fault that cannot be planted, or a test that proves nothing; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake that somebody could make."""

    name: str
    """In words."""
    file: str
    """From the project's root on."""
    right: str
    """What stands in the file, once."""
    wrong: str
    """What stands there in its place."""
    test: str
    """The id of the test that must fail."""

    def plant(self, root: Path) -> None:
        """Put the fault into the project at `root`. Raises FaultError where the text is not there, or not alone."""
        text = (root / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.right)) != 1:
            raise FaultError(f"{self.name}: {self.file} has {count} times, not once: {self.right.strip()}")
        (root / self.file).write_text(text.replace(self.right, self.wrong), encoding="utf-8")


FAULTS = (
    Fault(
        "a GGUF file's rotary base left at the library's",
        "drafters/gguf_header.py",
        'own["rope_theta"] = float(self._own("rope.freq_base", own.get("rope_theta", 10_000.0)))',
        'own.setdefault("rope_theta", 10_000.0)',
        "tests/drafters/test_gguf.py::test_what_the_library_leaves_out_is_put_into_the_configuration[starcoder2-fields0-found0]",
    ),
    Fault(
        "a GGUF file's heads of keys made up where it does not say them",
        "drafters/gguf_header.py",
        'heads = hasattr(config, "num_key_value_heads") and self._architecture not in _FUSED',
        "heads = False",
        "tests/drafters/test_gguf.py::test_what_a_file_does_not_say_is_not_made_up[attention.head_count_kv]",
    ),
    Fault(
        "a GGUF file's sign of a text's beginning forgotten",
        "drafters/pretokens.py",
        'put = {"bos": declared.get("add_bos_token", begins)',
        'put = {"bos": declared.get("add_bos_token", kind == "llama")',
        "tests/drafters/test_gguf.py::test_signs_around_a_text_are_the_files[llama-bpe-fields0-around0]",
    ),
    Fault(
        "a wrong residual",
        "drafters/sampling.py",
        "residual = (p_final - q_final).clamp(min=0)",
        "residual = p_final",
        "tests/drafters/test_lossless.py::test_responses_follow_the_targets_law[temperature 1-dspark]",
    ),
    Fault(
        "acceptance 2 % too eager",
        "drafters/sampling.py",
        "* q_token < p_token) & offered",
        "* q_token < 1.02 * p_token) & offered",
        "tests/drafters/test_lossless.py::test_one_round_commits_the_targets_law[sampled]",
    ),
    Fault(
        "acceptance 2 % too eager where it is recorded",
        "drafters/dense.py",
        "v.uniform[k, 0] < beta)",
        "v.uniform[k, 0] < 1.02 * beta)",
        "tests/drafters/test_dense.py::test_what_is_accepted_is_what_the_coins_say[dspark]",
    ),
    Fault(
        "the law of greedy drafts for sampled ones",
        "drafters/dense.py",
        "return self.accepted, torch.stack(self.accept_prob, -1)",
        "return torch.stack(self.agrees, -1).cumprod(-1).sum(-1), torch.stack(self.agrees, -1)",
        "tests/drafters/test_dense.py::test_fixed_policies_replay_as_live[dflash-fixed:3]",
    ),
    Fault(
        "a wrong coupling: what replaces a rejected draft is drawn as if it were not",
        "drafters/dense.py",
        "residual = (q - v.probs[k][drawn]).clamp(min=0)",
        "residual = q",
        "tests/drafters/test_dense.py::test_fixed_policies_replay_as_live[dspark-rnn-fixed:3]",
    ),
    Fault(
        "a tap one layer off",
        "drafters/anatomy.py",
        "self._layers[layer].register_forward_hook(tap.after)",
        "self._layers[layer - 1].register_forward_hook(tap.after)",
        "tests/drafters/test_tiny.py::test_the_target_reads_as_it_did",
    ),
    Fault(
        "the cache keeps a rejected token",
        "drafters/decoding.py",
        "Positions.of([d.anchor_position for d in decoded]",
        "Positions.of([d.anchor_position + any(r.accepted < r.verified for r in d.rounds[-1:]) for d in decoded]",
        "tests/drafters/test_tiny.py::test_greedy_responses_are_what_the_target_says_of_them_as_a_whole[dspark-1]",
    ),
    Fault(
        "a policy that looks ahead",
        "simulator/policies/threshold.py",
        "if step.confidence(request, position) < self.least:",
        "if min(step._confidence[request][position - 1 : position + 1]) < self.least:",
        "tests/simulator/test_policies.py::test_hand_worked[threshold:0.6-expected2]",
    ),
    Fault(
        "a contract that lets policies look ahead",
        "simulator/policies/contract.py",
        "if position > self._admitted[request] + 1:",
        "if position > self._admitted[request] + 2:",
        "tests/simulator/test_policies.py::test_the_contract_refuses",
    ),
    Fault(
        "a compiled policy that looks ahead",
        "simulator/engine/rules.py",
        "confidence[s.anchors[i], k] >= least:",
        "confidence[s.anchors[i], min(k + 1, s.drafted[i] - 1)] >= least:",
        "tests/simulator/test_admission.py::test_threshold_decides_as_the_policy_does",
    ),
    Fault(
        "a step's cost read at the wrong size",
        "simulator/hardware/cost.py",
        "return float(cost.verify_s[own])",
        "return float(cost.verify_s[verified])",
        "tests/simulator/test_policies.py::test_prefix_scheduler_by_hand",
    ),
    Fault(
        "an unpadded graph",
        "simulator/hardware/profile.py",
        "padded[inside] = sizes[np.searchsorted(sizes, padded[inside])]",
        "pass",
        "tests/simulator/test_hardware.py::test_target_pass_is_padded_up_to_captured_sizes",
    ),
    Fault(
        "a lost preemption: who comes back has its prompt still",
        "simulator/engine/loop.py",
        "        job.prefill_left = job.prompt_tokens + job.emitted\n        job.preemptions += 1\n",
        "        job.preemptions += 1\n",
        "tests/simulator/test_engine.py::TestHandWorked::test_preemption",
    ),
    Fault(
        "no speculation pays for a drafter",
        "simulator/plain.py",
        "drafter = NO_RECORDING.drafter if policy == NO_DRAFTER else trace.drafter",
        "drafter = trace.drafter",
        "tests/simulator/test_cost.py::test_no_speculation_pays_for_no_drafter",
    ),
    Fault(
        "a promise to a share of requests is counted against their mean",
        "simulator/metrics.py",
        "fine = {sla: _fine(sla, values[sla.measure])",
        "fine = {sla: _fine(sla, np.full(len(rows), np.nanmean(values[sla.measure])))",
        "tests/simulator/test_sla.py::test_requests_are_counted_against_all_bounds_of_a_share_together",
    ),
    Fault(
        "a resumed unit is recorded twice",
        "harness/recording/run.py",
        "todo = [u for u in todo if (u.key, u.prompts[0].prompt_id) not in recorded]",
        "todo = list(todo)",
        "tests/harness/test_recording.py::test_what_is_recorded_is_not_recorded_again",
    ),
    Fault(
        "a bootstrap over rows instead of prompts",
        "simulator/simulation.py",
        "times[of_prompt[name]] = count * each",
        "times[of_prompt[name]] = rng.poisson(count * each, len(of_prompt[name]))",
        "tests/simulator/test_draws.py::test_turns_of_a_prompt_are_drawn_together",
    ),
    Fault(
        "an interval without the profile",
        "simulator/draws.py",
        "perturbed(setup.profile, of_profile) if draw.off else (setup.profile, 1.0)",
        "(setup.profile, 1.0)",
        "tests/simulator/test_draws.py::test_a_draw_has_the_errors_of_the_profile",
    ),
    Fault(
        "a number of a step's time that a fit forgets",
        "harness/hardware/terms.py",
        'return _OF_RATES.get(rate, "step" if rate in rates("host") else "target")',
        'return _OF_RATES.get(rate, "launch")',
        "tests/harness/test_calibration_of_hardware.py::test_every_rate_is_moved_by_one_term_and_lost_by_none[overhead_s_per_prompt]",
    ),
    Fault(
        "requests that draft take no time of their own in a fit",
        "harness/hardware/terms.py",
        "return pass_s * many * (n if one_by_one else 1) + request_s * n",
        "return pass_s * many * (n if one_by_one else 1)",
        "tests/harness/test_calibration_of_hardware.py::test_each_request_that_drafts_takes_its_time",
    ),
    Fault(
        "a policy's file that was changed passes for what it was",
        "simulator/policies/own.py",
        "if digest is not None and found != digest:",
        "if digest is None and found == digest:",
        "tests/simulator/test_own_policies.py::test_what_was_stored_runs_nothing",
    ),
    Fault(
        "gains of draws that are not paired",
        "simulator/decision.py",
        "ratio = np.array(top.value) / less - 1",
        "ratio = np.array(top.value) / np.roll(less, 2) - 1",
        "tests/simulator/test_decision.py::test_intervals_are_of_paired_draws",
    ),
    Fault(
        "a quantile over tokens instead of requests",
        "simulator/metrics.py",
        "np.add.at(here.histograms, (np.nonzero(known)[0], _bin(every[known])), 1)",
        'np.add.at(here.histograms, (np.nonzero(known)[0], _bin(every[known])), (known * rows["output_tokens"])[known])',
        "tests/simulator/test_sla.py::test_of_quantiles_every_request_is_one_however_long_its_answer",
    ),
    Fault(
        "noise of paired prompts as though they were others",
        "results/change.py",
        "if paired else [*one, *other]",
        "if not one else [*one, *other]",
        "tests/results/test_gate.py::test_what_all_prompts_do_alike_has_no_noise_where_they_are_paired",
    ),
    Fault(
        "what a reduced vocabulary cannot say counts for nothing",
        "drafters/training/losses.py",
        "(1 - p.sum(-1)).clamp(min=0)",
        "0 * (1 - p.sum(-1))",
        "tests/drafters/test_training.py::test_on_a_reduced_vocabulary_what_cannot_be_said_counts_in_l1_alone",
    ),
    Fault(
        "a resumed training that draws its first batches again",
        "drafters/training/loop.py",
        "self.recipe.batch, self.recipe.seed, self.step)",
        "self.recipe.batch, self.recipe.seed)",
        "tests/drafters/test_training.py::test_a_killed_run_ends_with_the_same_bits[dflash-Killed-False]",
    ),
    Fault(
        "held-out rounds that begin everywhere alike",
        "drafters/training/held_out.py",
        "+= begins[t] * exactly[t, accepted]",
        "+= exactly[t, accepted]",
        "tests/drafters/test_training_parts.py::test_the_walk_is_the_mean_of_walks",
    ),
    Fault(
        "prompts in the steps taken for what drafting takes",
        "harness/served/timed.py",
        "running, drafting, prompts, tokens,",
        "running, drafting, 0.0, tokens,",
        "tests/harness/served/test_timed.py::test_a_servers_requests_walked_one_by_one[long prompts]",
    ),
    Fault(
        "stretches of the same requests that each count for themselves",
        "harness/served/by_load.py",
        "_BLOCK_S: Final = 300.0",
        "_BLOCK_S: Final = 10.0",
        "tests/harness/served/test_timed.py::test_a_trend_is_no_chance_of_which_requests_ran",
    ),
    Fault(
        "tries of one request taken for pieces of its answer",
        "simulator/identities.py",
        "and not one.finished",
        "and one is not None",
        "tests/simulator/test_identities.py::test_requests_of_one_id_that_are_no_growing_answer_all_count[a failure]",
    ),
    Fault(
        "tokens from a cache are left out of a prompt",
        "simulator/usage.py",
        "        return from_a_cache + into_one, besides",
        "        return into_one, besides",
        "tests/simulator/test_spelling.py::test_usage_is_found_wherever_it_stands[Bedrock's API with a cache]",
    ),
    Fault(
        "a run counts beside its calls",
        "simulator/arrivals.py",
        "    one.left_out |= dict.fromkeys(whole, WHOLES)",
        "    one.left_out |= dict.fromkeys(set[int](), WHOLES)",
        "tests/simulator/test_spelling.py::test_a_run_is_none_of_its_calls",
    ),
    Fault(
        "loads between those that ran are as sure as they",
        "harness/served/timed.py",
        "_off_beyond(running, ends) + _OFF_APART * apart",
        "_off_beyond(running, ends) + 0.0 * apart",
        "tests/harness/served/test_advice.py::test_loads_between_those_that_ran_are_less_known",
    ),
    Fault(
        "what the other drafts are worth is of all tokens",
        "results/store/recordings.py",
        "1 + sum(trace.kept_by_position(trace.gamma))",
        "1 + float(trace.anchors.accepted.mean())",
        "tests/results/test_store.py::test_how_much_longer_the_other_way_accepts_is_of_rounds",
    ),
    Fault(
        "llama.cpp's K of means that were rounded",
        "harness/served/sources/llama_cpp_log.py",
        "math.ceil(one.drafted / one.most - 1e-9)",
        "math.ceil(one.drafted / one.least - 1e-9)",
        "tests/harness/served/test_llama_cpp_log.py::test_k_is_that_of_whole_drafts[3-0.66-whole]",
    ),
    Fault(
        "vLLM's flags without what else was set",
        "harness/served/advice.py",
        "for name, value in settings.besides or () if name not in fields",
        "for name, value in () if name not in fields",
        "tests/harness/served/test_flags.py::test_what_else_the_server_was_started_with_stays[a look-up's windows]",
    ),
    Fault(
        "loads weighed by lines, not by time",
        "harness/served/server.py",
        "seconds = np.array([one.seconds for one in self._at_work])",
        "seconds = np.ones(len(self._at_work))",
        "tests/harness/served/test_mixtures.py::test_loads_are_weighed_by_time_not_by_lines",
    ),
    Fault(
        "a served look-up with windows of our own",
        "simulator/serving/command.py",
        "for name, value in served.fields.items() if name",
        "for name, value in options.items() if name",
        "tests/simulator/test_serving.py::test_a_look_up_that_was_served_keeps_its_windows[of this engine]",
    ),
    Fault(
        "one K where a table loses nowhere",
        "harness/served/advice.py",
        "if spares or (more.value > WORTH",
        "if (more.value > WORTH",
        "tests/harness/served/test_by_batch.py::test_a_table_that_loses_nowhere_stands_before_one_k_that_does[8e-05-0.003]",
    ),
    Fault(
        "a burst that is taken for an hour",
        "simulator/clocks.py",
        " and len(np.unique(multiples)) == len(since))",
        " or since[-1] < grain)",
        "tests/simulator/test_clocks.py::test_a_short_burst_is_no_hour[s]",
    ),
    Fault(
        "a look-up that is verified where it found nothing",
        "harness/hardware/loops.py",
        "look_up=KINDS[point.kind].looks_up,",
        "look_up=False,",
        "tests/harness/test_measured_loops.py::test_a_look_up_is_verified_where_it_has_a_draft",
    ),
    Fault(
        "the next measurement sought among listed rows alone",
        "harness/hardware/posterior.py",
        "left = [point for point in points if not point.given]",
        "left = [point for point in points if not point.given and point.line > 0]",
        "tests/harness/test_measured_tables.py::test_a_file_of_what_was_measured_alone_is_told_what_to_measure_next",
    ),
)


def copied(root: Path, folder: Path) -> Path:
    """A copy, in a folder, of the files of the project at `root` that git tracks, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    copy = folder / "project"
    for name in filter(None, listed.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name)
    return copy


def pytest(copy: Path, tests: Sequence[str]) -> dict[str, str]:
    """Run tests of a copy, and nothing of the project it was copied from: by name, what each that did not pass raised.

    Raises FaultError where a test did not run to its end: what cannot be imported or collected has failed at nothing.
    """
    report = copy.parent / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", f"--junitxml={report}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy.parent / "numba")}
    limit_s = LONGEST_S * len(tests)
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise FaultError(f"takes more than {limit_s} s") from None
    cases = [] if not report.exists() else list(ElementTree.parse(report).getroot().iter("testcase"))
    if len(cases) < len(tests) or any(case.find(how) is not None for case in cases for how in ("error", "skipped")):
        raise FaultError(f"did not run to the end:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
    failures = {case.get("name", ""): case.find("failure") for case in cases}
    return {name: failure.get("message", "") for name, failure in failures.items() if failure is not None}


def kills(fault: Fault, root: Path) -> str:
    """What the named test of a fault says of it: the first line of what it asserts, or nothing where it passes.

    Raises FaultError where the fault cannot be planted, or the test fails at something else than what it asserts.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(root, Path(folder))
        fault.plant(copy)
        failed = pytest(copy, [fault.test])
    for said in failed.values():
        if not said.startswith(("AssertionError", "assert ", "Failed: DID NOT RAISE")):
            raise FaultError(f"{fault.name}: {fault.test} fails at what it does not assert: {said}")
        return said.strip().splitlines()[0]
    return ""


def judge(faults: Sequence[Fault], root: Path, say: Callable[[str], None]) -> bool:
    """Whether every fault is killed, a line of each; the tests must pass where there is no fault."""
    with tempfile.TemporaryDirectory() as folder:
        if broken := pytest(copied(root, Path(folder)), list(dict.fromkeys(fault.test for fault in faults))):
            raise FaultError(f"fails without a fault: {', '.join(broken)}")

    def outcome(fault: Fault) -> tuple[bool, str]:
        try:
            said = kills(fault, root)
        except FaultError as error:
            return False, f"NOT KILLED  {fault.name}: {error}"
        return bool(said), f"{'killed  ' if said else 'SURVIVED'}  {fault.name} · {fault.test}"

    killed = 0
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for dead, line in pool.map(outcome, faults):
            killed += dead
            say(line)
    say(f"killed {killed} of {len(faults)}")
    return killed == len(faults)


def main() -> int:
    """Plant the faults that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only faults whose name has one of these words; by default all")
    words = parser.parse_args().words
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    try:
        return 0 if judge(faults, ROOT, lambda line: print(line, flush=True)) else 1
    except FaultError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
