"""Options and arguments that several commands of the tuner have, and no other program."""

from __future__ import annotations

from typing import Annotated

import typer

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's id, the start of one, or `latest`.")]
