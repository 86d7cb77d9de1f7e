"""A user's own policies: files outside of the package, which decide as those here do, and whose mistakes are sentences."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from simulator import simulation
from simulator.engine.rules import COMPILED
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from simulator.load import Load
from simulator.losslessness import TARGET, law, texts_under
from simulator.metrics import Outcome
from simulator.policies import PolicySpec, take_up
from simulator.policies.own import OwnPolicy, remember
from simulator.records import Anchors
from simulator.replay import replay
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Simulator, SlowSimulator, prepare, redrawn, simulate, start
from simulator.traces import Trace, TracedResponse
from tests.documented import differences

THRESHOLD = """
from simulator.policies import Policy, StepView

class Mine(Policy):
    reads_confidences = True

    def __init__(self, least):
        self.least = least

    @classmethod
    def parameters(cls, text):
        return (float(text or "0.5"),)

    def admit(self, step):
        for request in range(step.running):
            for position in range(1, step.drafted(request) + 1):
                if step.confidence(request, position) < self.least:
                    break
                step.admit(request)
"""
ALL = """
from simulator.policies import Policy

class All(Policy):
    def admit(self, step):
        for request in range(step.running):
            step.admit(request, step.drafted(request))
"""


def own(tmp_path: Path, text: str, name: str = "mine.py") -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def traced(gamma: int = 5) -> Trace:
    rng = np.random.default_rng(3)
    parts = []
    for i in range(12):
        confidence = rng.random((60 + 5 * i, gamma)).astype(np.float32) ** 0.3
        accepted = (rng.random(confidence.shape) < confidence).cumprod(1).sum(1).astype(np.uint8)
        anchors = Anchors(np.full(len(confidence), gamma, np.uint8), accepted, confidence, confidence)
        parts.append((TracedResponse("t", "ab"[i % 2], f"p{i}", 0, 40), anchors))
    return Trace.join("dspark", parts)


def setup(policy: str, load: str, **changes: object) -> Setup:
    limits = EngineLimits(request_cap=8, replicas=2)
    profile = find_profile("h100/qwen3-8b")
    return replace(
        Setup(load=Load.parse(load), policy=PolicySpec.asked(policy), profile=profile, limits=limits, seconds=20), **changes
    )  # type: ignore[arg-type]


def figures(found: Outcome) -> list[float]:
    return [found.throughput.value, found.tps.value, found.tau.value, found.budget.value, found.running, found.kv_used]


def test_it_decides_as_the_same_policy_here_does(tmp_path: Path) -> None:
    file = own(tmp_path, THRESHOLD)
    recorded = prepare(traced())
    for load in ("users:12", "rate:9"):
        for least in ("0.3", "0.9"):
            mine = simulate(setup(f"{file}:Mine:{least}", load), recorded)
            theirs = simulate(setup(f"threshold:{least}", load), recorded)
            assert figures(mine) == pytest.approx(figures(theirs), rel=0.01)
    anchors = next(iter(traced()))[1]
    assert replay(anchors, PolicySpec.asked(f"{file}:Mine:0.4").bind()) == replay(
        anchors, PolicySpec.parse("threshold:0.4").bind()
    )


@pytest.mark.parametrize(
    "policy", ["none", "fixed:3", "threshold:0.6", "prefix_scheduler", "lagged_scheduler", "batch_adaptive", "oracle"]
)
@pytest.mark.parametrize("load", ["users:12", "rate:9"])
def test_plain_python_and_machine_code_come_to_the_same(policy: str, load: str) -> None:
    """Requests alike to the last bit; figures up to a step at the ends of slices, in which it counts where it ends."""
    recorded = redrawn(prepare(traced()), np.random.default_rng(4))
    rows: list[list[np.ndarray]] = [[], []]
    asked = setup(policy, load, output_tokens=90)
    fast = simulate(asked, recorded, on_rows=rows[0].append)
    with patch.object(simulation, "simulator_for", lambda policy: SlowSimulator):
        slow = simulate(asked, recorded, on_rows=rows[1].append)
    first, second = (np.sort(np.concatenate(r), order="request") for r in rows)
    both = np.intersect1d(first["request"], second["request"])
    assert len(both) > 0.9 * len(first)
    for name in first.dtype.names or ():
        np.testing.assert_array_equal(
            first[np.isin(first["request"], both)][name], second[np.isin(second["request"], both)][name]
        )
    assert figures(fast) == pytest.approx(figures(slow), rel=0.02)


def test_it_is_known_by_its_file_s_hash(tmp_path: Path) -> None:
    file = own(tmp_path, ALL)
    before = PolicySpec.asked(f"{file}:All")
    assert str(before).startswith("mine.py:All#")
    assert PolicySpec.parse(str(before)) == before
    assert pickle.loads(pickle.dumps(before)) == before
    own(tmp_path, ALL + "\n# changed\n")
    after = PolicySpec.asked(f"{file}:All")
    assert after != before
    assert str(after) != str(before)
    assert (before.lossless, before.replays_exactly, before.reads_confidences, before.needs_cost) == (
        True,
        True,
        False,
        False,
    )


def test_it_goes_where_its_file_is_not(tmp_path: Path) -> None:
    """To another process, as to a worker of Ray's: the text goes with it."""
    sent = tmp_path / "sent"
    sent.write_bytes(pickle.dumps(PolicySpec.asked(f"{own(tmp_path, ALL)}:All")))
    (tmp_path / "mine.py").unlink()
    code = f"import pickle; print(type(pickle.load(open({str(sent)!r}, 'rb')).bind()).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_Watched"


