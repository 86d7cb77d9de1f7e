"""Reports by name: which runs, sweep and study, and into which files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from results.export import write_pictures, write_tables
from results.page import write_page
from results.report import compose, page
from results.store import Store
from results.studies import Studies
from simulator.errors import InputError


def make_report(
    store: Store,
    names: Sequence[str],
    *,
    sweep: str | None = None,
    study: str | None = None,
    form: Literal["html", "png", "csv"] = "html",
) -> list[Path]:
    """Write the report of some runs and return its files; without names, of the run that the sweep or study is of.

    Raises InputError for what is not there, and where a sweep or study is of another run.
    """
    found_sweep = None if sweep is None else store.sweep(sweep)
    found_study = None if study is None else Studies(store).find(study)
    owners = [found["run_id"] for found in (found_study, found_sweep) if found is not None]
    run_ids = list(dict.fromkeys(store.find_run(name) for name in names or owners or ["latest"]))
    for kind, found in (("sweep", found_sweep), ("study", found_study)):
        if found is not None and found["run_id"] not in run_ids:
            raise InputError(f"{kind} {found[f'{kind}_id']}: is of run {found['run_id']}; name that run too")
    folder = store.file.parent / run_ids[0]
    with store.reading() as connection:
        made = compose(
            connection, run_ids,
            sweep_id=None if found_sweep is None else found_sweep["sweep_id"],
            study_id=None if found_study is None else found_study["study_id"],
        )  # fmt: skip
    folder.mkdir(exist_ok=True)
    if form == "html":
        write_page(page(made), folder / "report.html")
        return [folder / "report.html"]
    figures = folder / "figures"
    return write_tables(made, figures) if form == "csv" else write_pictures(made, figures)
