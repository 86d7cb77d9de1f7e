"""How wrong something may be before another configuration would have won: what `harness sensitivity` found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import polars as pl

from results.figures.common import Origin, first_row, has_table, origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity(Origin):
    """What the rows of one `harness sensitivity` have in common."""

    tolerance_id: str
    objective: str
    """'throughput' or 'tps': what the winner has most of."""
    seconds: float
    """Of simulated time, each point."""
    seed: int
    clear: float
    """Another configuration wins with so much more of the objective: 0.01 is 1 %."""
    drafting: str
    """How drafts were chosen."""


def find_sensitivity(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The latest of one of the runs; None too where the database knows of none."""
    if not has_table(con, "tolerances"):
        return None
    sql = "SELECT tolerance_id FROM tolerances WHERE list_contains(?, run_id) ORDER BY created_at DESC LIMIT 1"
    row = first_row(con, sql, list(run_ids))
    return None if row is None else str(row["tolerance_id"])


def sensitivity(con: duckdb.DuckDBPyConnection, tolerance_id: str) -> Sensitivity:
    """Raises LookupError for one that is not there."""
    row = first_row(con, "SELECT * FROM tolerances JOIN profiles USING (profile_hash) WHERE tolerance_id = ?", tolerance_id)
    if row is None:
        raise LookupError(f"no sensitivity {tolerance_id!r} in this database")
    own = {name: row[name] for name in ("tolerance_id", "objective", "seconds", "seed", "clear", "drafting")}
    return Sensitivity(**own, **origin(row))


def tolerances(con: duckdb.DuckDBPyConnection, tolerance_id: str) -> pl.DataFrame:
    """Every look at something that is off, in the order they were taken.

    Columns: run, load (as `users:64`), users, what, winner (where nothing is off), margin (its lead then, a share), down and
    up (break-even, shares; null where the winner holds as far as was looked), instead (who wins first beyond), off (a share:
    0.1 is 10 % more than assumed), best (who wins there), loss (of keeping the winner there, a share of the objective).
    """
    sql = """
        SELECT run_id AS run, load, what, winner, margin, down, up, instead, looks
        FROM tolerances WHERE tolerance_id = ? ORDER BY number
    """
    rows: list[dict[str, Any]] = []
    for *plain, looks in con.execute(sql, [tolerance_id]).fetchall():
        row = dict(zip(_PLAIN, plain, strict=True))
        kind, _, rest = row["load"].partition(":")
        users = int(rest.partition("/")[0]) if kind == "users" else None
        rows += [{**row, "users": users, **{n: look[n] for n in ("off", "best", "loss")}} for look in json.loads(looks)]
    return pl.DataFrame(rows, schema=_SCHEMA)


def things(looks: pl.DataFrame, load: str) -> list[dict[str, Any]]:
    """What was made wrong at a load, one row each, the closest break-even first.

    As `tolerances`, without instead, off, best and loss, and with reach (the largest that anything was off), instead_down
    and instead_up (who wins first on that side; None where the winner holds), loss_down and loss_up (of keeping the winner
    at −reach and at +reach; None where that was not looked at).
    """
    found = []
    for _, some in looks.filter(load=load).group_by("what", maintain_order=True):
        reach = float(some["off"].abs().max())  # type: ignore[arg-type]
        losses = dict(some.select("off", "loss").rows())
        row = {name: some.row(0, named=True)[name] for name in (*_PLAIN, "users") if name != "instead"}
        row |= {"reach": reach, "loss_down": losses.get(-reach), "loss_up": losses.get(reach)}
        lost = some.filter(pl.col("best") != pl.col("winner")).sort(pl.col("off").abs())
        for side, beyond in (("down", lost.filter(pl.col("off") < 0)), ("up", lost.filter(pl.col("off") > 0))):
            row[f"instead_{side}"] = None if beyond.is_empty() else beyond["best"][0]
        found.append(row)
    return sorted(found, key=_slack)


def closest_load(looks: pl.DataFrame, load: str) -> str:
    """The load that was looked at with about as many users as another; the last where that says nothing."""
    known = looks.select("load", "users").unique(maintain_order=True).rows()
    users = load.removeprefix("users:").partition("/")[0]
    if not users.isdecimal() or any(n is None for _, n in known):
        return str(known[-1][0])
    return str(min(known, key=lambda pair: abs(math.log(pair[1] / max(int(users), 1))))[0])


def _slack(row: Mapping[str, Any]) -> float:
    """How far off the closest break-even is; infinite without one."""
    return min((abs(end) for end in (row["down"], row["up"]) if end is not None), default=math.inf)


_PLAIN: Final = ("run", "load", "what", "winner", "margin", "down", "up", "instead")
_SCHEMA: Final = pl.Schema(
    {"run": pl.String, "load": pl.String, "users": pl.Int64, "what": pl.String, "winner": pl.String, "margin": pl.Float64}
    | {"down": pl.Float64, "up": pl.Float64, "instead": pl.String, "off": pl.Float64, "best": pl.String}
    | {"loss": pl.Float64}
)
