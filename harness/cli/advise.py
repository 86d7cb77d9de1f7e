"""`harness advise`: from what a server logs to what it should run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.console import plain_console, print_json, print_table, say, user_errors, watching
from harness.options import AsJson, Hardware, KvFormat, MeanContext, ModelFile, TensorParallel, Weights, profile_of

if TYPE_CHECKING:  # these take seconds
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from harness.console import Watcher
    from harness.served.advice import Advice
    from harness.served.server import Server

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE…", help="What engines and load generators wrote, or folders of it; see docs/served.md."),
]
ServedDrafter = Annotated[
    str | None,
    typer.Option(
        "--drafter", help="The drafter's kind, as eagle3 or draft_model, where no file says: it decides what drafts cost."
    ),
]
_HELD, _NOT_HELD, _UNSURE = 0, 1, 3
_SHOWN = 8
"""Positions that have a line each."""


def advise(
    files: Files,
    check: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What it wrote after the change (repeatable): did it hold what FILE… promised?"),
    ] = None,
    drafter: ServedDrafter = None,
    hardware: Hardware = None,
    model: ModelFile = None,
    tp: TensorParallel = None,
    weights: Weights = None,
    kv: KvFormat = None,
    mean_context: MeanContext = None,
    as_json: AsJson = False,
) -> None:
    """Say which K a server should run, from its own metrics and logs: keep it, lower it, by batch size, off above a load."""
    with user_errors("harness"):
        with watching() as watcher:
            asked = {
                "--hardware": hardware, "--model": model, "--tp": tp, "--weights": weights, "--kv": kv,
                "--captured": None, "--mean-context": mean_context,
            }  # fmt: skip
            advice = advised(files, drafter, tuple(asked.values()), watcher)
            later = None if check is None else _checked(check, advice, watcher)
        flags = flags_of(advice)
        if later is not None:
            from harness.served.check import content as content_of_check

            if as_json:
                print_json("check", content_of_check(later))
            else:
                for line in later.sentences:
                    say(plain_console(), line)
            raise typer.Exit({True: _HELD, False: _NOT_HELD, None: _UNSURE}[later.held])
        if as_json:
            from harness.served.advice import content

            print_json(
                "advice",
                {**content(advice), "flags": flags, "flags_notes": notes_of(advice), "files": files_of(advice)},
            )
            return
        given = {"--drafter": drafter, **asked}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        print_advice(plain_console(), advice, flags, [*map(str, files), *options])


def advised(files: Sequence[Path], drafter: str | None, asked: tuple[Any, ...], watcher: Watcher) -> Advice:
    """The advice on files. Raises InputError, AnswerIsNo."""
    from simulator.errors import AnswerIsNo, InputError

    if any(value is not None for value in asked[1:]) and asked[0] is None:
        raise InputError(
            "--model, --tp, --weights, --kv and --mean-context: are of a profile; name its device with --hardware"
        )
    profile = None if asked[0] is None else profile_of(*asked)
    from harness.served.observed import one_hot
    from simulator.drafter_kinds import KINDS

    kind = _kind(drafter)
    server = read_server(files, watcher, kind)
    if kind and server.kind in KINDS and one_hot(kind) != one_hot(server.kind):  # engines serve MTP as EAGLE: no further
        raise InputError(f"--drafter {drafter}: the files' server drafts with {server.settings.method}")
    if not server.speculates and server.settings.gamma:
        raise AnswerIsNo(
            f"{files[0]}: K = {server.settings.gamma} is set, and not one draft was proposed in these files: nothing says "
            "how often any would be accepted; give more of them"
        )
    if not server.speculates:
        raise AnswerIsNo(
            f"{files[0]}: of a server that drafts nothing: no file says how often any draft would be accepted; record a "
            "drafter (`harness record`), or serve with one and give that log"
        )
    from harness.served.acceptance import acceptance_of
    from harness.served.advice import advise as advice_of
    from harness.served.costs import believed, profiled
    from harness.served.timed import recorded, seen

    kind = kind or server.kind
    acceptance = acceptance_of(server)
    own = recorded(server) or seen(server, kind, acceptance)
    if own is None and profile is not None:
        watcher.doing("moving the profile to the log's steps")
        return advice_of(server, acceptance, kind, profiled(profile, server, kind, acceptance))
    if profile is not None:
        watcher.say(f"note: {profile.name} is left aside: these files time steps with drafts and without")
    return advice_of(server, acceptance, kind, own or believed(server, kind, acceptance))


def read_server(files: Sequence[Path], watcher: Watcher, named: str = "") -> Server:
    """What files say of one server, whose drafter is of the kind that is `named`. Raises InputError."""
    from harness.served.server import together
    from harness.served.sources.registry import read_files

    watcher.doing("reading")
    return together(*read_files(files, told_by(watcher)), named)


def told_by(watcher: Watcher) -> Callable[[Path, int, int], None]:
    """What tells how far a long file is read, in megabytes."""
    return lambda file, done, total: watcher.advance(f"reading {file.name}, MB", done >> 20, max(total >> 20, 1))


def _kind(drafter: str | None) -> str:
    from harness.served.costs import NAMED
    from harness.served.observed import kind_of_method
    from simulator.errors import InputError

    kind = kind_of_method(drafter or "")
    if kind and kind not in NAMED:
        raise InputError(f"--drafter {drafter}: there are {', '.join(NAMED)}")
    return kind


def _checked(check: Sequence[Path], advice: Advice, watcher: Watcher) -> Any:
    from harness.served.check import check as check_of

    return check_of(advice, read_server(check, watcher, advice.kind))


def flags_of(advice: Advice) -> str:
    """The words of the engine's command; empty where it drafts nothing any more."""
    from harness.served.advice import engine_of, fields_of

    fields = fields_of(advice)
    return " ".join(engine_of(advice.server).spelled(fields)) if fields else ""


