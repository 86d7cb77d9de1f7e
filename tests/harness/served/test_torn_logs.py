"""Logs that were cut within a line, that have bars of progress or numbers before their lines, and those without any load."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.served.observed import Observation
from harness.served.server import together
from harness.served.sources.registry import read_files
from simulator.errors import InputError
from tests.harness.served.test_sources import CAPTURED, captured, observed
from tests.harness.served.writing import Truth, sglang_log, vllm_log, vllm_metrics

LOG = vllm_log(Truth(), [8] * 20)
SGLANG = sglang_log([6, 7] * 10)
NGRAM = "vllm_ngram5/server.log"
LAST = "Per-position acceptance rate: "


def read(folder: Path, *texts: str) -> list[Observation]:
    """What files say that hold the texts."""
    files = [folder / f"log-{i}" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return read_files(files)[0]


def facts(one: Observation) -> tuple[object, ...]:
    return one.drafts, one.intervals, one.generated, one.request_steps, one.settings


def oldest(log: str) -> str:
    """As vLLM 0.9.1 wrote it: its lines of acceptance end with the shares."""
    return re.sub(r", Avg Draft acceptance rate: [\d.]+%", "", re.sub(r"(?:Accepted|Drafted) throughput: [^,]+, ", "", log))


def without_arguments(log: str) -> str:
    return "".join(log.splitlines(keepends=True)[1:])


FORMS = {
    "newer": LOG, "newer, from the middle": without_arguments(LOG), "oldest": oldest(LOG),
    "oldest, from the middle": without_arguments(oldest(LOG)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_log_cut_anywhere_in_its_last_line_says_what_the_lines_before_say(form: str, tmp_path: Path) -> None:
    """Cut after the second share, it is no line of K = 2; the end of the line is no end of the shares."""
    text = FORMS[form].rstrip("\n")
    lines = text.splitlines(keepends=True)
    before, whole = observed(tmp_path, "".join(lines[:-2])).drafts, observed(tmp_path, text).drafts
    start = len(text) - len(lines[-1])
    for end in range(start + 1, len(text), 3):
        one = observed(tmp_path, text[:end])
        assert one.settings.gamma == 3
        assert one.drafts in (before, whole)
        if end > start + lines[-1].index("SpecDecoding metrics") + 25 and one.drafts == before:
            assert any("1 line of metrics could not be read whole, and is left out" in note for note in one.notes)


def test_a_log_copied_between_a_load_and_its_acceptance_has_no_load_without_drafts(tmp_path: Path) -> None:
    """The server writes both at once; whoever copies its log may come between them, or within the second."""
    *_, load, acceptance = LOG.rstrip("\n").splitlines(keepends=True)
    assert ("generation throughput" in load, "SpecDecoding" in acceptance) == (True, True)
    for cut in (0, 1, 3, 20, len(acceptance) // 2):
        text = LOG.rstrip("\n")
        one = observed(tmp_path, text[: len(text) - len(acceptance) + cut])
        assert all(interval.drafts for interval in one.intervals), cut


@pytest.mark.parametrize("form", FORMS)
def test_a_log_split_within_a_line_of_acceptance_says_all_but_that_line(form: str, tmp_path: Path) -> None:
    """`split -b`: the parts are given together, or one alone."""
    text = FORMS[form]
    at = text.index(LAST, len(text) // 2) + len(LAST) + 12
    first, second = text[:at], text[at:]
    lines, end = text.splitlines(keepends=True), len(first.splitlines())
    kept = "".join([*lines[: end - 2], *lines[end:]])
    for texts in ((first, second), (second, first)):
        [one] = read(tmp_path, *texts)
        assert one.drafts == observed(tmp_path, kept).drafts
        assert one.settings.gamma == 3
    for own in (first, second):
        [alone] = read(tmp_path, own)
        assert alone.settings.gamma == 3


def test_an_aggregated_line_whose_beginning_is_cut_is_no_load_of_one_engine(tmp_path: Path) -> None:
    text = LOG.replace("Engine 000", "8 Engines Aggregated")
    lines = text.splitlines(keepends=True)
    torn = lines[4][lines[4].index("Aggregated") :]
    one = observed(tmp_path, torn + "".join(lines[5:]))
    assert {interval.running for interval in one.intervals[1:]} == {1.0}
    assert max(interval.running for interval in one.intervals) == 1.0
    assert any("could not be read whole" in note for note in one.notes)


def test_a_torn_load_does_not_lend_its_acceptance_to_the_load_before(tmp_path: Path) -> None:
    """The load before had no drafts at all."""
    lines = vllm_log(Truth(), [64, 8, 8, 8], k=lambda n: 0 if n > 20 else 3).splitlines(keepends=True)
    assert "SpecDecoding" not in lines[2] + lines[3]
    one = observed(tmp_path, "".join([*lines[:3], lines[3][:150] + "\n", *lines[4:]]))
    assert [interval.plain for interval in one.intervals] == [True, False, False]
    assert any("could not be read whole" in note for note in together([one]).notes)


@pytest.mark.parametrize("form", FORMS)
def test_a_torn_line_that_another_follows_without_an_end_is_no_load_without_drafts(form: str, tmp_path: Path) -> None:
    """As where files are put one behind the other, of which one ends within a line."""
    lines = FORMS[form].splitlines(keepends=True)
    i = next(i for i in range(9, 13) if LAST in lines[i])
    torn = lines[i][: lines[i].index(LAST) + len(LAST) + 8]
    one = observed(tmp_path, "".join([*lines[:i], torn, *lines[i + 1 :]]))
    assert one.drafts == observed(tmp_path, "".join([*lines[: i - 1], *lines[i + 1 :]])).drafts
    assert not any(interval.plain for interval in one.intervals)
    assert any("could not be read whole" in note for note in one.notes)


@captured
@pytest.mark.parametrize("shares", [1, 2, 3, 4])
def test_a_captured_log_cut_after_some_shares_keeps_its_k(shares: int, tmp_path: Path) -> None:
    text = (CAPTURED / NGRAM).read_text()
    start = text.rindex(LAST) + len(LAST)
    [one] = read(tmp_path, text[: start + 5 + 7 * (shares - 1)])
    assert one.drafts is not None
    assert one.settings.gamma == 5
    assert one.drafts.drafts == pytest.approx(210, abs=5)
    assert one.drafts.length == pytest.approx(4.07, abs=0.1)


def bars(log: str, loads: str) -> str:
    """A benchmark's bar of progress, which has no end of line, before every other line of load."""
    lines, done = list[str](), 0
    for line in log.splitlines():
        done += loads in line
        bar = f"\r {done}%|▌         | {done}/50 [00:{done:02}<03:50, {12 + done / 10:.2f}s/it]"
        again = f"\rBenchmark:  {done}%|▌| {done}/50 [00:{done:02}<03:50, 12.1s/it, tok/s={done}]"
        lines.append(f"{bar}{again if done % 3 else ''}{line}" if loads in line and done % 2 else line)
    return "\n".join(lines) + "\n"


