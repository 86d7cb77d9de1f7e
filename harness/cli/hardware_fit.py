"""`harness hardware fit` and `harness predict`: a profile from what was measured, and what it says of the rest."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import stops
from harness.console import plain_console, print_json, print_table, say, user_errors, watching
from harness.options import AsJson, KvFormat, Out, StepTokens, Weights, WritableOut
from simulator.numbers import counted, four_digits

if TYPE_CHECKING:  # these take seconds
    from collections.abc import Sequence

    from rich.console import Console

    from harness.console import Watcher
    from harness.hardware.calibration import Calibration
    from harness.hardware.forecast import Crossover
    from harness.hardware.measured import Measured, MeasuredPoint
    from harness.hardware.posterior import Posterior
    from simulator.hardware.profile import Profile

MeasuredFile = Annotated[
    Path, typer.Argument(metavar="MEASURED.csv", help="A row a point that was measured; see docs/hardware.md.")
]
BaseName = Annotated[
    str | None, typer.Option("--base", help="The profile to start from: device/model, a device with --model, or a file.")
]
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", help="The target's config.json, or its folder: --base then names a device, as l40s."),
]
Gpus = Annotated[int | None, typer.Option("--gpus", "--tp", help="GPUs that share the model, of a modelled base.")]
RunOfAcceptance = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="A run whose drafters are accepted as these are, where rows do not say it."),
]
Captured = Annotated[int | None, typer.Option(help="Largest captured size; by default the file's, else weighed.")]
_NOISY = 0.15
"""What the fit leaves, as a share, from which on a row is likely to be of something else than is said."""
_FAR = 0.2
"""The same of the logarithm of one row."""


def fit(
    file: MeasuredFile,
    base: BaseName = None,
    model: ModelFile = None,
    gpus: Gpus = None,
    weights: Weights = None,
    kv: KvFormat = None,
    captured: Captured = None,
    step_tokens: StepTokens = 8192,
    run: RunOfAcceptance = None,
    name: Annotated[str | None, typer.Option(help="What the profile is called; by default as the file is.")] = None,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Calibrate a profile to what was measured of a server, and say what the measurements cannot tell."""
    with user_errors("harness"):
        asked = _Asked(file, base, model, gpus, weights, kv, captured, step_tokens, run, out)
        measured, found = asked.fitted()
        called = name or file.name.removesuffix(".csv")
        profile = _named(found, called, file)
        written = _write(profile, out / "hardware", called)
        if as_json:
            print_json("fit", {**_content(found), "profile": profile.name, "file": str(written)})
            return
        console = plain_console()
        _print_fit(console, found, measured.points, called)
        _print_next(console, found, measured.points)
        say(console, f"the profile is in {written}")
        say(console, "simulate, search and sensitivity take it:")
        say(console, f"  {shlex.join(['--hardware', str(written)])}")


