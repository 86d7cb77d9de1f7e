"""A report's figures one by one: as tables, or as pictures for papers and chat."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import polars as pl

from results.report.browser import browsing
from results.report.compose import Report, page

_QUIET: Final = """
document.head.insertAdjacentHTML("beforeend", `<style>
  .csv, .link, nav, .scroll, .scroll + .caption, .legend li:has([aria-pressed=false]) { display: none; }
  .legend button::after { content: none; }
  section { margin: 3rem 0; }
  section h2 { margin-top: 0; border: 0; padding-top: 0; }
</style>`); dispatchEvent(new Event("resize")); true
"""
"""Leaves of a section its title, what kind of numbers it shows, its sentence and its figure."""


def write_tables(report: Report, folder: Path) -> list[Path]:
    """Every figure's data as `<name>.csv`; lists are joined by semicolons."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for section in report.sections:
        if section.data is None or section.data.is_empty():
            continue
        lists = [name for name, kind in section.data.schema.items() if isinstance(kind, pl.List)]
        files.append(folder / f"{section.name}.csv")
        section.data.with_columns(pl.col(name).list.join("; ") for name in lists).write_csv(files[-1])
    return files


def write_pictures(
    report: Report,
    folder: Path,
    *,
    only: Sequence[str] | None = None,
    width: int = 1060,
    scale: float = 2.0,
    scheme: Literal["light", "dark"] = "light",
) -> list[Path]:
    """Every figure that has something to show as `<name>.png`, `width` pixels wide before `scale`.

    Raises InputError where no browser is there to draw them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [s.name for s in report.sections if not s.figure.missing and (only is None or s.name in only)]
    files = [folder / f"{name}.png" for name in names]
    with browsing() as browser, tempfile.TemporaryDirectory(prefix="specyard-") as scratch:
        source = Path(scratch) / "report.html"
        source.write_text(page(report), encoding="utf-8")
        browser.open(source, width=width, scheme=scheme, scale=scale)
        browser.evaluate(_QUIET)
        for name, file in zip(names, files, strict=True):
            file.write_bytes(browser.picture(f"#{name}", padding=12))
    return files
