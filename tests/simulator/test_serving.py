"""One contract for all serving engines: what they run has a command, and what they do not has a reason."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest

from simulator.drafter_kinds import KINDS
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording
from simulator.serving.command import Models, ServedWith, Serving, cannot_run, serve, writing
from simulator.serving.engine import ServingEngine
from simulator.serving.engines import ENGINES, engine_called, engine_of, name_of
from simulator.serving.llama_cpp import LLAMA_CPP
from simulator.serving.sglang import _captured, adaptive_steps, sps_json, sts_json
from simulator.serving.tensorrt_llm import TENSORRT_LLM, draft_len_schedule
from simulator.serving.vllm import VLLM

SPECS = [
    PolicySpec.parse(text)
    for text in ("none", "fixed:3", "fixed:7", "cutoff:3", "k_by_batch:2=5/4=1", "threshold:0.5", "prefix_scheduler",
                 "lagged_scheduler:2", "vllm_adaptive", "batch_adaptive:0.05", "oracle")
]  # fmt: skip
GAMMA, CAP, TARGET = 7, 96, "my models/odd; name"


def recording(kind: str) -> Recording:
    return Recording(f"my {kind}", GAMMA, kind=kind) if kind != "none" else Recording("none", 0, kind="none")


def served(engine: ServingEngine, kind: str, policy: PolicySpec, **changes: object) -> Serving:
    models = Models(target=TARGET, checkpoints={f"my {kind}": "where it/lies"}, temperature=0.7)
    given = {"modelled": TARGET, "request_cap": CAP, "step_tokens": 8192, "gpus": 2, "replicas": 1, "drafting": "sampled"}
    return serve(engine, models, recording(kind), policy, **{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "windows", "said"),
    [
        (None, (4, 2), False),  # as this project's own look-up has them
        (ServedWith("vLLM", {"prompt_lookup_max": 7, "prompt_lookup_min": 3}), (7, 3), False),
        (ServedWith("vLLM", {"enable_adaptive_verification": True}), (None, None), False),
        (ServedWith("vLLM", None), (None, None), True),
        (ServedWith("SGLang", {"speculative_ngram_max_match_window_size": 9}), (None, None), True),
    ],
    ids=["recorded", "of this engine", "as by default", "nobody says", "of another engine"],
)
def test_a_look_up_that_was_served_keeps_its_windows(own: ServedWith | None, windows: tuple[int, int], said: bool) -> None:
    """Others find other drafts, and the numbers are not of them."""
    models = Models(target=TARGET, served={"my ngram": own} if own else {})
    made = serve(
        VLLM, models, recording("ngram"), PolicySpec.fixed(3), modelled=TARGET, request_cap=CAP, step_tokens=8192, gpus=1,
        replicas=1, drafting="greedy",
    )  # fmt: skip
    assert made.speculative is not None
    assert "enable_adaptive_verification" not in made.speculative  # the policy is another
    assert (made.speculative.get("prompt_lookup_max"), made.speculative.get("prompt_lookup_min")) == windows
    assert any("had its own; give the same" in note for note in made.notes) == said


@pytest.mark.parametrize("engine", [engine for engine in ENGINES.values() if engine is not None], ids=lambda e: e.name)
class TestEveryEngine:
    """What decisions and exports rely on."""

    def test_both_of_its_names_lead_to_it(self, engine: ServingEngine) -> None:
        assert engine_called(engine.name) == engine
        assert engine_of(name_of(engine)) == engine

    @pytest.mark.parametrize("kind", list(KINDS))
    @pytest.mark.parametrize("policy", SPECS, ids=str)
    def test_whatever_is_simulated_has_a_command_or_a_reason(
        self, engine: ServingEngine, kind: str, policy: PolicySpec
    ) -> None:
        if (kind == "none") != (policy == NO_DRAFTER):
            return
        why = cannot_run(engine, recording(kind), policy, CAP)
        if why:
            assert "\n" not in why
            assert policy.name not in engine.policies or kind not in engine.kinds or not KINDS[kind].prefix
            return
        assert policy.lossless
        words = shlex.split(served(engine, kind, policy).command)
        begins = [*engine.serve.split(), TARGET]
        assert words[: len(begins)] == begins
        assert words[words.index(engine.flags.request_cap) + 1] == str(CAP)
        assert words[words.index(engine.flags.gpus) + 1] == "2"
        if policy != NO_DRAFTER:
            told = " ".join(words)
            assert engine.kinds[kind].method in told
            assert ("where it/lies" in told) == engine.kinds[kind].checkpoint
            most = 5 if policy.name == "k_by_batch" and engine.longest_row else GAMMA
            assert str(policy.k or most) in told

    def test_without_a_drafter_nothing_is_said_of_one(self, engine: ServingEngine) -> None:
        plain = served(engine, "none", NO_DRAFTER)
        assert plain.speculative is None
        assert engine.fields.method not in plain.command
        assert cannot_run(engine, recording("none"), NO_DRAFTER, CAP) == ""

    def test_drafts_of_the_numbers_are_told_or_noted(self, engine: ServingEngine) -> None:
        """Numbers of sampled drafts do not hold for greedy ones."""
        kind = next(kind for kind in engine.kinds if not KINDS[kind].one_hot)
        policy = PolicySpec.fixed(GAMMA)
        for drafting in ("sampled", "greedy"):
            made = served(engine, kind, policy, drafting=drafting)
            told = (made.speculative or {}).get(engine.fields.drafting)
            noted = any(f"of {drafting} drafts" in note for note in made.notes)
            assert told == engine.drafting_option.get(drafting)  # type: ignore[call-overload]
            assert told is not None or noted == (drafting != engine.drafting)

    def test_replicas_are_words_or_a_note(self, engine: ServingEngine) -> None:
        one, three = (served(engine, "none", NO_DRAFTER, replicas=count) for count in (1, 3))
        assert engine.flags.replicas not in one.command
        assert f"{engine.flags.replicas} 3" in three.command or len(three.notes) > len(one.notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spell": lambda fields: []}, "one way"),
        ({"drafting_option": {}}, "has a field"),
        ({"policies": ("none", "fixed", "vllm_adaptive")}, "k by batch size"),
        ({"adaptive": ""}, "has a field"),
        ({"no_prefix_cache": {"reuse": False}}, "nothing of prompts"),
    ],
)
def test_facts_that_contradict_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(VLLM, **changes)  # type: ignore[arg-type]


def test_a_target_that_nobody_named_is_said_to_be_missing() -> None:
    made = serve(
        VLLM, Models(), recording("none"), NO_DRAFTER, modelled="llama-3.1-8b", request_cap=CAP, step_tokens=8192, gpus=1,
        replicas=1, drafting="greedy",
    )  # fmt: skip
    assert made.command.startswith("vllm serve MODEL")
    assert any("MODEL is the target" in note and "llama-3.1-8b" in note for note in made.notes)


@pytest.mark.parametrize(
    ("engine", "kind", "policy", "words"),
    [
        (
            "sglang",
            "eagle3",
            "fixed:3",
            "--speculative-num-steps 3 --speculative-eagle-topk 1",
        ),
        ("sglang", "dspark", "fixed:7", "--speculative-algorithm DSPARK"),
        (
            "sglang",
            "eagle3",
            "k_by_batch:2=5/4=1",
            "--speculative-num-steps 5 --speculative-eagle-topk 1 --speculative-num-draft-tokens 6 "
            "--speculative-use-rejection-sampling --speculative-adaptive --speculative-adaptive-config adaptive_steps.json",
        ),
        ("tensorrt-llm", "eagle3", "k_by_batch:2=5/4=1", "draft_len_schedule: {2: 5, 96: 1}"),
        ("tensorrt-llm", "eagle3", "cutoff:3", "draft_len_schedule: {3: 7}"),
        ("llama.cpp", "eagle3", "fixed:3", "--spec-type draft-eagle3 -md"),
    ],
)
def test_how_each_engine_is_told(engine: str, kind: str, policy: str, words: str) -> None:
    known = engine_of(engine)
    assert known is not None
    made = served(known, kind, PolicySpec.parse(policy))
    assert words in " ".join(made.command.replace("\\\n", "").split())


@pytest.mark.parametrize(("kind", "policy"), [("none", "none"), ("eagle3", "fixed:3")])
def test_llama_cpps_requests_share_one_context(kind: str, policy: str) -> None:
    """A number of slots that was asked for divides the context (`n_ctx_seq` of llama-context.cpp), unless it is unified."""
    engine = engine_of("llama.cpp")
    assert engine is not None
    made = served(engine, kind, PolicySpec.parse(policy))
    assert "--kv-unified" in shlex.split(made.command)
    assert any("GGUF" in note and "target" in note for note in made.notes)
    assert any("-c " in note and "together" in note for note in made.notes)


@pytest.mark.parametrize(("kind", "policy"), [("none", "none"), ("eagle3", "fixed:3")])
def test_llama_cpp_has_at_most_256_slots(kind: str, policy: str) -> None:
    """`LLAMA_MAX_SEQ`: it does not start with more, whether anything is drafted or not."""
    engine = engine_of("llama.cpp")
    assert engine is not None
    assert cannot_run(engine, recording(kind), PolicySpec.parse(policy), 256) == ""
    why = cannot_run(engine, recording(kind), PolicySpec.parse(policy), 257)
    assert why == "llama.cpp runs no more than 256 requests at a time"


@pytest.mark.parametrize(("kind", "policy"), [("none", "none"), ("eagle3", "fixed:3")])
def test_llama_cpps_pass_is_as_long_as_its_step(kind: str, policy: str) -> None:
    """`-b` is the logical batch, which is computed in passes of `-ub` tokens: 512 unless set."""
    words = shlex.split(served(LLAMA_CPP, kind, PolicySpec.parse(policy), step_tokens=8192).command)
    assert [words[words.index(flag) + 1] for flag in ("-b", "-ub")] == ["8192", "8192"]


@pytest.mark.parametrize(("gpus", "told"), [(1, False), (2, True)])
def test_llama_cpps_gpus_share_every_layer(gpus: int, told: bool) -> None:
    """`--split-mode layer`, its default, gives each GPU some of the layers: another machine than was simulated."""
    made = served(LLAMA_CPP, "none", NO_DRAFTER, gpus=gpus)
    assert ("--split-mode tensor" in made.command) == told
    assert any("--split-mode" in note and "experimental" in note for note in made.notes) == told


@pytest.mark.parametrize(
    ("method", "k", "words"),
    [
        ("draft-simple", 5, "--spec-type draft-simple -md d.gguf --spec-draft-n-max 5"),
        ("draft", 5, "--spec-type draft-simple -md d.gguf --spec-draft-n-max 5"),
        ("draft-eagle3", 5, "--spec-type draft-eagle3 -md d.gguf --spec-draft-n-max 5"),
        ("ngram-simple", 5, "--spec-type ngram-simple --spec-ngram-simple-size-m 5"),
        ("ngram_simple", 5, "--spec-type ngram-simple --spec-ngram-simple-size-m 5"),  # as its sums write it
        ("ngram-map-k", 5, "--spec-type ngram-map-k --spec-ngram-map-k-size-m 5"),
        ("ngram-map-k4v", 5, "--spec-type ngram-map-k4v --spec-ngram-map-k4v-size-m 5"),
        ("ngram-mod", 64, "--spec-type ngram-mod --spec-ngram-mod-n-max 64"),
        ("ngram-mod", 5, "--spec-type ngram-mod --spec-ngram-mod-n-max 5 --spec-ngram-mod-n-min 5"),
        ("ngram-cache", 5, "--spec-type ngram-cache"),
        (
            "ngram-simple,draft-simple",
            5,
            "--spec-type ngram-simple,draft-simple -md d.gguf --spec-ngram-simple-size-m 5 --spec-draft-n-max 5",
        ),
        ("ngram", 5, "--spec-type METHOD"),
    ],
)
def test_how_llama_cpp_is_told_the_tokens_of_a_draft(method: str, k: int, words: str) -> None:
    """`--spec-draft-n-max` acts on what has a drafter alone: a look-up went on with 48."""
    drafter = {"-md": "d.gguf"} if "draft" in method else {}
    fields = {"--spec-type": method, **drafter, "--spec-draft-n-max": k}
    assert " ".join(LLAMA_CPP.spelled(fields)) == words
    assert LLAMA_CPP.spelled_notes is not None
    notes = " ".join(LLAMA_CPP.spelled_notes(fields))
    assert ("drafts up to 8 tokens" in notes) == (method == "ngram-cache")
    assert ("throws away drafts" in notes) == (method == "ngram-mod" and k < 48)
    assert ("option of its own" in notes) == (method == "ngram")


def test_sglangs_steps_by_batch_size_are_a_file() -> None:
    """A batch size's slot is the largest that is not above it: `_find_closest_bs` of adaptive_spec_params.py."""
    engine = engine_of("sglang")
    assert engine is not None
    made = served(engine, "eagle3", PolicySpec.parse("k_by_batch:2=5/4=1"))
    assert json.loads(made.files["adaptive_steps.json"]) == {"1": {"candidate_steps": [5]}, "3": {"candidate_steps": [1]}}
    [note] = set(made.told) - set(made.notes)
    assert json.loads(note[note.index("{") :]) == json.loads(made.files["adaptive_steps.json"])