def numbered(log: str, mark: str = ":") -> str:
    """As `grep -n` writes its lines."""
    return "".join(f"{7 * i + 9}{mark}{line}\n" for i, line in enumerate(log.splitlines()))


BEFORE: dict[str, tuple[Callable[[str], str], str]] = {
    "bars": (lambda log: bars(log, "Avg prompt"), LOG), "SGLang's bars": (lambda log: bars(log, "Decode batch"), SGLANG),
    "grep -n": (numbered, LOG), "grep -n of SGLang's": (numbered, SGLANG),
    "grep -Hn": (lambda log: "".join(f"server.log:{line}\n" for line in numbered(log).splitlines()), LOG),
    "grep -n of a container's": (lambda log: numbered("".join(f"vllm-1  | {line}\n" for line in log.splitlines())), LOG),
    "cat -n": (lambda log: "".join(f"{i:6}\t{line}\n" for i, line in enumerate(log.splitlines())), LOG),
    "srun's, with bars": (
        lambda log: "".join(
            f"0: {f'{i}%|▌ | {i}/90 [00:01<00:09, 1.2it/s]' if i % 3 else ''}{line}\n"
            for i, line in enumerate(log.splitlines())
        ), LOG,
    ),
    "bars without an end": (
        lambda log: "".join(f"{i}it [00:{i:02}, 1.2it/s]{line}\n" for i, line in enumerate(log.splitlines())), LOG,
    ),
    "counts": (lambda log: "".join(f"done {i} of 90 {line}\n" for i, line in enumerate(log.splitlines())), LOG),
    "counts, of some": (
        lambda log: "".join(f"done {i} {line}\n" if i % 3 else f"{line}\n" for i, line in enumerate(log.splitlines())), LOG,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BEFORE)
def test_what_changes_from_line_to_line_is_no_name_of_a_server(what: str, tmp_path: Path) -> None:
    write, log = BEFORE[what]
    [plain], [one] = read(tmp_path, log), read(tmp_path, write(log))
    assert facts(one) == facts(plain)
    assert not any("baseline" in note for note in together([one]).notes)


@pytest.mark.parametrize("write", [numbered, lambda log: bars(log, "Avg prompt")], ids=["grep -n", "bars"])
@pytest.mark.parametrize("long", [False, True])
def test_copies_with_bars_or_numbers_count_once(
    write: Callable[[str], str], long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if long:
        monkeypatch.setattr("harness.served.text.LONG_BYTES", 0)
    [plain], [one] = read(tmp_path, LOG), read(tmp_path, LOG, write(LOG))
    assert facts(one) == facts(plain)


def pods(count: int = 2) -> list[tuple[str, ...]]:
    """Lines of as many pods' logs, in turns."""
    logs = [vllm_log(Truth(), [8] * 20, seed=seed) for seed in range(count)]
    return list(zip(*(log.splitlines() for log in logs), strict=True))


def test_pods_stay_apart_where_lines_have_bars_and_numbers(tmp_path: Path) -> None:
    plain = read(tmp_path, "".join(f"pod-{i} | {line}\n" for pair in pods() for i, line in enumerate(pair)))
    assert len(plain) == 2
    rows = [f"pod-{i} | {line}" for pair in pods() for i, line in enumerate(pair)]
    barred = "".join(
        row.replace(" | ", f" | {n % 97}%|▌ | {n}/900 [00:04<03:50, 2.5s/it]", 1) + "\n" for n, row in enumerate(rows)
    )
    assert [facts(one) for one in read(tmp_path, barred)] == [facts(one) for one in plain]
    assert [facts(one) for one in read(tmp_path, numbered("\n".join(rows)))] == [facts(one) for one in plain]
    assert [facts(one) for one in read(tmp_path, numbered("\n".join(rows), "-"))] == [facts(one) for one in plain]


def test_a_line_that_is_cut_at_its_beginning_is_of_none_of_several_pods(tmp_path: Path) -> None:
    """Or of the one whose name it ends with."""
    rows = [f"[pod/vllm-{i}/server] {line}" for pair in pods() for i, line in enumerate(pair)]
    plain = read(tmp_path, "\n".join(rows[4:]) + "\n")
    for at in (1, 6, 22, 30, 60, 120):
        cut = read(tmp_path, "\n".join([rows[4][at:], *rows[5:]]) + "\n")
        assert len(cut) == 2
        assert {one.drafts for one in cut} == {one.drafts for one in plain}


def test_a_name_that_begins_as_another_is_another(tmp_path: Path) -> None:
    """pod-1 and pod-10, of which the second has just started."""
    text = "".join(f"pod-{i} | {line}\n" for pair in pods() for i, line in enumerate(pair))
    more = "".join(f"pod-10 | {line}\n" for line in LOG.splitlines()[2:4])
    assert [one.drafts for one in read(tmp_path, text + more)] == [one.drafts for one in read(tmp_path, text)]


def engines(log: str, count: int) -> tuple[str, str]:
    """(a server of so many engines that each write their own lines, the same of one that writes them together)."""
    own, all_of_them = list[str](), list[str]()
    for line in log.splitlines():
        pair = re.search(r"Avg generation throughput: ([\d.]+) tokens/s, Running: (\d+)", line)
        if pair is not None:
            rate, running = count * float(pair[1]), count * int(pair[2])
            total = line.replace(pair[0], f"Avg generation throughput: {rate:.1f} tokens/s, Running: {running}")
            all_of_them.append(total.replace("Engine 000", f"{count} Engines Aggregated"))
            last = line
        elif "SpecDecoding" in line:
            own += [one for i in range(count) for one in (last.replace("Engine 000", f"Engine {i:03}"), line)]
            told = re.search(r"Accepted: (\d+) tokens, Drafted: (\d+) tokens", line)
            assert told is not None
            sums = f"Accepted: {count * int(told[1])} tokens, Drafted: {count * int(told[2])} tokens"
            all_of_them.append(line.replace(told[0], sums))
        else:
            own.append(line)
            all_of_them.append(line)
    return "\n".join(own) + "\n", "\n".join(all_of_them) + "\n"


@pytest.mark.parametrize("count", [1, 2, 8])
def test_engines_that_are_logged_together_have_each_their_own_batch(count: int, tmp_path: Path) -> None:
    """vLLM sums what runs and throughputs over its engines; a batch, and a step, is one engine's."""
    each, together_ = engines(vllm_log(Truth(), [2] * 20 + [24] * 20 + [96] * 20), count)
    [own], [sums] = read(tmp_path, each), read(tmp_path, together_)
    assert own.drafts is not None
    assert sums.drafts is not None
    assert sums.drafts.drafts == own.drafts.drafts
    assert sums.generated == pytest.approx(own.generated)
    assert sums.request_steps == pytest.approx(own.request_steps)
    assert sums.coverage == pytest.approx(own.coverage)
    loads = {round(one.running) for one in own.intervals if one.steady}
    assert {round(one.running) for one in sums.intervals if one.steady} == loads == {2, 24, 96}
    for load in loads:
        steps = [
            {one.each_s for one in of.intervals if one.steady and one.running == load and one.each_s} for of in (own, sums)
        ]
        assert min(steps[1]) == pytest.approx(min(steps[0]), rel=0.01)
        assert max(steps[1]) == pytest.approx(Truth().step_s(3, load), rel=0.02)
    assert any(f"{count} engines together" in note for note in sums.notes) is (count > 1)


ARGUMENTS = "{'model': 'Org/Model-8B', "
HARD = {
    "enum": "'compilation_config': {'mode': None, 'cudagraph_mode': <CUDAGraphMode.FULL_DECODE_ONLY: (2, 0)>, 'x': 1}",
    "LoRA": "'lora_modules': [LoRAModulePath(name='a, b', path='/x/{y', base_model_name=None)]",
    "KV transfer": "'kv_transfer_config': KVTransferConfig(kv_connector='N', extra={'model': 'no', 'max_num_seqs': 1})",
    "type": "'worker_cls': <class 'vllm.v1.worker.gpu_worker.Worker'>, 'note': \"it's {\"",
    "dtype": "'dtype': torch.bfloat16, 'model_impl': <ModelImpl.AUTO: 'auto'>",
    "escapes": "'chat_template': '{% if \\'a\\' %}}}', 'x': <X: 1>",
}


@pytest.mark.parametrize("what", HARD)
@pytest.mark.parametrize("behind", [False, True])
def test_arguments_that_are_no_literals_leave_the_others(what: str, behind: bool, tmp_path: Path) -> None:
    rows = "[[1, 4, 3], [5, 256, 1]]"
    text = LOG.replace(
        "'num_speculative_tokens': 3", f"'num_speculative_tokens': 3, 'num_speculative_tokens_per_batch_size': {rows}"
    )
    text = text.replace(ARGUMENTS, f"{ARGUMENTS}'max_num_seqs': 64, 'served_model_name': ['chat', 'other'], ")
    plain = observed(tmp_path, text).settings
    assert (plain.request_cap, plain.served_as, plain.method, plain.gamma) == (64, "chat", "eagle3", 3)
    assert plain.table == ((1, 4, 3), (5, 256, 1))
    hard = (
        text.replace("256, 1]]}}", f"256, 1]]}}, {HARD[what]}}}")
        if behind
        else text.replace(ARGUMENTS, f"{ARGUMENTS}{HARD[what]}, ")
    )
    assert hard != text
    assert observed(tmp_path, hard).settings == plain


def test_a_speculative_configuration_with_what_is_no_literal_keeps_the_rest(tmp_path: Path) -> None:
    text = LOG.replace("'model': 'Org/Draft', ", "'model': 'Org/Draft', 'load': <Load: 1>, ")
    assert observed(tmp_path, text).settings == observed(tmp_path, LOG).settings
    unknown = re.sub(r"'speculative_config': \{[^}]*\}", "'speculative_config': SpeculativeConfig(x={1})", LOG)
    one = observed(tmp_path, unknown)
    assert (one.settings.speculates, one.settings.model, one.settings.gamma) == (True, "Org/Model-8B", 3)


STARTED = "".join(LOG.splitlines(keepends=True)[:2])
SCRAPES = (
    vllm_metrics(100, (80, 60, 30), 4000, 20, model="Org/Model-8B"),
    vllm_metrics(300, (200, 150, 90), 9000, 50, steps=300, model="Org/Model-8B"),
)
API_SERVERS = (
    "(ApiServer_0 pid=9) WARNING 11-26 09:59:02 [loggers.py:1340] AsyncLLM created with api_server_count more than 1; "
    "disabling stats logging to avoid incomplete stats.\n"
)
IDLE = "".join(
    re.sub(r"generation throughput: [\d.]+ tokens/s, Running: \d+", "generation throughput: 0.0 tokens/s, Running: 0", line)
    for line in LOG.splitlines(keepends=True)
    if "SpecDecoding" not in line
)


@pytest.mark.parametrize("log", [STARTED, STARTED + API_SERVERS, IDLE], ids=["started", "API servers", "idle"])
def test_a_log_without_loads_says_how_the_server_was_set(log: str, tmp_path: Path) -> None:
    """Several API servers write no loads; what scrapes beside it say counts."""
    alone = read_files([*map(Path, _written(tmp_path, log))])[0]
    assert [(one.drafts, one.intervals, one.settings.method, one.settings.gamma) for one in alone] == [
        (None, (), "eagle3", 3)
    ]
    why = "nothing was generated" if log == IDLE else "several API servers write none.* two scrapes of /metrics"
    with pytest.raises(InputError, match=f"does not say how many drafts.*{why}"):
        together(alone)
    server = together(read(tmp_path, log, *SCRAPES))
    assert (server.drafts.drafts, server.gamma, server.settings.method) == (200, 3, "eagle3")


def _written(folder: Path, text: str) -> list[str]:
    (folder / "alone").write_text(text)
    return [str(folder / "alone")]


def test_an_idle_log_that_says_nothing_of_its_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was generated in what it holds"):
        read(tmp_path, without_arguments(IDLE))


def test_idle_servers_beside_others_do_not_refuse_them(tmp_path: Path) -> None:
    rows = [f"pod-0 | {line}" for line in LOG.splitlines()] + [f"pod-1 | {line}" for line in IDLE.splitlines()]
    [one] = read(tmp_path, "\n".join(rows) + "\n")
    assert one.drafts == observed(tmp_path, LOG).drafts
    wrapped = [json.dumps({"log": line, "kubernetes": {"pod_name": f"p{i}"}}) for i in "01" for line in STARTED.splitlines()]
    assert len(read(tmp_path, "\n".join(wrapped) + "\n")) == 1