def notes_of(advice: Advice) -> list[str]:
    """What is to be known of those words; nothing where all stays as it is."""
    from harness.served.advice import engine_of, fields_of

    fields, engine = fields_of(advice), engine_of(advice.server)
    if not fields or advice.verdict == "keep":
        return []
    notes = [] if engine.spelled_notes is None else list(engine.spelled_notes(fields))
    if engine.flags.speculative and advice.server.settings.besides is None:
        notes.append(
            "these words are all that is set of drafting: add what else the server was started with, which no file says"
        )
    return notes


def files_of(advice: Advice) -> Mapping[str, str]:
    """The files that those words name, and what they hold."""
    from harness.served.advice import engine_of, fields_of

    fields, made = fields_of(advice), engine_of(advice.server).files
    return made(fields) if fields and made is not None else {}


def print_advice(console: Console, advice: Advice, flags: str, asked: Sequence[str]) -> None:
    """One screen; `asked` are the words of what was asked, for the command that asks again."""
    from harness.served.acceptance import LABEL
    from simulator.serving.command import writing

    server, settings = advice.server, advice.server.settings
    engine = f"{settings.engine} {settings.version}".strip() or "an engine that no file names"
    say(console, f"{settings.called or 'a model'} on {engine} · {_drafter(advice)}, K = {advice.acceptance.gamma}")
    say(console, f"{LABEL}: {_sources(server)}")
    for note in server.notes:
        say(console, f"· {note}")
    console.print()
    _print_tokens(console, advice)
    say(console, _speed(advice))
    if any(one.best != one.as_served or one.over_none is not None for one in advice.loads):
        console.print()
        _print_loads(console, advice)
    say(console, f"times: {advice.basis}")
    console.print()
    say(console, f"{_verdict(advice)}")
    for line in _why(advice):
        say(console, line)
    if flags and advice.verdict != "keep":
        for line in (*writing(files_of(advice)), flags):
            say(console, f"  {line}")
        if named := [word for word in ("CHECKPOINT", "METHOD") if re.search(rf"\b{word}\b", flags)]:
            say(console, f"{' and '.join(named)}: in the files nobody names the drafter's")
        for note in notes_of(advice):
            say(console, note)
    if "--speculative-adaptive" in flags and advice.verdict != "keep":
        say(console, _UNCHECKED)
    else:
        say(console, _after(advice))
        say(console, f"  harness advise {shlex.join(asked)} --check LATER.log")
    for line in advice.cannot:
        say(console, f"not in these files: {line}")
    say(console, f"measure next: {advice.next}")


_UNCHECKED = (
    "after the change K is another at every batch size, and SGLang's log does not say which: --check cannot read it. "
    "Compare its gen throughput at as many running requests with that of these files"
)


def _drafter(advice: Advice) -> str:
    settings = advice.server.settings
    named = f" ({settings.drafter})" if settings.drafter else ""
    return (advice.kind or settings.method or "a drafter that no file names (--drafter)") + named


def _sources(server: Server) -> str:
    files: dict[str, set[str]] = {}
    for one in server.observations:
        files.setdefault(one.source, set()).update(one.files)
    return ", ".join(name if len(own) == 1 else f"{name} ({len(own)} files)" for name, own in files.items())