def test_a_script_writes_its_files_and_then_serves(tmp_path: Path) -> None:
    """In any shell, whatever stands in the file."""
    held = '{"it\'s": "$HOME `ls` \\\\ "}'
    made = dataclasses.replace(Serving("cat 'odd name.json'; echo served", (), None), files={"odd name.json": held})
    done = subprocess.run(["sh", "-c", made.script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{held}\nserved\n"
    shown = "\n".join(f"  {line}" for line in (*writing(made.files), made.command))  # as screens have it
    assert (
        subprocess.run(["sh", "-c", shown], cwd=tmp_path, capture_output=True, text=True, check=True).stdout == done.stdout
    )
    assert dataclasses.replace(made, files={}).script == made.command


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vllm", "--no-enable-prefix-caching"),
        ("sglang", "--disable-radix-cache"),
        ("tensorrt-llm", "kv_cache_config: {enable_block_reuse: false}"),
        ("llama.cpp", "--no-cache-prompt"),
    ],
)
@pytest.mark.parametrize(("kind", "policy"), [("none", "none"), ("eagle3", "fixed:3")])
def test_numbers_without_a_prefix_cache_are_served_without_one(engine: str, words: str, kind: str, policy: str) -> None:
    known = engine_of(engine)
    assert known is not None
    kept, whole = (served(known, kind, PolicySpec.parse(policy), prefix_cache=keeps) for keeps in (True, False))
    assert (words in kept.command, words in whole.command) == (False, True)
    assert [any("without a prefix cache" in note for note in made.notes) for made in (kept, whole)] == [False, True]
    assert whole.speculative == kept.speculative