def test_every_engine_and_every_response_has_its_own(tmp_path: Path) -> None:
    counting = ALL.replace("All", "Counting").replace(
        "for request in", "self.seen = getattr(self, 'seen', 0) + 1\n        for request in"
    )
    spec = PolicySpec.asked(f"{own(tmp_path, counting)}:Counting")
    assert spec.bind() is not spec.bind()
    engine = SlowSimulator(
        prepare(traced()), spec.bind(), setup("none", "users:2").cost(traced()), EngineLimits(replicas=2), 10**6, iter(()),
        users=0, seed=0, on_rows=lambda rows: None,
    )  # fmt: skip
    first, second = engine._engine.replicas
    assert first.policy is not second.policy


@pytest.mark.parametrize(
    ("text", "written", "told"),
    [
        (ALL, "mine.py:Al", "no subclass of simulator.policies.Policy of that name in the file; its classes are All"),
        (ALL, "mine.py:All:3", "takes no parameter: its class has no `parameters`"),
        ("class All:\n    pass\n", "mine.py:All", "the class All is no subclass of simulator.policies.Policy"),
        (ALL, "mine.py:All:", "is written FILE.py:CLASS or FILE.py:CLASS:PARAMETER"),
        (ALL, "mine.py", "is written FILE.py:CLASS, with the name of its class"),
        (ALL, "mine.py:All#01234567", "has changed since, to #"),
        (ALL, "yours.py:All", "No such file"),
        (THRESHOLD, "mine.py:Mine:high", "line 12: could not convert string to float: 'high'"),
        (
            THRESHOLD.replace('(float(text or "0.5"),)', "0.5"),
            "mine.py:Mine",
            "line 10: its `parameters` returns 0.5; it must be a tuple",
        ),
        (THRESHOLD.replace("@classmethod", ""), "mine.py:Mine", "its `parameters` must be a class method"),
        ("class All(:\n", "mine.py:All", "line 1: SyntaxError"),
        (
            "import nothing_of_that_name\n",
            "mine.py:All",
            "line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'",
        ),
        ("\nraise SystemExit(3)\n", "mine.py:All", "line 2: SystemExit: 3"),
        ("\nraise BaseException('odd')\n", "mine.py:All", "line 2: BaseException: odd"),
        (
            ALL.replace("def admit", "def __new__(cls): return 5\n    def admit"),
            "mine.py:All",
            "makes 5; it must make a policy",
        ),
        (
            ALL.replace("def admit", "def __init__(self, x): ...\n    def admit"),
            "mine.py:All",
            "line 5: TypeError: All.__init__",
        ),
        ("from simulator.policies import Policy\nclass All(Policy): pass\n", "mine.py:All", "lacks admit"),
        (ALL.replace("def admit", "lossless = 'yes'\n    def admit"), "mine.py:All", "its `lossless` must be True or False"),
        (
            ALL.replace("def admit", "searched = 0.5\n    def admit"),
            "mine.py:All",
            "its `searched` must be a list of parameters",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    text: str, written: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^policy ") as refused:
        PolicySpec.asked(written)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1 / 0", "line 5: ZeroDivisionError: division by zero"),
        ("raise ValueError", "line 5: ValueError"),
        ("raise ValueError('of\\ntwo lines')", "line 5: of two lines"),
        ("raise GeneratorExit", "line 5: GeneratorExit"),
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})", "line 5: E"),
        ("raise ValueError('\\x1b[31m' + chr(0) + '[/red]')", r"line 5: \x1b[31m\x00[/red]"),
        ("step._admitted[0] = -3", "verifies [-3"),
        ("step._drafted[0] = 9", "line 5: TypeError: 'tuple'"),
        ("return (step for step in ())", "line 4: its `admit` returns <generator"),
        ("return [1] * step.running", "line 4: its `admit` returns [1]; it must call step.admit(request, n) instead"),
        ("step.past(-1)", "asks for request -1 of a step that has"),
        ("step.confidence(0, 1.0)", "asks for position 1.0 of a draft of 5"),
        ("step.admit(0, 5); step.confidence(0, 6)", "asks for position 6 of a draft of 5"),
        ("step.admit(0, step.drafted(0) + 1)", "admits 6 more positions of a request that has 5 left"),
        ("step.confidence(0, 0)", "asks for position 0; positions are counted from 1"),
        ("step.past(0, 0)", "asks for the round 0 rounds ago; they are counted from 1"),
        ("step.confidence(0, 2)", "looks at the confidence of position 2 before position 1 is admitted"),
        ("step.accepted(0)", "looks at the acceptances of this step, which nobody knows yet"),
    ],
)
def test_what_it_does_wrong_is_one_sentence(body: str, told: str, tmp_path: Path) -> None:
    head = "from simulator.policies import Policy\nclass Bad(Policy):\n  reads_confidences = True\n"
    text = f"{head}  def admit(self, step):\n    {body}\n"
    asked = setup(f"{own(tmp_path, text)}:Bad", "users:2")
    with pytest.raises(InputError, match=r"^policy mine\.py:Bad#") as refused:
        simulate(asked, prepare(traced()))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("asked", ["target(step.load, {})", "fixed(step.load, {})", "seconds(step.load, 0, {})"])
