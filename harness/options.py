"""Options and arguments that several commands have, of both programs; where their help differs, each has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder of the database, the reports and everything else a run writes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout; progress goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the start of one, or `latest`.")]
