"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder of the database.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout; progress goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the start of one, or `latest`.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's id, the start of one, or `latest`.")]
