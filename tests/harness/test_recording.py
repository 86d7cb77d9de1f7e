"""Planning, estimating and resuming, with one recorder in this process instead of Ray's workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import harness.recording.run
import harness.recording.worker
from drafters.checkpoints import folder_hash
from drafters.generation import respond
from drafters.target import Target
from drafters.training.texts import known_by
from harness.cluster import Cluster
from harness.console import Watcher
from harness.recording.plan import RecordingPlan
from harness.recording.run import estimate, resume_run, start_run
from harness.recording.suite import Generation, Prompt
from harness.recording.worker import Recorder, RecorderOptions, Unit, conversation_tokens
from results.comparison import compare
from results.report.compose import compose
from results.store.database import Store
from results.store.runs import provenance
from simulator.errors import InputError
from simulator.records import Recording
from tests.harness.targets import TINY, changed_target, pair_of
from tests.selection import few

CLUSTER, SILENT = Cluster(), Watcher(lambda text: None, lambda stage, done, total: None)
GREEDY = Generation(temperature=0.0, max_new_tokens=12)


class OneRecorder:
    """What a pool of one worker does."""

    size = 1

    def __init__(self, cluster: Cluster, kind: type, arguments: tuple[Any, ...], say: Callable[[str], None]) -> None:
        self.recorder = kind(*arguments)

    def call(self, method: str, *arguments: object) -> Any:
        return getattr(self.recorder, method)(*arguments)

    def map(self, method: str, work: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        return ((item, self.call(method, *item)) for item in work)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.recording.run, "Pool", OneRecorder)
    monkeypatch.setattr(harness.recording.run, "joined", lambda cluster, doing: nullcontext())


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "suite" / "prompts").mkdir(parents=True)
    (tmp_path / "suite" / "suite.yaml").write_text("name: s\nversion: 1\ntasks: [{name: t, domain: math}]\n")
    rows = [{"turns": ["1 + 1?", "And 2?"]}, {"turns": ["Name a colour."]}]
    (tmp_path / "suite" / "prompts" / "t.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return str(tmp_path / "suite")


def plan(suite: str, generation: Generation, **changes: Any) -> RecordingPlan:
    settings = {"pair": "tiny", "drafters": ["ngram"], "speed_passes": 0} | changes
    return RecordingPlan(suite, generation=generation, **settings)


@pytest.fixture
def given(suite: str, tmp_path: Path) -> Path:
    """The target's own greedy responses, as another engine would give them."""
    store = Store(tmp_path / "own" / "specyard.duckdb")
    start_run(plan(suite, GREEDY), store, CLUSTER, SILENT)
    with store.reading() as connection:
        rows = connection.execute("SELECT prompt_id, turn, token_ids, finish FROM responses ORDER BY ALL").fetchall()
    lines = [{"prompt_id": p, "turn": t, "token_ids": list(ids), "finish": f} for p, t, ids, f in rows]
    file = tmp_path / "responses.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in [{"temperature": 0}, *lines]))
    return file


def lengths(given: Path) -> list[int]:
    return [len(json.loads(line)["token_ids"]) for line in given.read_text().splitlines()[1:]]


def test_given_responses_are_as_long_as_they_are(suite: str, given: Path, tmp_path: Path) -> None:
    """A length limit beyond the target's context says nothing of responses that are there already."""
    boundless = Generation(temperature=0.0, max_new_tokens=5000)
    store = Store(tmp_path / "specyard.duckdb")
    with pytest.raises(InputError, match="prompt t/0: needs up to 10"):
        start_run(plan(suite, boundless), store, CLUSTER, SILENT)
    run_id = start_run(plan(suite, boundless, responses=str(given)), store, CLUSTER, SILENT)
    assert store.run(run_id)["sampling"]["max_new_tokens"] == max(lengths(given))

    costs = estimate(plan(suite, boundless, responses=str(given)), CLUSTER, SILENT)
    anchors = sum(lengths(given)) - len(lengths(given))
    assert (costs.responses, costs.anchors, costs.given) == (3, anchors, True)
    assert costs.seconds == pytest.approx(sum(lengths(given)) * costs.probe.record_s)  # nothing is left to generate
    own = estimate(plan(suite, GREEDY), CLUSTER, SILENT)
    assert own.seconds == pytest.approx(3 * 12 * (own.probe.generate_s + own.probe.record_s))