@pytest.mark.parametrize("tokens", ["-1", "-step.load.decoding - 1", "float('nan')", "1.5", "True", "10**9"])
def test_what_no_step_holds_has_no_cost(asked: str, tokens: str, tmp_path: Path) -> None:
    """Python would read a table from its end."""
    text = (
        "from simulator.policies import Policy\nclass Bad(Policy):\n  needs_cost = True\n"
        "  def __init__(self, cost):\n    self.cost = cost\n"
        f"  def admit(self, step):\n    self.cost.{asked.format(tokens)}\n"
    )
    with pytest.raises(InputError, match=r"^policy mine\.py:Bad#\w+: line 7: asks what .* whole number"):
        texts_under(PolicySpec.asked(f"{own(tmp_path, text)}:Bad"), 10, 0)


COMPILED_TABLE = """
from simulator.policies import KByBatch, Policy

class Root(Policy):
    def draft(self, load, gamma):
        return min(gamma, max(1, round(8 / load.decoding)))

    def admit(self, step):
        for request in range(step.running):
            step.admit(request, step.drafted(request))

    def compiled(self):
        return KByBatch(tuple((n, max(1, round(8 / n))) for n in range(1, 600)))
"""


def test_a_compiled_form_is_run_in_its_place_and_held_to_it(tmp_path: Path) -> None:
    file = own(tmp_path, COMPILED_TABLE)
    texts_under(PolicySpec.asked(f"{file}:Root"), 1000, 0)
    fast = setup(f"{file}:Root", "users:12")
    assert isinstance(start(fast, prepare(traced()), lambda rows: None), Simulator)
    plain = setup(f"{own(tmp_path, COMPILED_TABLE.split('    def compiled')[0], 'plain.py')}:Root", "users:12")
    assert figures(simulate(fast, prepare(traced()))) == pytest.approx(figures(simulate(plain, prepare(traced()))), rel=0.01)
    file = own(tmp_path, COMPILED_TABLE.replace("max(1, round(8 / n))) for", "2 if n < 9 else 1) for"))
    with pytest.raises(InputError, match=r"mine\.py:Root#\w+: its `compiled` drafts 2 of 4 tokens .*, and it 4"):
        texts_under(PolicySpec.asked(f"{file}:Root"), 10, 0)
    file = own(tmp_path, ALL.replace("Policy\n\n", "Fixed, Policy\n\n") + "    def compiled(self): return Fixed(3)\n")
    with pytest.raises(InputError, match=r"its `compiled` drafts 3 of 4 tokens"):
        texts_under(PolicySpec.asked(f"{file}:All"), 10, 0)
    file = own(
        tmp_path, ALL.replace("Policy\n\n", "Policy, Threshold\n\n") + "    def compiled(self): return Threshold(0.6)\n"
    )
    with pytest.raises(InputError, match=r"its `compiled` verifies \d of \d drafted tokens, and it \d"):
        texts_under(PolicySpec.asked(f"{file}:All"), 10, 0)
    file = own(tmp_path, COMPILED_TABLE.replace("return KByBatch(", "return len("))
    with pytest.raises(InputError, match=r"line 12: its `compiled` returns 599; it must be one of the policies"):
        texts_under(PolicySpec.asked(f"{file}:Root"), 10, 0)