def predict(
    file: MeasuredFile,
    base: BaseName = None,
    model: ModelFile = None,
    gpus: Gpus = None,
    weights: Weights = None,
    kv: KvFormat = None,
    captured: Captured = None,
    step_tokens: StepTokens = 8192,
    run: RunOfAcceptance = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Predict the rows marked `predict` from those marked `given`, and say how right that is where they were measured."""
    with user_errors("harness"):
        asked = _Asked(file, base, model, gpus, weights, kv, captured, step_tokens, run, out)
        measured, found = asked.fitted()
        if as_json:
            print_json("predict", {**_content(found), **_predicted_content(found, measured.points)})
            return
        console = plain_console()
        _print_predictions(console, found, measured.points)
        _print_next(console, found, measured.points)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What both commands are told. Raises InputError where an option makes no sense."""

    file: Path
    base: str | None
    model: Path | None
    gpus: int | None
    weights: Any
    kv: Any
    captured: int | None
    step_tokens: int
    run: str | None
    out: Path

    def __post_init__(self) -> None:
        from harness.hardware.measured import MOST_CAPTURED
        from simulator.errors import InputError
        from simulator.setup import EngineLimits

        if self.captured is not None and not 1 <= self.captured <= MOST_CAPTURED:
            raise InputError(f"--captured {self.captured}: must be from 1 to {MOST_CAPTURED:,}")
        try:
            EngineLimits(step_tokens=self.step_tokens)
        except ValueError as error:
            raise InputError(str(error)) from None
        if self.base is None:
            raise InputError(
                "name the profile to start from with --base: device/model, as l40s/qwen3-8b, or l40s and --model"
            )

    def fitted(self) -> tuple[Measured, Posterior]:
        """The file, and what follows of it."""
        from harness.hardware.measured import base_profile, completed, read_measured, with_room
        from harness.hardware.remarks import falling, others
        from simulator.errors import InputError
        from simulator.hardware.catalogue import Asked

        with watching() as watcher:
            measured = read_measured(self.file, watcher.say)
            assert self.base is not None  # which was checked above
            asked = Asked(model=self.model, gpus=self.gpus, weights=self.weights, cache=self.kv)
            profile = base_profile(self.base, asked, measured.given or measured.points)
            for other in others(measured.remarks, profile):
                watcher.say(f"note: {self.file} names {other}")
            for odd in falling(measured.points):
                watcher.say(f"note: {self.file}, {odd}")
            profile = with_room(profile, measured.points, watcher.say)
            if self.captured is not None and profile.eager is not None and profile.captured not in (0, self.captured):
                raise InputError(f"--captured {self.captured}: {profile.name} itself has sizes to {profile.captured}")
            if self.run is not None:
                measured = _accepted_as_in(measured, self.run, self.out, self.file, watcher)
            measured = replace(measured, points=completed(measured.points))
            try:
                return measured, self._fit(measured, profile, watcher)
            except InputError as error:
                told = str(error).replace(", or give --kv-capacity-tokens", "")  # which is an option of simulations
                raise InputError(f"{self.file}{':' if told.startswith('no row') else ','} {told}") from None

    def _fit(self, measured: Measured, profile: Profile, watcher: Watcher) -> Posterior:
        from harness.hardware.calibration import check_possible
        from harness.hardware.measured import losing
        from harness.hardware.posterior import Posterior
        from harness.hardware.terms import Base
        from simulator.simulation import ready

        for point in measured.given:
            check_possible(point, profile)
        ready(watcher.say)
        closed = any(point.closed for point in measured.points)
        captured, drafting = self.captured or measured.captured, {p.kind for p in measured.points} - {"none"}
        bases = Base.several(
            profile, captured, self.step_tokens, closed=closed, drafting=drafting, losing=losing(measured.points)
        )
        return Posterior.of(
            measured.points, bases,
            lambda done, total: watcher.advance("simulating what was measured", done, total),
            lambda done, total: watcher.advance("fitting", done, total),
        )  # fmt: skip


def _accepted_as_in(measured: Measured, run: str, out: Path, file: Path, watcher: Watcher) -> Measured:
    from harness.hardware.acceptance import accepted_as_in
    from results.store.database import Store
    from simulator.errors import InputError

    store = Store(out / "specyard.duckdb")
    run_id = store.find_run(run)
    try:
        return replace(measured, points=accepted_as_in(measured.points, store, run_id, watcher.say))
    except InputError as error:
        raise error if str(error).startswith("--run") else InputError(f"{file}, {error}") from None


def _named(posterior: Posterior, called: str, file: Path) -> Profile:
    """The most probable profile, with where it comes from."""
    from harness.hardware.left_behind import left_behind

    found = posterior.best
    values = f"{len(found.residuals)} values of {file.name}"
    told = ", ".join(f"{name} × {factor:.3g}" for name, factor in found.factors.items() if name in found.names)
    return replace(
        left_behind(posterior), name=called, source="fitted",
        provenance={
            **found.base.profile.provenance, "fit": f"`harness hardware fit`: {values} on {found.base.profile.name}: {told}",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        },
    )  # fmt: skip


def _write(profile: Profile, folder: Path, called: str) -> Path:
    from simulator.errors import InputError
    from simulator.hardware.profile import dump_profile

    if not called or "/" in called or "\\" in called or called.startswith("."):
        raise InputError(f"--name {called}: must be a plain name, of which a file is made")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{called}.json"
    if file.exists():
        stops.say(f"note: {file} was there, and is another now")
    file.write_text(dump_profile(profile), encoding="utf-8")
    return file


def _print_furthest(console: Console, found: Calibration) -> None:
    """The row that is furthest off, where factors leave much: one that is mistyped makes every other unsure."""
    worst = max(found.residuals, key=lambda r: abs(math.log(r.fitted / r.measured)))
    if found.noise > _NOISY or abs(math.log(worst.fitted / worst.measured)) > _FAR:
        off = f"line {worst.point.line}, {worst.point.name}: {worst.fitted / worst.measured - 1:+.0%}"
        much = (
            "so much that all intervals are wide" if found.noise > _NOISY else "one row far off, about which little may hold"
        )
        say(console, f"they leave {much}; furthest off is {off}: are unit and lengths those?")


def _print_unsaid(console: Console, posterior: Posterior) -> None:
    """What is weighed because nobody says it."""
    from harness.hardware.terms import TERMS

    if len(posterior.captured) > 1:
        sizes = [f"to {size:,} {weight:.0%}" for size, weight in posterior.captured.items()]
        say(console, f"captured sizes, which nobody says, may go {', '.join(sizes)}; --captured N where you know")
    if len({one.base.answers for one in posterior.members}) > 1:
        say(console, f"answers, by the rows: all as long {posterior.alike:.0%}, of many lengths {1 - posterior.alike:.0%}")
    for kind, weight in posterior.one_by_one.items():
        say(
            console,
            f"{kind} gives less than none wherever it was measured; if it drafts for one request after another "
            f"({weight:.0%} by the rows), every further user makes it worse: measure it at many before you rely on it",
        )
    if unknown := [name for name in posterior.best.names if name not in TERMS]:
        say(
            console,
            f"{'; '.join(unknown)}: in no row, and weighed with the rest; accepted_length, survival or --run would make all "
            "of this surer",
        )
    if strained := posterior.best.strained():
        say(
            console,
            f"far from what {posterior.best.base.profile.name} has, so that little it says may hold: {_words(strained)}",
        )


def _print_fit(console: Console, posterior: Posterior, points: Sequence[MeasuredPoint], called: str) -> None:
    found = posterior.best
    count = len(found.residuals)
    say(console, f"{called}: {found.base.profile.name} ({found.base.profile.source}), fitted to {counted(count, 'value')}")
    lines = [
        [r.point.name, r.metric, four_digits(r.measured), four_digits(r.fitted), f"{r.fitted / r.measured - 1:+.1%}"]
        for r in found.residuals
    ]
    print_table(console, ("measured", "what", "value", "fitted", "off"), lines, ("what",))
    console.print()
    lines = []
    for name in found.names:
        factor, spread = found.factors[name], found.spread(name)
        ends = " to ".join(f"{factor * math.exp(deviations * spread):.2f}" for deviations in (-1.96, 1.96))
        told = 1 - spread**2 / found.prior(name) ** 2
        lines.append([_said(name), f"{factor:.2f}", ends, f"{max(told, 0.0):.0%}"])
    print_table(console, ("part of a step", "factor", "95 %", "told by the data"), lines, ())
    say(console, f"the factors leave {found.noise:.1%} on average, of measurements and model together; predictions hold it")
    _print_furthest(console, found)
    _print_unsaid(console, posterior)
    _print_crowded(console, posterior, points)
    if untold := found.untold():
        say(console, f"the rows say next to nothing of {_words(untold)}: there the base stands, as unsure as before")
    for one, other in found.alike():
        say(console, f"the rows cannot tell apart: {_said(one)}, and {_said(other)}")


_ADD = (
    "add a row, measured or with role `predict`, such as concurrency 64, drafter eagle3, drafted_tokens 3, "
    "accepted_length 2.4"
)
"""How a table comes to what a drafter gives."""


def _print_next(console: Console, found: Posterior, points: Sequence[MeasuredPoint]) -> None:
    from harness.hardware.posterior import next_measurement

    suggested = next_measurement(found, points)
    if suggested is None and all(point.kind == "none" for point in points):
        say(console, f"measure next: a drafter, without which nothing says what speculation gains; {_ADD}")
    if suggested is None:
        return
    if not suggested.narrows:
        say(
            console,
            f"no one measurement at these loads would narrow what speculation gains, ± {suggested.before:.0%}, by much",
        )
        return
    which = "measure next" if not suggested.point.values else f"give next, of line {suggested.point.line}"
    say(
        console,
        f"{which}: {suggested.point.name}; it would narrow what speculation gains at these loads from "
        f"± {suggested.before:.0%} to ± {suggested.after:.0%}",
    )


def _print_crowded(console: Console, found: Posterior, points: Sequence[MeasuredPoint]) -> None:
    from harness.hardware.forecast import crowded

    for rows in groupby(crowded(found, points), key=lambda row: (row.point.load.label, row.tokens)):
        [first, *_] = rows[1]
        say(
            console,
            f"{first.point.load.label} of {first.point.prompt_tokens:,} + {first.point.output_tokens:,} tokens hold about "
            f"{first.tokens:,} at once, and {found.best.base.profile.name} has room for {first.room:,}: here some wait for "
            "others; where all ran, its GPUs, weights or cache are others (--gpus, --tp, --weights, --kv)",
        )


def _words(names: Sequence[str]) -> str:
    return "; ".join(map(_said, names))


def _said(name: str) -> str:
    """A factor in words."""
    from harness.hardware.loops import ACCEPTED
    from harness.hardware.terms import TERMS

    words = {str(term): believed.words for term, believed in TERMS.items()}
    return words.get(name, f"{name}, which no row says: odds against those of {ACCEPTED}")


def _print_predictions(console: Console, found: Posterior, points: Sequence[MeasuredPoint]) -> None:
    from harness.hardware.forecast import crossovers, overloads, predictions, winners
    from harness.hardware.table import METRICS

    told, best = predictions(found, points), found.best
    values = counted(len(best.residuals), "value")
    say(console, f"from {values} on {best.base.profile.name}; factors leave {best.noise:.1%} on average")
    _print_furthest(console, best)
    _print_unsaid(console, found)
    _print_crowded(console, found, points)
    more = overloads(found, points)
    for over in more:
        about, least, greatest = map(four_digits, over.most_per_s)
        say(
            console, f"{over.point.name}: more than can be answered, which is {about} a second (95 %: {least} to {greatest})"
        )
    if not told:
        say(
            console,
            f"no row drafts: {_ADD}" if not more else "nothing else is to be predicted",
        )
        return
    lines = []
    for one in told:
        low, high = one.forecast.low, one.forecast.high
        cells = [
            one.point.name,
            four_digits(one.forecast.value),
            f"{four_digits(low)} to {four_digits(high)}",
            METRICS[one.metric],
        ]
        measured = ["–", "–"] if one.measured is None else [four_digits(one.measured), f"{one.error:+.1%}"]
        lines.append([*cells, *measured, {None: "–", True: "yes", False: "no"}[one.inside]])
    heads = ("predicted", "value", "95 %", "unit", "measured", "off", "inside")
    print_table(console, heads, lines, ("unit", "inside", "measured", "off"))
    if known := [one for one in told if one.inside is not None]:
        errors = [abs(one.error or 0.0) for one in known]
        inside = sum(bool(one.inside) for one in known)
        say(
            console,
            f"mean error {sum(errors) / len(errors):.1%}, worst {max(errors):.1%}; {inside} of {len(known)} inside "
            "their 95 % intervals",
        )
    if firsts := winners(found, points):
        console.print()
        rows = list[list[str]]()
        for b in firsts:
            gain = "–" if b.gain is None else f"{b.gain.value:+.0%} ({b.gain.low:+.0%} to {b.gain.high:+.0%})"
            seen = "–" if b.measured is None else f"{b.measured:+.0%}"
            rows.append([b.load, b.name, gain, seen, "–" if b.regret is None else f"{b.regret:.1%}"])
        columns = ("load", "best of these rows", "drafting over none (95 %)", "measured", "regret")
        print_table(console, columns, rows, ("regret", "measured"))
    for crossed in crossovers(found, points):
        say(console, _crossing(crossed))


def _crossing(crossed: Crossover) -> str:
    at_all = "pays at every load here" if crossed.predicted is None else "pays at no load here"
    told = f"pays {_between(crossed.pays_from, crossed.predicted) or at_all.removeprefix('pays ')}"
    doubt = f", in doubt at {', '.join(map(str, crossed.doubtful))} users" if crossed.doubtful else ""
    seen = _between(crossed.measured_from, crossed.measured)
    return f"{crossed.name}: {told}{doubt}" + (f"; measured, {seen}" if seen else "")


def _between(low: float | None, high: float | None) -> str:
    """Between which numbers of users, in words; empty without an end."""
    ends = [f"{word} about {end:.0f}" for word, end in (("from", low), ("up to", high)) if end]
    return f"{' '.join(ends)} users" if ends else ""


def _content(posterior: Posterior) -> dict[str, Any]:
    found = posterior.best
    return {
        "base": found.base.profile.name, "noise": found.noise,
        "factors": [
            {"name": name, "factor": found.factors[name], "log_deviation": found.spread(name)} for name in found.names
        ],
        "fitted": [
            {"line": r.point.line, "point": r.point.name, "metric": r.metric, "measured": r.measured, "fitted": r.fitted}
            for r in found.residuals
        ],
        "captured": [
            {"to": size, "weight": weight} for size, weight in posterior.captured.items()
        ],
        "answers_alike": posterior.alike,
        "one_by_one": [{"drafter": kind, "weight": weight} for kind, weight in posterior.one_by_one.items()],
        "strained": found.strained(),
        "untold": found.untold(), "alike": [list(pair) for pair in found.alike()],
    }  # fmt: skip


def _predicted_content(found: Posterior, points: Sequence[MeasuredPoint]) -> dict[str, Any]:
    from harness.hardware.forecast import crossovers, overloads, predictions, winners

    return {
        "predicted": [
            {"line": p.point.line, "point": p.point.name, "metric": p.metric, **p.forecast._asdict(), "measured": p.measured}
            for p in predictions(found, points)
        ],
        "winners": [
            {
                "load": b.load, "run": b.name, "gain": None if b.gain is None else b.gain._asdict(),
                "measured": b.measured, "regret": b.regret,
            }
            for b in winners(found, points)
        ],
        "crossovers": [crossed._asdict() for crossed in crossovers(found, points)],
        "overloads": [
            {"line": over.point.line, "point": over.point.name, "most_per_s": over.most_per_s._asdict()}
            for over in overloads(found, points)
        ],
    }  # fmt: skip