def test_a_run_whose_responses_changed_does_not_resume(
    suite: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read_bytes = [], Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    store = Store(tmp_path / "specyard.duckdb")
    run_id = start_run(plan(suite, GREEDY, responses=str(given)), store, CLUSTER, SILENT)
    assert reads.count(given) == 1

    with duckdb.connect(str(store.file)) as connection:
        connection.execute("UPDATE runs SET finished_at = NULL")
    resume_run(run_id, store, CLUSTER, SILENT)
    assert store.run(run_id)["finished_at"] is not None
    with duckdb.connect(str(store.file)) as connection:
        connection.execute("UPDATE runs SET finished_at = NULL")
    header, first, *others = given.read_text().splitlines()
    given.write_text("\n".join([header, *others, first]))
    with pytest.raises(InputError, match=r"responses\.jsonl: has changed since .* start a new run"):
        resume_run(run_id, store, CLUSTER, SILENT)


def test_what_is_recorded_is_not_recorded_again(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two units that ends after the first is given the second alone, and comes to what it would have come to."""

    def rows(store: Store) -> list[Any]:
        with store.reading() as connection:
            return connection.execute("SELECT * EXCLUDE run_id FROM anchors ORDER BY ALL").fetchall()

    whole, store = (Store(tmp_path / name / "specyard.duckdb") for name in ("whole", "stopped"))
    start_run(plan(suite, GREEDY, batch=1), whole, CLUSTER, SILENT)
    honest = OneRecorder.map

    def stops(self: OneRecorder, method: str, work: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        yield next(honest(self, method, work))
        raise KeyboardInterrupt

    asked = []

    def looks(self: OneRecorder, method: str, work: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        asked.extend(unit.prompts[0].prompt_id for (unit,) in work)
        assert asked == ["t/1"]
        return honest(self, method, work)

    monkeypatch.setattr(OneRecorder, "map", stops)
    with pytest.raises(KeyboardInterrupt):
        start_run(plan(suite, GREEDY, batch=1), store, CLUSTER, SILENT)
    monkeypatch.setattr(OneRecorder, "map", looks)
    resume_run(store.find_run("latest"), store, CLUSTER, SILENT)
    assert rows(store) == rows(whole)


@pytest.mark.slow
def test_only_what_really_is_too_long_is_refused(suite: str, given: Path, tmp_path: Path) -> None:
    """Given responses are there: a conversation has the length that it has, not as many times that of the longest."""
    [header, *lines] = [json.loads(line) for line in given.read_text().splitlines()]
    long = {"prompt_id": "t/1", "turn": 0, "token_ids": [400] * 1900, "finish": "length"}
    changed = [long if line["prompt_id"] == "t/1" else line for line in lines]
    given.write_text("\n".join(json.dumps(line) for line in [header, *changed]))
    store = Store(tmp_path / "specyard.duckdb")
    run_id = start_run(plan(suite, GREEDY, responses=str(given)), store, CLUSTER, SILENT)
    with store.reading() as connection:
        longest = connection.execute("SELECT max(output_tokens) FROM responses WHERE run_id = ?", [run_id]).fetchall()
    assert longest == [(1900,)]  # and t/0 has two turns
    long["token_ids"] = [400] * 2100
    given.write_text("\n".join(json.dumps(line) for line in [header, *changed]))
    with pytest.raises(InputError, match="prompt t/1: needs up to 21"):
        start_run(plan(suite, GREEDY, responses=str(given)), store, CLUSTER, SILENT)


@pytest.mark.slow
def test_responses_of_others_are_judged_over_the_file(suite: str, given: Path, tmp_path: Path) -> None:
    """A token that rounds otherwise is let pass and counted; many are refused, whichever unit of work they come in."""
    [header, *lines] = [json.loads(line) for line in given.read_text().splitlines()]
    other = pair_of(changed_target(tmp_path / "target"), drafters={"mtp": str(TINY / "mtp")})
    store = Store(tmp_path / "specyard.duckdb")

    def recorded(*changed: int) -> str:
        """With the last tokens of some responses changed to one that the target would not say, in units of one prompt."""
        new = [{**line, "token_ids": [*line["token_ids"]]} for line in lines]
        for i in changed:
            new[i]["token_ids"][-2 if new[i]["finish"] == "stop" else -1] = 3000
        given.write_text("\n".join(json.dumps(line) for line in [header, *new]))
        return start_run(
            plan(suite, GREEDY, responses=str(given), pair=other, drafters=None, batch=1), store, CLUSTER, SILENT
        )

    def outside(run_id: str) -> list[Any]:
        with store.reading() as connection:
            sql = "SELECT outside::INT FROM readings WHERE run_id = ? ORDER BY prompt_id, turn"
            return [row[0] for row in connection.execute(sql, [run_id]).fetchall()]

    assert sum(outside(recorded())) == 0
    assert outside(recorded(2)) == [0, 0, 1]
    given_tokens = sum(lengths(given)) - 3
    message = (
        rf"responses\.jsonl: 3 of {given_tokens} tokens or more, some of them in t/1, turn 0, cannot come from this target"
    )
    with pytest.raises(InputError, match=message):
        recorded(0, 1, 2)


def test_responses_of_another_law_are_refused_where_every_token_is_possible(suite: str, given: Path, tmp_path: Path) -> None:
    """At temperature 1 the target may say anything; noise surprises it more than what it draws itself."""
    [header, *lines] = [json.loads(line) for line in given.read_text().splitlines()]
    hot = Generation(temperature=1.0, max_new_tokens=GREEDY.max_new_tokens)
    random = np.random.default_rng(0)
    for line in lines:
        line |= {"finish": "length", "token_ids": random.integers(1000, 3000, len(line["token_ids"])).tolist()}
    given.write_text("\n".join(json.dumps(line) for line in [{**header, "temperature": 1.0}, *lines]))
    with pytest.raises(InputError, match=r"these are not drawn from this target's distribution .* more surprising"):
        start_run(
            plan(suite, hot, responses=str(given), drafters=["ngram"]), Store(tmp_path / "specyard.duckdb"), CLUSTER, SILENT
        )


def test_what_the_target_cannot_have_said_is_refused_before_a_run_is_made(suite: str, given: Path, tmp_path: Path) -> None:
    [header, first, *lines] = [json.loads(line) for line in given.read_text().splitlines()]
    store = Store(tmp_path / "specyard.duckdb")
    for changes, message in (
        ({"token_ids": [4, 4096]}, "t/0, turn 0: token 4096 is outside the target's vocabulary of 4096"),
        ({"token_ids": [4, 5], "finish": "stop"}, "t/0, turn 0: a response ends with its first end token"),
    ):
        given.write_text("\n".join(json.dumps(line) for line in [header, first | changes, *lines]))
        with pytest.raises(InputError, match=message):
            start_run(plan(suite, GREEDY, responses=str(given)), store, CLUSTER, SILENT)
    assert not store.file.exists()


@pytest.mark.parametrize("live", [None, Recording("none", 0)])
def test_a_conversation_ends_where_the_template_refuses_an_empty_reply(
    live: Recording | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(RecorderOptions("tiny", ["ngram"], None, GREEDY, 0))
    assert recorder.target.tokenizer is not None
    recorder.target.tokenizer.chat_template = (
        "{% for m in messages %}{% if not m.content %}{{ raise_exception('empty') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    prompts = (Prompt("t", "math", "t/0", ("1 + 1?", "And 2?")), Prompt("t", "math", "t/1", ("1 + 2?",)))
    recorder.check(prompts, {})
    spoken = recorder.record(Unit(prompts, live))["responses"].to_pydict()
    assert list(zip(spoken["prompt_id"], spoken["turn"], strict=True)) == [("t/0", 0), ("t/1", 0), ("t/0", 1)]
    monkeypatch.setattr(Target, "text", lambda *_: "")
    spoken = recorder.record(Unit(prompts, live))["responses"].to_pydict()
    assert list(zip(spoken["prompt_id"], spoken["turn"], strict=True)) == [("t/0", 0), ("t/1", 0)]


@pytest.mark.slow
def test_conversations_that_outgrow_the_context_end_early(suite: str, tmp_path: Path) -> None:
    """At a temperature of 10 a reply's text has more tokens than were generated; the run says so and goes on."""
    hot = Generation(temperature=10.0, max_new_tokens=64)
    recorder = Recorder(RecorderOptions("tiny", ["ngram"], None, hot, 0))
    first = Prompt("t", "math", "t/0", ("1 + 1?", "And 2?"))
    longest = conversation_tokens(recorder.target, first, hot) + 7
    folder = changed_target(tmp_path / "target", config={"max_position_embeddings": longest})
    store, said = Store(tmp_path / "specyard.duckdb"), []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    for mode in ("dense", "live"):
        run_id = start_run(plan(suite, hot, mode=mode, pair=pair_of(folder)), store, CLUSTER, watcher)
        assert any(line.startswith("none: conversations that outgrew") and line.endswith("t/0 from turn 1") for line in said)
        with store.reading() as connection:
            sql = (
                "SELECT DISTINCT prompt_id, turn FROM recorded_responses WHERE run_id = ? AND drafter = 'none' ORDER BY ALL"
            )
            assert connection.execute(sql, [run_id]).fetchall() == [("t/0", 0), ("t/1", 0)]
        assert store.run(run_id)["finished_at"] is not None
        said.clear()


CHANGES: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "template": ({"tokenizer_config": {"chat_template": "You are brief. {{ messages[-1].content }}"}}, "tokenizer or chat"),
    "end token": ({"generation_config": {"eos_token_id": 7}}, "generation settings, end tokens"),
    "settings": ({"generation_config": {"repetition_penalty": 1.5}}, "generation settings"),
}


@pytest.mark.parametrize("change", few(CHANGES, "template"))
def test_a_run_whose_text_is_made_otherwise_does_not_resume(change: str, suite: str, tmp_path: Path) -> None:
    folder = changed_target(tmp_path / "target")
    store = Store(tmp_path / "specyard.duckdb")
    pair = pair_of(folder)
    run_id = start_run(plan(suite, GREEDY, pair=pair), store, CLUSTER, SILENT)
    with duckdb.connect(str(store.file)) as connection:
        connection.execute("UPDATE runs SET finished_at = NULL")
    changes, named = CHANGES[change]
    changed_target(folder, **changes)
    with pytest.raises(InputError, match=f"run {run_id}: {named}.* of the pair has changed since; start a new run"):
        resume_run(run_id, store, CLUSTER, SILENT)
    other = start_run(plan(suite, GREEDY, pair=pair), store, CLUSTER, SILENT)
    with store.reading() as connection:
        differences = compare(connection, run_id, other).differences
    assert any(d.startswith(f"the target is not the same: {named}") for d in differences)
    changed_target(folder)
    resume_run(run_id, store, CLUSTER, SILENT)  # as it was


def test_what_a_target_without_a_template_is_asked_with_is_kept_and_said(suite: str, tmp_path: Path) -> None:
    folder = changed_target(tmp_path / "target", tokenizer_config={"chat_template": None})
    store, said = Store(tmp_path / "specyard.duckdb"), []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    with pytest.raises(InputError, match="has no chat template: --chat-template plain"):
        start_run(plan(suite, GREEDY, pair=pair_of(folder)), store, CLUSTER, SILENT)
    assert not store.file.exists()
    plain = pair_of(folder, chat_template="plain")
    run_id = start_run(plan(suite, GREEDY, pair=plain), store, CLUSTER, watcher)
    told = "the target is asked with the bare text, no chat template"
    assert told in said
    assert store.run(run_id)["target"]["chat_template"] == "plain"
    with store.reading() as connection:
        assert provenance(connection, run_id).asked_with == told
    with duckdb.connect(str(store.file)) as connection:
        connection.execute("UPDATE runs SET finished_at = NULL")
    pair_of(folder, chat_template="Answer. {{ messages[-1].content }}")
    with pytest.raises(InputError, match=f"run {run_id}: tokenizer or chat template of the pair has changed since"):
        resume_run(run_id, store, CLUSTER, SILENT)


def test_an_answer_ends_with_the_tokenizers_end_token(suite: str, tmp_path: Path) -> None:
    """Configuration and generation settings name another, as in many a published folder."""
    folder = changed_target(tmp_path / "target", config={"eos_token_id": 0}, generation_config={"eos_token_id": 0})
    store = Store(tmp_path / "specyard.duckdb")
    long = Generation(temperature=0.0, max_new_tokens=60)
    own, other = (start_run(plan(suite, long, pair=p), store, CLUSTER, SILENT) for p in ("tiny", pair_of(folder)))
    with store.reading() as connection:
        sql = "SELECT prompt_id, turn, token_ids, finish FROM responses WHERE run_id = ? ORDER BY ALL"
        answers = [connection.execute(sql, [run]).fetchall() for run in (own, other)]
    assert answers[0] == answers[1]
    assert {row[3] for row in answers[0]} >= {"stop"}
    assert store.run(other)["target"]["end_tokens"] == [0, 2]


def test_a_run_of_single_tokens_has_no_rounds_and_says_so(suite: str, tmp_path: Path) -> None:
    folder = changed_target(tmp_path / "target", generation_config={"eos_token_id": list(range(4096))})
    store, said = Store(tmp_path / "specyard.duckdb"), []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    pair = pair_of(folder, drafters={"mtp": str(TINY / "mtp"), "ngram": "ngram"})
    run_id = start_run(plan(suite, GREEDY, pair=pair, drafters=None, speed_passes=1), store, CLUSTER, watcher)
    assert "every response is a single token, which a prefill gives: the run has no rounds" in said
    assert store.run(run_id)["finished_at"] is not None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m.content if m.role == 'user' else raise_exception('one turn only') }}{% endfor %}",
            "its chat template fails: .*one turn only",
        ),
        ("{% for m in messages %}{{ m.content }}", "its chat template fails: TemplateSyntaxError"),
        ([{"name": "rag", "template": "a"}, {"name": "tool_use", "template": "b"}], "has several .* no default"),
    ],
)
def test_a_template_that_fails_stores_nothing(template: Any, message: str, suite: str, tmp_path: Path) -> None:
    folder = changed_target(tmp_path / "target", tokenizer_config={"chat_template": template})
    store = Store(tmp_path / "specyard.duckdb")
    with pytest.raises(InputError, match=f"^target {folder}: {message}"):
        start_run(plan(suite, GREEDY, pair=pair_of(folder)), store, CLUSTER, SILENT)
    assert not store.file.exists()