@pytest.mark.parametrize(
    ("drafts", "admits", "form", "said"),
    [
        ("gamma", "min(step.drafted(request), 4)", "Fixed(99)", "its `compiled` verifies"),
        ("0 if load.prefill_tokens else gamma", "step.drafted(request)", "Fixed(99)", "its `compiled` drafts"),
        ("0 if load.context_tokens > 5000 else gamma", "step.drafted(request)", "Fixed(99)", "its `compiled` drafts"),
        ("gamma", "step.drafted(request)", "Fixed(12)", "its `compiled` drafts 12 of 16 tokens"),
        ("gamma", "step.drafted(request)", "Fixed(99)", None),
    ],
)
def test_a_compiled_form_is_held_to_it_where_nothing_is_decoded_too(
    drafts: str, admits: str, form: str, said: str | None, tmp_path: Path
) -> None:
    """In longer blocks, beside prompts and long contexts."""
    text = (
        "from simulator.policies import Fixed, Policy\nclass Own(Policy):\n"
        f"  def draft(self, load, gamma):\n    return {drafts}\n"
        f"  def admit(self, step):\n    for request in range(step.running):\n      step.admit(request, {admits})\n"
        f"  def compiled(self):\n    return {form}\n"
    )
    spec = PolicySpec.asked(f"{own(tmp_path, text)}:Own")
    if said is None:
        texts_under(spec, 10, 0)
    else:
        with pytest.raises(InputError, match=said):
            texts_under(spec, 10, 0)


def test_what_it_is_told_it_may_keep_and_write_to(tmp_path: Path) -> None:
    text = ALL + "    def learn(self, verified, accepted):\n        verified.clear()\n        accepted.append(9)\n"
    policy, told = PolicySpec.asked(f"{own(tmp_path, text)}:All").bind(), ([3, 1], [2, 1])
    policy.learn(*told)
    assert told == ([3, 1], [2, 1])


