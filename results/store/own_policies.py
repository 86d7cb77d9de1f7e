"""Users' own policies in the database: what each said of itself, and its file's text."""

from __future__ import annotations

from dataclasses import fields

import duckdb

from results.store.queries import has_table
from simulator.policies.own import OwnPolicy, at_hand, remember

_COLUMNS = tuple(field.name for field in fields(OwnPolicy) if field.name != "named")


def keep_own_policies(con: duckdb.DuckDBPyConnection) -> None:
    """Keep those that this process was named, which whatever it writes may be about."""
    for policy in at_hand() if has_table(con, "own_policies") else ():
        row = {
            "policy": policy.name,
            **{name: getattr(policy, name) for name in _COLUMNS},
            "searched": list(policy.searched),
        }
        marks = ", ".join("?" * len(row))
        con.execute(f"INSERT OR IGNORE INTO own_policies ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def recall_own_policies(con: duckdb.DuckDBPyConnection) -> None:
    """Let those that a database keeps be known by their names; nothing of them is run."""
    if has_table(con, "own_policies"):
        for row in con.execute(f"SELECT {', '.join(_COLUMNS)} FROM own_policies").fetchall():
            known = dict(zip(_COLUMNS, row, strict=True))
            remember(OwnPolicy(**{**known, "searched": tuple(known["searched"])}))