def _verdict(advice: Advice) -> str:
    from harness.served.advice import FEWEST, rows_told

    match advice.verdict:
        case "keep":
            few = " until more is known" if advice.server.drafts.drafts < FEWEST else ""
            if table := advice.server.settings.table:
                return f"keep K by batch size as it is{few}: {rows_told(table)}"
            return f"keep K = {advice.acceptance.gamma}{few}"
        case "off":
            return "turn speculation off at these loads"
        case "by_batch":
            return f"K by batch size: {rows_told(advice.rows)}"
        case _ if advice.k == advice.acceptance.gamma:
            return f"draft K = {advice.k} at every load: at some the server drafted less, or nothing"
        case _:
            return f"set K to {advice.k}, from {advice.acceptance.gamma}"


def _why(advice: Advice) -> list[str]:
    """The gain, and where it turns."""
    from harness.served.advice import WORTH

    lines = []
    if advice.verdict == "keep":
        best = max(
            (one for one in advice.loads if one.served or len(advice.loads) == 1),
            key=lambda one: one.gain.value,
            default=None,
        )
        adaptive = advice.server.settings.adaptive  # gains are then over what was not served
        if best is not None and not adaptive and best.best != best.as_served and best.gain.value >= WORTH / 2:
            worth = best.gain.value > WORTH
            lines.append(
                f"K = {best.best} might give {best.gain.signed} at {best.running} running: "
                + (
                    "at that load; over all that were served no change is surely better"
                    if best.sure
                    else "these files cannot tell; see what to measure next"
                    if worth
                    else "not worth a restart"
                )
            )
    else:
        loads = (
            "at the loads that were served"
            if advice.server.knows_load
            else "at one request at a time, for no file says how many ran"
        )
        lines.append(f"expected: {advice.gain.signed} tokens a second {loads}")
        if losing := [(running, gain) for running, gain in advice.at_loads if gain.value < -WORTH]:
            running, gain = min(losing, key=lambda one: one[1].value)
            lines.append(f"slower where {running} run: {gain.signed} tokens a second there")
    if advice.server.settings.adaptive and not advice.useless:
        return lines
    return [*lines, *([_useless(advice)] if advice.useless else _turn(advice))]


def _useless(advice: Advice) -> str:
    """Why no K pays where next to nothing is accepted."""
    from harness.served.expected import per_draft
    from harness.served.observed import finds_lengths

    most = per_draft(advice.acceptance, advice.acceptance.gamma).high
    told = f"a draft commits at most {most:.3f} tokens, and 1 without any accepted: no K pays, whatever a step takes"
    loaded = (
        "; a drafter that is hardly ever right is usually loaded wrongly: it is another target's, taps other layers, or has "
        "another tokenizer"
    )
    return told if finds_lengths(advice.kind) else told + loaded


def _turn(advice: Advice) -> list[str]:
    """Above how many requests no drafts are faster; what the flags do where that is not the same."""
    from harness.served.by_batch import off_from

    table = off_from(advice.rows)
    if advice.off_above is not None:
        turn = advice.off_above
        if turn.value < 1:
            return ["off at every load" + (f": surely above {turn.high:.0f} running" if turn.high >= 1 else "")]
        where = f"above {turn.value:.0f} running ({turn.low:.0f} to {turn.high:.0f})"
        faster = "no drafts at all are faster than any k"
        if table is not None:
            return [f"off above {table - 1} running, by these flags; {where} {faster}{_not_sure(table, turn.low)}"]
        ran = max((one.running for one in advice.loads if one.served), default=0)
        drafts = (
            ", though not surely than what these flags draft"
            if advice.verdict == "by_batch"
            else f"; K = {advice.k} is for all loads together"
            if advice.verdict != "off" and turn.value < ran
            else ""
        )
        return [f"off {where}: there {faster}{drafts}"]
    if not advice.knows_off:
        return []
    most, surely = max(one.running for one in advice.loads), advice.pays_to or 0
    fewest = min((one.running for one in advice.loads if one.served), default=1)
    surely_to = f"; surely {f'from {fewest} ' if fewest > 1 else 'up '}to {surely:.0f}"
    told = "" if surely >= most else surely_to if surely else "; not surely"
    if table is not None:
        return [f"off above {table - 1} running, by these flags{_not_sure(table, most)}"]
    return [f"drafting pays up to {most} running, the most looked at{told}"]


