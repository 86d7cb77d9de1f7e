"""Lines of gateways' logs, as tests write them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from simulator.arrivals import RecordedRequests

USED = {"prompt_tokens": 5, "completion_tokens": 3}
ROUTE = {"path": "/v1/chat/completions", "status": 200}


def at(second: float, **more: Any) -> dict[str, Any]:
    """A line of a request of 5 and 3 tokens that came at 09:00 and so many seconds."""
    time = datetime(2026, 11, 3, 9) + timedelta(seconds=second)
    return {"time": f"{time.isoformat()}Z", **ROUTE, "usage": USED, **more}


def lines(*rows: dict[str, Any]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(head: str, *rows: str) -> str:
    """A table of such columns."""
    return "\n".join([head, *rows]) + "\n"


def requests_of(folder: Path, text: str | bytes, name: str = "a gateway's log.jsonl") -> RecordedRequests:
    """The requests of a file of such text."""
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return RecordedRequests.read(folder / name)


def told(found: RecordedRequests) -> str:
    """All that is said of how a file was read."""
    return "; ".join(found.notes)