def test_a_date_in_the_prompt_is_the_suites_and_is_said(suite: str, tmp_path: Path) -> None:
    template = "Today is {{ strftime_now('%d %B %Y') }}. {{ messages[-1].content }}"
    folder = changed_target(tmp_path / "target", tokenizer_config={"chat_template": template})
    store, said = Store(tmp_path / "specyard.duckdb"), []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    runs = [
        start_run(plan(suite, settings, pair=pair_of(folder)), store, CLUSTER, watcher)
        for settings in (GREEDY, Generation(temperature=0.0, max_new_tokens=12, today=date(2025, 3, 5)))
    ]
    told = [line for line in said if "asks for today's date" in line]
    assert [line.split(": ")[1] for line in told] == ["it is told 2024-07-26 on any day", "it is told 2025-03-05 on any day"]
    assert [store.run(run)["sampling"]["today"] for run in runs] == ["2024-07-26", "2025-03-05"]


def test_what_generation_settings_ask_for_beyond_the_law_is_said(suite: str, tmp_path: Path) -> None:
    settings = {"repetition_penalty": 1.3, "typical_p": 1.0, "suppress_tokens": [5], "temperature": 0.6, "num_beams": 1}
    folder = changed_target(tmp_path / "target", generation_config=settings)
    store, said = Store(tmp_path / "specyard.duckdb"), []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    run = start_run(plan(suite, GREEDY, pair=pair_of(folder)), store, CLUSTER, watcher)
    [told] = [line for line in said if "generation settings" in line]
    assert "ask for repetition_penalty 1.3, suppress_tokens [5]: not done here" in told
    assert store.run(run)["target"]["left_out"] == ["repetition_penalty 1.3", "suppress_tokens [5]"]


