"""The command `tuner`. Arguments in, work elsewhere, results out; bad input exits with code 2 and one sentence."""

from __future__ import annotations

from harness.console import program
from tuner.cli.export import export
from tuner.cli.search import search
from tuner.cli.show import show

app = program(
    "tuner",
    "Find the drafter, block, policy and request cap to run on your hardware, at your load, for your traffic.",
)

app.command()(search)
app.command()(show)
app.command()(export)