def test_tensorrt_llms_configuration_without_a_prefix_cache_is_yaml() -> None:
    import yaml

    made = served(TENSORRT_LLM, "eagle3", PolicySpec.parse("fixed:3"), prefix_cache=False)
    words = shlex.split(made.command)
    found = yaml.safe_load(words[words.index("<<<") + 1])
    assert found["kv_cache_config"] == {"enable_block_reuse": False}
    assert found["speculative_config"]["max_draft_len"] == 3


ROWS = [(1, 50, 3), (51, 96, 1)]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize(
    ("policy", "ran", "rows"),
    [
        ("k_by_batch:50=3/100=1", 50, ROWS),  # what is said to run has both rows
        ("k_by_batch:50=3/100=1", 10, ROWS),
        ("k_by_batch:50=3/60=2/80=1", 50, [(1, 50, 3), (51, 60, 2), (61, 96, 1)]),
        ("cutoff:64", 50, [(1, 64, 7), (65, 96, 0)]),
        ("k_by_batch:50=3", 50, [(1, 50, 3)]),  # and no row that nobody named
        ("k_by_batch:20=3/50=1", 50, [(1, 20, 3), (21, 50, 1)]),
        ("cutoff:20", 50, [(1, 20, 7), (21, 50, 0)]),
    ],
)
def test_rows_that_a_policy_names_are_written_up_to_the_request_cap(
    engine: str, policy: str, ran: int, rows: list[tuple[int, int, int]]
) -> None:
    known = engine_of(engine)
    assert known is not None
    made = served(known, "eagle3", PolicySpec.parse(policy), most_running=ran)
    assert made.speculative is not None
    assert made.speculative[known.fields.batch_rows] == rows
    assert any("no more than 50 requests ran" in note for note in made.notes) == (rows[-1][1] < CAP)