def test_a_target_whose_answers_have_no_end_is_told(suite: str, tmp_path: Path) -> None:
    nothing = {"eos_token_id": None}
    folder = changed_target(
        tmp_path / "target", config=nothing, generation_config=nothing, tokenizer_config={"eos_token": None}
    )
    store, said = Store(tmp_path / "specyard.duckdb"), []
    start_run(plan(suite, GREEDY, pair=pair_of(folder)), store, CLUSTER, Watcher(said.append, lambda *_: None))
    assert "no end token of the target is named: answers end at --max-new-tokens alone" in said


def test_generation_settings_that_are_no_json_are_refused(suite: str, tmp_path: Path) -> None:
    folder = changed_target(tmp_path / "target")
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]', encoding="utf-8")
    with pytest.raises(InputError, match=r"generation_config\.json: not JSON"):
        start_run(plan(suite, GREEDY, pair=pair_of(folder)), Store(tmp_path / "specyard.duckdb"), CLUSTER, SILENT)


def test_logits_that_overflow_stop_with_prompt_and_position(suite: str, tmp_path: Path) -> None:
    """In float16 they are nan, from which token 0 would be drawn for ever; in float32 they are fine."""
    folder = changed_target(tmp_path / "target")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.3.mlp.down_proj.weight"] *= 2.0**18
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for mode in ("dense", "live"):
        store = Store(tmp_path / mode / "specyard.duckdb")
        start_run(plan(suite, GREEDY, pair=pair_of(folder), mode=mode), store, CLUSTER, SILENT)
        half = plan(suite, GREEDY, pair=pair_of(folder, dtype="float16"), mode=mode)
        with pytest.raises(
            InputError, match=r"prompt t/[01], turn 0: the target's logits after position \d+ .* in float16;"
        ):
            start_run(half, store, CLUSTER, SILENT)
        with store.reading() as connection:
            assert connection.execute(
                "SELECT count(*) FROM responses JOIN runs USING (run_id) WHERE finished_at IS NULL"
            ).fetchall() == [(0,)]