def _not_sure(first: int, pays_to: float) -> str:
    """Why a table is off where drafting likely pays; empty where it does not."""
    if first > pays_to:
        return ""
    return f"; from {first} to {pays_to:.0f} some k likely is too, and not as surely faster than what was served"


def _print_tokens(console: Console, advice: Advice) -> None:
    """A line for every k: how often its last position was accepted, and what drafting so many would give."""
    from harness.served.expected import positions

    found, gains = positions(advice.acceptance), {one.k: one.gain for one in advice.of_tokens}
    size = len(found)
    shown = {*range(1, size + 1)} if size <= _SHOWN else {*range(1, 5), *(size * i // 4 for i in range(2, 5))}
    rows = [["none", "", gains[0].signed]] if 0 in gains else []
    for k in sorted(shown):
        own, gain = found[k - 1], gains[k]
        accepted = f"{own.value:.0%} ({own.low:.0%} to {own.high:.0%})"
        rows.append([str(k), accepted, "as served" if k == size and gain.low == gain.high else gain.signed])
    over = f"over K = {advice.acceptance.gamma} verified whole" if advice.server.settings.adaptive else "over those served"
    print_table(console, ["k", "position k accepted", f"tokens/s with k drafted, {over}"], rows, ())
    say(console, f"intervals: {advice.acceptance.basis}")


def _speed(advice: Advice) -> str:
    from harness.served.expected import per_draft, per_step
    from harness.served.server import ALWAYS

    a, server = advice.acceptance, advice.server
    length = per_draft(a, a.gamma)
    whole = f" of all {a.gamma} tokens" if server.settings.table else ""  # at some loads it drafts less
    draft = f"a draft{whole} commits {length.value:.2f} tokens ({length.low:.2f} to {length.high:.2f})"
    if server.coverage is None:
        return f"{draft}; no file says in how many steps something is drafted"
    step = per_step(a, a.gamma)
    alike = server.coverage > ALWAYS * a.coverage
    seen = server.tokens_per_step if server.tokens_per_step and alike else step.value  # without steps that it was off in
    when = "" if alike else "while it drafts, "
    if a.coverage > ALWAYS:
        return f"{draft}; {when}nearly every step of a request has one: {seen:.2f} tokens a step"
    return (
        f"{draft}, but {when}only {a.coverage:.0%} of a request's steps have one: it gets {seen:.2f} tokens a step "
        f"({step.low:.2f} to {step.high:.2f}), and that is what drafting can make faster, not {length.value:.2f}"
    )


def _print_loads(console: Console, advice: Advice) -> None:
    from harness.served.expected import k_at

    gamma, rows = advice.acceptance.gamma, list[list[str]]()
    for one in advice.loads:
        best = (
            "as served"
            if one.best == one.as_served
            else (f"k = {one.best}" if one.best else "none") + ("" if one.sure else " ?")
        )
        gain = "–" if one.best == one.as_served else one.gain.signed
        over = [] if one.over_none is None else [one.over_none.signed]
        rows.append([f"{one.running}{'' if one.served else ' *'}", best, gain, *over])
    base = f"over K = {gamma} whole" if advice.server.settings.adaptive else "over what was served"
    heads = ["running", "most tokens/s", base, *([f"K = {gamma} over none"] if advice.knows_off else [])]
    print_table(console, heads, rows, ())
    if any(" ?" in row[1] for row in rows):
        say(console, "? not surely: the interval holds 0, or it is less than 1 %")
    if not all(one.served for one in advice.loads):
        say(console, "* so many did not run in these files")
    others = [one for one in advice.loads if advice.rows and one.sure and k_at(advice.rows, one.running) != one.best]
    if others:
        told = ", ".join(f"{one.running} ({k_at(advice.rows, one.running)})" for one in others)
        say(console, f"the table has another k at {told} running: K does not rise with the load, and all of its loads count")


def _after(advice: Advice) -> str:
    e = advice.expected
    if not e.gamma:
        return "after the change the log should hold no lines of acceptance; check it:"
    rates = ", ".join(f"{one.value:.2f}" for one in e.positions[:_SHOWN]) + (", …" if len(e.positions) > _SHOWN else "")
    by_position = f", by position {rates}" if advice.acceptance.by_position else ""
    return (
        f"{'the log should go on to show' if advice.verdict == 'keep' else 'after the change the log should show'} "
        f"{e.length.value:.2f} ({e.length.low:.2f} to {e.length.high:.2f}) tokens per draft{by_position}; check it:"
    )