def test_what_an_engine_cannot_write_it_does_not_run() -> None:
    """TensorRT-LLM's schedule ends where drafting does; SGLang's steps by batch size are of EAGLE's alone."""
    tensorrt, sglang = engine_of("tensorrt-llm"), engine_of("sglang")
    assert tensorrt is not None
    assert sglang is not None
    assert cannot_run(tensorrt, recording("eagle3"), PolicySpec.parse("k_by_batch:2=0/4=1"), CAP)
    assert cannot_run(sglang, recording("dspark"), PolicySpec.parse("cutoff:3"), CAP)


@pytest.mark.parametrize("policy", ["k_by_batch:100=2/256=1", "k_by_batch:2=5/4=1/96=3", "k_by_batch:96=3", "cutoff:3"])
def test_tensorrt_llms_schedule_begins_with_its_longest(policy: str) -> None:
    """It does not start where `max_draft_len` is another length than that of the smallest key."""
    engine = engine_of("tensorrt-llm")
    assert engine is not None
    fields = served(engine, "eagle3", PolicySpec.parse(policy)).speculative
    assert fields is not None
    schedule = draft_len_schedule(fields["draft_len_schedule"])
    assert fields["max_draft_len"] == schedule[min(schedule)] == max(schedule.values())


@pytest.mark.parametrize(("policy", "told"), [("fixed:3", False), ("none", False), ("k_by_batch:8=3/96=1", True)])
def test_what_a_schedule_means_is_told_beside_a_schedule_alone(policy: str, told: bool) -> None:
    engine = engine_of("tensorrt-llm")
    assert engine is not None
    made = served(engine, "none" if policy == "none" else "eagle3", PolicySpec.parse(policy))
    assert any("draft_len_schedule" in note for note in made.notes) == told


