"""The command `harness`. Arguments in, work elsewhere, results out; bad input exits with code 2 and one sentence."""

from __future__ import annotations

from harness.cli.advise import advise
from harness.cli.baseline import baseline
from harness.cli.check_policy import check_policy
from harness.cli.compare import compare
from harness.cli.convert import convert
from harness.cli.doctor import doctor
from harness.cli.export import export
from harness.cli.hardware import hardware, list_profiles, show_profile
from harness.cli.hardware_fit import fit, predict
from harness.cli.import_ import import_
from harness.cli.profile import profile
from harness.cli.record import record
from harness.cli.regenerate import regenerate
from harness.cli.remove import prune, remove, rescue
from harness.cli.replay import replay
from harness.cli.report import report
from harness.cli.reproduce import reproduce
from harness.cli.runs import runs
from harness.cli.sensitivity import sensitivity
from harness.cli.show import show
from harness.cli.simulate import simulate
from harness.cli.synthesize import synthesize
from harness.cli.train import train
from harness.cli.validate import validate
from harness.console import program

app = program(
    "harness",
    "Benchmark speculative decoding: record real target/draft pairs, keep everything in DuckDB, report.",
)


app.command("record", help="Record a suite with every drafter of a pair, and no more.")(record)
app.command("run", help="Record a suite with every drafter of a pair, time the drafters live, write a report.")(record)
app.command()(replay)
app.command("check-policy")(check_policy)
app.command()(simulate)
app.command("hardware")(hardware)
app.command("hardware list")(list_profiles)
app.command("hardware show")(show_profile)
app.command("hardware fit")(fit)
app.command()(predict)
app.command()(profile)
app.command()(advise)
app.command("import")(import_)
app.command()(export)
app.command()(synthesize)
app.command()(regenerate)
app.command()(doctor)
app.command()(convert)
app.command()(train)
app.command()(report)
app.command()(compare)
app.command()(baseline)
app.command()(runs)
app.command()(show)
app.command()(remove)
app.command()(prune)
app.command()(rescue)
app.command()(validate)
app.command()(sensitivity)
app.command()(reproduce)