def test_the_share_that_rounds_otherwise_is_stored_and_said(suite: str, tmp_path: Path) -> None:
    greedy = Generation(temperature=0.0, max_new_tokens=200)
    store, said = Store(tmp_path / "specyard.duckdb"), []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    pair = pair_of(changed_target(tmp_path / "target"), dtype="bfloat16", drafters={"mtp": str(TINY / "mtp")})
    run_id = start_run(plan(suite, greedy, pair=pair, drafters=None), store, CLUSTER, watcher)
    with store.reading() as connection:
        sql = "SELECT sum(outside)::INT, sum(tokens)::INT, count(*) FROM readings WHERE run_id = ?"
        [(outside, tokens, counted)] = connection.execute(sql, [run_id]).fetchall()
    assert counted == 3
    assert any(line.startswith(f"{outside} of {tokens} response tokens ({outside / tokens:.2%})") for line in said)
    assert store.run(run_id)["target"]["dtype"] == "bfloat16"
    assert any("bfloat16 on cpu" in line for line in said)


def test_a_probe_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(RecorderOptions("tiny", ["ngram"], None, GREEDY, 0))
    seen: list[int] = []

    def watched(target: Any, requests: Any, *rest: Any, **options: Any) -> Any:
        seen.extend(r.max_new_tokens for r in requests)
        assert recorder.generation is GREEDY
        return respond(target, requests, *rest, **options)

    monkeypatch.setattr(harness.recording.worker, "respond", watched)
    probe = recorder.probe([Prompt("t", "math", "t/0", ("1 + 1?",))], 5)
    assert seen == [5, 5 + 7]  # a warm-up, and a response with what acceptances need beyond it
    assert probe.generate_s > 0