def test_tensorrt_llms_lengths_never_exceed_the_first() -> None:
    engine = engine_of("tensorrt-llm")
    assert engine is not None
    why = cannot_run(engine, recording("eagle3"), PolicySpec.parse("k_by_batch:8=2/96=3"), CAP)
    assert why == "TensorRT-LLM cannot draft more tokens at many requests than at the fewest"


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("k_by_batch:50=3/96=1", "with 49 to 50 running it drafts 1 and not 3, unless 50"),  # which run as 52
        ("k_by_batch:9=3/96=1", "with 9 running it drafts 1 and not 3, unless 9"),
        ("k_by_batch:33=5/39=3/96=1", "with 33 running it drafts 1 and not 5, unless 33"),  # which runs as 40
        ("k_by_batch:8=5/64=3/96=1", ""),
        ("k_by_batch:48=3/96=1", ""),
        ("fixed:3", ""),
    ],
)
def test_where_sglang_rounds_a_batch_beyond_its_row_is_told(policy: str, told: str) -> None:
    """`batch_size_key_for_batch` of adaptive_step_router.py, with the sizes that are captured unless told."""
    engine = engine_of("sglang")
    assert engine is not None
    notes = [note for note in served(engine, "eagle3", PolicySpec.parse(policy)).notes if "rounds a batch up" in note]
    assert bool(notes) == bool(told)
    assert told in " ".join(notes)


def test_sizes_that_sglang_captures() -> None:
    sizes = [*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8), *range(272, 513, 16)]
    assert [_captured(n) for n in range(1, 513)] == [min(s for s in sizes if s >= n) for n in range(1, 513)]


class SpsCostTable(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of SGLang 0.5.23's, and their types."""

    sample_batch_tokens: list[int]
    sample_steps_per_sec: list[float]
    max_batch_tokens: int


class DSparkStsCalibration(msgspec.Struct, forbid_unknown_fields=True):
    """As above."""

    temperatures: list[float]
    dataset: str = ""
    num_samples: int = 0
    ece_before: list[float] = []
    ece_after: list[float] = []


def test_sglangs_tables_are_as_it_reads_them() -> None:
    """`SpsCostTable` wants rising tokens, two at least, and as many steps a second; `DSparkStsCalibration` temperatures
    above 0; candidate steps stand in lists under whole numbers (`_load_adaptive_config`)."""
    table = msgspec.json.decode(sps_json({16: 0.02, 8: 0.01}), type=SpsCostTable)
    assert table == SpsCostTable([8, 16], [100.0, 50.0], 16)
    with pytest.raises(ValueError, match="two rows"):
        sps_json({8: 0.01})
    calibration = msgspec.json.decode(sts_json([1.5, 0.5], "mine", 3), type=DSparkStsCalibration)
    assert calibration == DSparkStsCalibration([1.5, 0.5], "mine", 3)
    with pytest.raises(ValueError, match="above 0"):
        sts_json([1.0, 0.0], "mine", 3)
    steps = msgspec.json.decode(json.dumps(adaptive_steps([(1, 4, 5), (5, 16, 0)])), type=dict[str, dict[str, list[int]]])
    assert steps == {"1": {"candidate_steps": [5]}, "5": {"candidate_steps": [0]}}
    assert all(key.isdigit() for key in steps)
