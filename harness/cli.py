"""The command `harness`. Arguments in, work elsewhere, results out; bad input exits with code 2 and one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer

from harness.errors import WorkerDied
from simulator.errors import InputError

T = TypeVar("T")

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark speculative decoding: record real target/draft pairs, keep everything in DuckDB, report.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder of the database, the reports and everything else a run writes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout; progress goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the start of one, or `latest`.")]


@app.command()
def run(
    suite: Annotated[str | None, typer.Argument(help="A suite's folder, or the name of a bundled one.")] = None,
    pair: Annotated[str, typer.Option(help="A pair's YAML file, or the name of a bundled one.")] = "tiny",
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable); `none` always runs.")] = None,
    gamma: Annotated[int | None, typer.Option(help="Block size of every drafter; by default each its own.")] = None,
    limit: Annotated[int | None, typer.Option(help="First N prompts of each task.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with one <task>.jsonl a task.")] = None,
    source: Annotated[
        Literal["bundled", "hub"], typer.Option(help="Where prompts come from without --data-dir.")
    ] = "bundled",
    temperature: Annotated[float | None, typer.Option(help="Overrides the suite's.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Overrides the suite's.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Overrides the suite's; 0 is off.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Overrides the suite's length limit of a response.")] = None,
    batch: Annotated[int, typer.Option(help="Prompts decoded together.")] = 16,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    speed_passes: Annotated[int, typer.Option(help="Times one prompt a task is timed with every drafter; 0 for none.")] = 2,
    skip_long_prompts: Annotated[bool, typer.Option(help="Leave out prompts that do not fit the target's context.")] = False,
    actors: Annotated[int | None, typer.Option(help="Workers; by default one a core, or one a GPU.")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="GPUs of each worker; by default one where there are any.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join; by default a local one is started.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Record a suite with every drafter of a pair, time the drafters, write a report."""
    from harness.display import print_run, watching
    from harness.recording import Plan, resume_run, start_run
    from harness.workers import Cluster
    from results.store import Store

    with _user_errors():
        store = Store(out / "specyard.duckdb")
        cluster = Cluster(ray_address, actors, gpus_per_actor)
        with watching() as watcher:
            if resume is not None and suite is not None:
                raise InputError("--resume goes on with a run as it was planned; leave the suite out")
            if resume is not None:
                run_id = store.find_run(resume)
                resume_run(run_id, store, cluster, watcher)
            elif suite is None:
                raise InputError("name a suite (for instance suites/math_code_chat), or give --resume RUN")
            else:
                overrides = {
                    "temperature": temperature,
                    "top_p": top_p,
                    "top_k": top_k,
                    "max_new_tokens": max_new_tokens,
                }
                generation = _generation(suite, {k: v for k, v in overrides.items() if v is not None})
                directory = None if data_dir is None else str(data_dir.resolve())
                plan = _checked(
                    lambda: Plan(
                        suite=_absolute(suite),
                        pair=_absolute(pair),
                        data_dir=directory,
                        source=source,
                        limit=limit,
                        drafters=drafter,
                        gamma=gamma,
                        generation=generation,
                        batch=batch,
                        seed=seed,
                        speed_passes=speed_passes,
                    )
                )
                run_id = start_run(plan, store, cluster, watcher, skip_long=skip_long_prompts)
        report_file = _write_report(store, run_id)
        print_run(store, run_id, report_file, as_json=as_json)


@app.command()
def report(name: RunName = "latest", out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Write a run's report again: one HTML file that opens offline."""
    from results.store import Store

    with _user_errors():
        store = Store(out / "specyard.duckdb")
        file = _write_report(store, store.find_run(name))
        print(json.dumps({"report": str(file)}) if as_json else str(file))


@app.command()
def runs(out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a database."""
    from harness.display import print_runs
    from results.store import Store

    with _user_errors():
        print_runs(Store(out / "specyard.duckdb"), as_json=as_json)


@app.command()
def show(name: RunName = "latest", out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Show a run: what was run, with what, and its results."""
    from harness.display import print_run
    from results.store import Store

    with _user_errors():
        store = Store(out / "specyard.duckdb")
        run_id = store.find_run(name)
        report_file = out / run_id / "report.html"
        print_run(store, run_id, report_file if report_file.exists() else None, as_json=as_json, details=True)


def main() -> None:
    """Entry point of the console script."""
    app()


def _write_report(store: Any, run_id: str) -> Path:
    from results.report import write_report

    file: Path = store.file.parent / run_id / "report.html"
    file.parent.mkdir(exist_ok=True)
    with store.reading() as connection:
        write_report(connection, run_id, file)
    return file


def _generation(suite: str, overrides: dict[str, Any]) -> Any:
    """The suite's generation settings with some replaced; None where nothing is."""
    if not overrides:
        return None
    import msgspec

    from harness.suites import find_suite, read_suite_file

    settings = read_suite_file(find_suite(suite) / "suite.yaml").generation
    return _checked(lambda: msgspec.structs.replace(settings, **overrides))


def _absolute(name: str) -> str:
    """A path that exists, made independent of the current folder; any other name as it is."""
    path = Path(name)
    return str(path.resolve()) if path.is_file() or (path / "suite.yaml").is_file() else name


def _checked(make: Callable[[], T]) -> T:
    """Build a value from options; what its own validation refuses is the user's mistake."""
    try:
        return make()
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn what went wrong into one sentence and an exit code: 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    try:
        yield
    except InputError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
    except WorkerDied as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> NoReturn:
    print(f"harness: {message}", file=sys.stderr)
    raise typer.Exit(code)
