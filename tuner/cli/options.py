"""Options and arguments that several commands of the tuner have, and no other program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder of the database.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's id, the start of one, or `latest`.")]
