"""`harness report`: the report of one or more runs, or its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.console import print_json, user_errors
from harness.options import AsJson, Out
from simulator.errors import InputError

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store


def report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="Run ids, the start of one, or `latest`, the default.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="By default the latest of these runs.")] = None,
    sweep: Annotated[str | None, typer.Option(metavar="SWEEP", help="A sweep; by default the latest of these runs.")] = None,
    form: Annotated[
        Literal["html", "png", "csv"],
        typer.Option("--format", help="One page, or every figure as a picture or as a table of its own."),
    ] = "html",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to: a file, or a folder of pictures or tables; by default the run's in --out."
        ),
    ] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write the report of one or more runs: one HTML file that opens offline, or its figures as pictures or tables."""
    from harness.stops import working
    from results.store.database import Store

    with user_errors("harness"):
        with working():
            files = make_report(Store(out / "specyard.duckdb"), names or [], sweep=sweep, study=study, form=form, to=to)
        if not as_json:
            print("\n".join(map(str, files)))
        elif form == "html":
            print_json("report", {"report": files[0]})
        else:
            print_json("figures", {"figures": files})


def write_report(store: Any, run_id: str) -> Path:
    """Write the report of one run, and return its file."""
    return make_report(store, [run_id])[0]


def make_report(
    store: Store,
    names: Sequence[str],
    *,
    sweep: str | None = None,
    study: str | None = None,
    form: Literal["html", "png", "csv"] = "html",
    to: Path | None = None,
) -> list[Path]:
    """Write the report of some runs and return its files; without names, of the run that the sweep or study is of.

    Raises InputError for what is not there or has no results, where a sweep or study is of another run, and where the report
    cannot be written: to the file, or folder of figures, `to`; by default into the run's folder beside the database.
    """
    from results.store.studies import Studies
    from results.store.subjects import RUN

    found_sweep = None if sweep is None else store.sweep(sweep)
    found_study = None if study is None else Studies(store).find(study)
    owners = [found["run_id"] for found in (found_study, found_sweep) if found is not None]
    run_ids = list(dict.fromkeys(store.find_run(name) for name in names or owners or ["latest"]))
    for run_id in run_ids:
        store.check_results(RUN, run_id)
    for kind, found in (("sweep", found_sweep), ("study", found_study)):
        if found is not None and found["run_id"] not in run_ids:
            raise InputError(f"{kind} {found[f'{kind}_id']}: is of run {found['run_id']}; name that run too")
    page_file, figures = _places(store.file.parent / run_ids[0], form, to)
    from results.report.compose import compose, page  # which takes a while
    from results.report.export import write_pictures, write_tables
    from results.report.page import write_page

    with store.reading() as connection:
        made = compose(
            connection, run_ids,
            sweep_id=None if found_sweep is None else found_sweep["sweep_id"],
            study_id=None if found_study is None else found_study["study_id"],
            out=store.file.parent,
        )  # fmt: skip
    if form == "html":
        write_page(page(made), page_file)
        return [page_file]
    return write_tables(made, figures) if form == "csv" else write_pictures(made, figures)


def _places(folder: Path, form: Literal["html", "png", "csv"], to: Path | None) -> tuple[Path, Path]:
    """The file of the page and the folder of figures, found writable. Raises InputError."""
    page_file, figures = (to or folder / "report.html"), (to or folder / "figures")
    if form == "html" and page_file.is_dir():
        raise InputError(f"--to {to}: is a folder; name a file, as {page_file / 'report.html'}")
    place = page_file.parent if form == "html" else figures
    try:
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        way_out = "" if to else "; write it elsewhere with --to"
        raise InputError(f"{place}: cannot be written ({error.strerror}){way_out}") from None
    return page_file, figures
