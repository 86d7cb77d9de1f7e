"""How drafters were trained, as their checkpoints tell it."""

from __future__ import annotations

import json

import pytest

from results.figures.style import Series
from results.figures.training import section, trainings
from results.store.trainings import read_trainings
from tests.results.database import RUN, add_run, empty

TOLD = {
    "steps": 40, "best_step": 20, "facts": {"train_tokens": 1000},
    "evaluated": [
        {
            "step": step, "loss": None if step == 0 else 3 - step / 20,
            "drafting": [
                {"domain": "code", "tau": 1.25, "acceptance": [0.25, 0]},
                {"domain": "math", "tau": 1 + step / 40, "acceptance": [0.5, 0.25], "prompts": 5, "error": 0.1},
            ],
        }
        for step in (0, 20, 40)
    ],
}  # fmt: skip


@pytest.mark.parametrize("other", [{"steps": "many"}, {}, {"evaluated": 3}])
def test_what_a_checkpoint_tells_is_drawn_and_what_is_no_training_is_not(other: object) -> None:
    con = empty()
    add_run(con)
    told = {"dspark": {"kind": "dspark", "gamma": 2, "training": TOLD}, "mtp": {"kind": "mtp", "training": other}}
    con.execute("UPDATE runs SET drafters = ?", [json.dumps(told)])
    found = {RUN: read_trainings(con, RUN)}
    assert list(found[RUN]) == ["dspark"]
    frame = trainings(found)
    assert frame.filter(domain="math")["tau"].to_list() == [1, 1.5, 2]
    made = section(found, [Series(RUN, "dspark", 2, "dspark", "dspark", "#000000", "circle")])
    assert made is not None
    assert [p.title for p in made.figure.panels] == ["math", "code", "loss"]
    loss = made.figure.panels[-1].plot.data[0]
    assert (list(loss.x), list(loss.y)) == ([20, 40], [2, 1])
    [rows] = made.tables[0].groups
    about = ["dspark", "20", "40", "1,000"]
    assert [[c.text for c in cells] for cells, _ in rows] == [
        [*about, "code", "–", "1.25", "0.25 0.00"], [*about, "math", "5", "1.50 ± 0.28", "0.50 0.25"],
    ]  # fmt: skip
    half = 2.776 * 0.1  # Student's t of four degrees of freedom, 97.5 %, as tables have it
    [low, high] = frame.filter(domain="math", step=20).select("low", "high").row(0)
    assert (low, high) == (pytest.approx(1.5 - half, abs=1e-4), pytest.approx(1.5 + half, abs=1e-4))
    assert frame.filter(domain="code")["low"].to_list() == [None] * 3


def test_without_any_there_is_no_section() -> None:
    assert section({RUN: {}}, []) is None