@pytest.mark.parametrize(
    ("decides", "repeats"),
    [
        ("step.drafted(0) // 2", True),
        ("random.randint(0, step.drafted(0))", False),
        ("next(NUMBERS) % 7 % 3 if step.drafted(0) > 2 else 0", False),  # no whole number of turns in what is decoded
    ],
)
def test_what_cannot_be_repeated_is_found_out(decides: str, repeats: bool, tmp_path: Path) -> None:
    """What draws without a seed, and what goes on in the file from one policy to the next."""
    text = "import random\nfrom itertools import count\nNUMBERS = count()\n" + ALL.replace(
        "        for request in range(step.running):\n            step.admit(request, step.drafted(request))",
        f"        step.admit(0, {decides})",
    )
    assert texts_under(PolicySpec.asked(f"{own(tmp_path, text)}:All"), 1000, 0).repeats == repeats


def test_what_it_prints_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever of it runs: stdout is for results, of which JSON must stand alone."""
    text = THRESHOLD.replace("\nclass", "print('file')\nclass").replace("self.least =", "print('made'); self.least =")
    text = text.replace("return (float", "print('read'); return (float").replace(
        "for request in", "print('step')\n        for request in"
    )
    simulate(setup(f"{own(tmp_path, text)}:Mine", "users:2"), prepare(traced()))
    told = capsys.readouterr()
    assert told.out == ""
    assert set(told.err.split()) == {"file", "made", "read", "step"}


def test_a_policy_that_cannot_be_copied_is_one_sentence(tmp_path: Path) -> None:
    """Every engine has its own."""
    text = ALL.replace("def admit", "def __init__(self):\n        self.log = open(__file__)\n    def admit")
    with pytest.raises(InputError, match=r"^policy mine\.py:All#\w+: TypeError: cannot pickle"):
        simulate(setup(f"{own(tmp_path, text)}:All", "users:2"), prepare(traced()))


def test_what_was_stored_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy out of a database is known by what was said of it, or not at all; a file of its name stays untouched."""
    own(tmp_path, "raise SystemExit('was run')\n", "evil.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="does not say of which content"):
        PolicySpec.parse("evil.py:P")
    with pytest.raises(InputError, match="is not at hand"):
        PolicySpec.parse("evil.py:P#01234567:3")
    facts = dict.fromkeys(("lossless", "replays_exactly"), True) | dict.fromkeys(
        ("reads_confidences", "wants_raw_confidences", "needs_cost"), False
    )
    remember(OwnPolicy(str(tmp_path / "evil.py"), "P", "01234567", **facts, searched=(), text=""))
    spec = PolicySpec.parse("evil.py:P#01234567:3")
    assert spec.lossless
    with pytest.raises(InputError, match="from which nothing is run"):
        spec.bind()
    with pytest.raises(InputError, match="has changed since"):
        take_up(spec.name)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    text = ALL.replace("def admit", "def draft(self, load, gamma):\n        return np.int64(2)\n    def admit")
    found = simulate(setup(f"{own(tmp_path, 'import numpy as np' + text)}:All", "users:2"), prepare(traced()))
    assert found.budget.value == pytest.approx(3)


def test_requests_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    policy = setup(f"{own(tmp_path, ALL)}:All", "users:4", prompt_tokens=50_000_000)
    with pytest.raises(InputError, match="tokens of context"):
        start(policy, prepare(traced()), lambda rows: None)


def test_drafts_of_no_length_are_refused(tmp_path: Path) -> None:
    text = ALL.replace("def admit", "def draft(self, load, gamma):\n        return 2.5\n    def admit")
    with pytest.raises(InputError, match=r"its `draft` returns 2\.5; it must be a whole number of tokens"):
        simulate(setup(f"{own(tmp_path, text)}:All", "users:2"), prepare(traced()))


def test_every_other_policy_here_has_a_compiled_form() -> None:
    specs = ["none", "fixed:3", "threshold:0.5", "k_by_batch:2=1", "cutoff:4"]
    assert all(isinstance(PolicySpec.parse(text).bind(), COMPILED) for text in specs)


# --- losslessness -------------------------------------------------------------------------------------------------

RETROSPECTIVE = """
import numpy as np
from simulator.policies import Policy

class Retrospective(Policy):
    reads_confidences = True

    def admit(self, step):
        for request in range(step.running):
            c = {look}
            s = [1.0, *np.cumprod(c)]
            rates = [sum(s[: n + 1]) * speed for n, speed in zip(range(len(s)), (1.0, 0.5, 0.45, 0.42, 0.40))]
            step.admit(request, int(np.argmax(rates)))
"""
TEXTS = 20_000


def chance(policy: str) -> float:
    from scipy.stats import chisquare

    found = texts_under(PolicySpec.asked(policy), TEXTS, 0)
    return float(chisquare(found.counts, law() * found.counts.sum()).pvalue)


def test_the_law_is_the_target_s() -> None:
    assert law().sum() == pytest.approx(1.0)
    assert law()[0] == pytest.approx(TARGET[0, 0] ** 4)


@pytest.mark.parametrize(
    "policy", ["none", "fixed:4", "threshold:0.5", "prefix_scheduler", "lagged_scheduler:1/0.5", "batch_adaptive"]
)
def test_policies_here_leave_the_law_as_it_is(policy: str) -> None:
    assert chance(policy) > 1e-4


def test_a_policy_that_looks_past_the_contract_is_found_out(tmp_path: Path) -> None:
    """The DSpark paper's example of what biases, by taking what a step does not show."""
    file = own(tmp_path, RETROSPECTIVE.format(look="step._confidence[request]"))
    assert chance(f"{file}:Retrospective") < 1e-12
    file = own(
        tmp_path, RETROSPECTIVE.format(look="[step.confidence(request, k + 1) for k in range(step.drafted(request))]")
    )
    with pytest.raises(InputError, match="looks at the confidence of position 2 before position 1 is admitted"):
        chance(f"{file}:Retrospective")
    late = (
        RETROSPECTIVE.format(look="step._confidence[request]")
        .replace("        for request", "        self.steps = getattr(self, 'steps', 0) + 1\n        for request")
        .replace(
            "step.admit(request, int(np.argmax(rates)))",
            "step.admit(request, int(np.argmax(rates)) if self.steps > 20 else len(c))",
        )
    )
    assert chance(f"{own(tmp_path, late)}:Retrospective") < 1e-12
    with pytest.raises(InputError, match="says of itself that it is not lossless"):
        chance("oracle")


def test_what_looks_too_early_in_longer_drafts_alone_is_found_and_told_as_json(tmp_path: Path) -> None:
    """Drafts of four tokens are decoded; of what it does in longer ones it is asked."""
    looks = ("n = step.drafted(request)", "step.confidence(request, n) if n > 4 else 0", "step.admit(request, n)")
    late = "".join(f"\n            {line}" for line in looks)
    early = ALL.replace("\n            step.admit(request, step.drafted(request))", late)
    early = early.replace("(Policy):", "(Policy):\n    reads_confidences = True\n", 1)
    told = CliRunner().invoke(app, ["check-policy", f"{own(tmp_path, early)}:All", "--texts", "10000", "--json"])
    assert told.exit_code == 1, told.output
    found = json.loads(told.stdout)
    assert (found["lossless"], found["texts"], found["chi2"]) == (False, 0, None)
    assert "no engine could run it" in found["refused"]
    assert differences(told.stdout) == []


def test_a_policy_that_verifies_nothing_is_not_called_tested(tmp_path: Path) -> None:
    idle = own(tmp_path, ALL.replace("step.admit(request, step.drafted(request))", "pass"))
    told = CliRunner().invoke(app, ["check-policy", f"{idle}:All", "--texts", "10000"])
    assert told.exit_code == 3
    assert "verified nothing" in told.stdout
    assert "In plain Python a step of 32 requests takes" in " ".join(told.stdout.split())
    assert "χ²" not in told.stdout
