"""What Prometheus answers and VictoriaMetrics exports, as the scrapes that were taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_COUNTERS: Final = ("_total", "_sum", "_count", "_bucket")
"""How counters' names end."""


def scrapes_of(data: Mapping[str, Any]) -> str:
    """The samples of an answer of Prometheus's, a scrape at each of its times; empty where it is none. A counter goes on
    rising where its server began anew, and stands still where it was not scraped: so its growth is that of each series."""
    series, times = list[tuple[str, bool, dict[float, str]]](), set[float]()
    found = data.get("result")
    for one in found if isinstance(found, list) else ():
        if not isinstance(one, dict) or not isinstance(one.get("metric"), dict):
            continue
        labels = dict(one["metric"])
        name = labels.pop("__name__", "")
        told = ",".join(f"{key}={json.dumps(str(value))}" for key, value in labels.items())
        values = one.get("values")
        pairs = [  # native histograms have neither
            pair for pair in (values if isinstance(values, list) else [one.get("value")])
            if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int | float)
        ]  # fmt: skip
        if name and pairs:
            counter = name.endswith(_COUNTERS)
            own = {float(at): str(value) for at, value in pairs}
            series.append((f"{name}{{{told}}}", counter, _risen(own) if counter else own))
            times |= own.keys()
    lines, last = list[str](), {told: next(iter(own.values())) for told, _, own in series}
    for time in sorted(times):
        for told, counter, own in series:
            if counter or time in own:
                last[told] = own.get(time, last[told])
                lines.append(f"{told} {last[told]}\n")
    return "".join(lines)


def exported(row: Mapping[str, Any]) -> dict[str, Any]:
    """A series as VictoriaMetrics exports it, a line each, as Prometheus answers it."""
    times, values = row.get("timestamps"), row.get("values")
    if not (isinstance(times, list) and isinstance(values, list)):
        return {}
    pairs = zip(times, values, strict=False)
    return {"metric": row.get("metric"), "values": [[at / 1e3, repr(one)] for at, one in pairs if isinstance(at, int)]}


def _risen(values: dict[float, str]) -> dict[float, str]:
    """A counter's values by time, each with all that it had counted when it fell to nothing before."""
    found, before, lost = dict[float, str](), 0.0, 0.0
    for time in sorted(values):
        try:
            now = float(values[time])
        except ValueError:
            return values  # whoever reads it says so
        lost += before if now < before else 0.0
        before = now
        found[time] = values[time] if not lost else repr(now + lost)
    return found