def test_prompts_that_a_drafter_was_trained_on_are_told(suite: str, tmp_path: Path) -> None:
    """By their tokens, as the target is asked them: one of the two."""
    shutil.copytree(TINY / "mtp", tmp_path / "mine")
    target = changed_target(tmp_path / "target")
    pair = pair_of(target, drafters={"mine": str(tmp_path / "mine")})
    asked = Target.load(str(target)).encode_chat([{"role": "user", "content": "Name a colour."}])
    facts = {"target_hash": folder_hash(target)}
    told = {"steps": 1, "best_step": 1, "evaluated": [], "facts": facts, "trained_on": [known_by(tuple(asked)), "0" * 12]}
    (tmp_path / "mine" / "training.json").write_text(json.dumps(told))
    said: list[str] = []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    store, short = Store(tmp_path / "specyard.duckdb"), Generation(temperature=0.0, max_new_tokens=4)
    run_id = start_run(plan(suite, short, pair=pair, drafters=None), store, CLUSTER, watcher)
    assert any(line.startswith("mine was trained on 1 of these 2 prompts") for line in said)
    assert store.run(run_id)["drafters"]["mine"]["training"]["prompts_seen"] == 1
    assert "trained_on" not in store.run(run_id)["drafters"]["mine"]["training"]
    with store.reading() as connection:
        assert any("was trained on 1 of these 2 prompts" in one for one in compose(connection, run_id).notices)


@pytest.mark.parametrize("same", [False, True])
def test_a_drafter_that_was_trained_for_other_weights_is_told(same: bool, suite: str, tmp_path: Path) -> None:
    """By what lies beside it; shapes alone fit."""
    shutil.copytree(TINY / "mtp", tmp_path / "mine")
    target = changed_target(tmp_path / "target")
    of = folder_hash(target) if same else "another"
    told = {"steps": 1, "best_step": 1, "evaluated": [], "facts": {"target_hash": of}}
    (tmp_path / "mine" / "training.json").write_text(json.dumps(told))
    pair = pair_of(target, drafters={"mine": str(tmp_path / "mine")})
    said: list[str] = []
    watcher = Watcher(said.append, lambda stage, done, total: None)
    short = Generation(temperature=0.0, max_new_tokens=4)
    start_run(plan(suite, short, pair=pair, drafters=None), Store(tmp_path / "specyard.duckdb"), CLUSTER, watcher)
    assert any(line.startswith("mine was trained for a target with other weights") for line in said) != same
