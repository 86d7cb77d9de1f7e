"""How much slower a user's own policy is simulated than the same one here: `python benchmarks/own_policy.py` prints it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.step_cost import recorded, step_us

MINE = """
from simulator.policies import Policy

class Mine(Policy):
    reads_confidences = True

    def admit(self, step):
        for request in range(step.running):
            for position in range(1, step.drafted(request) + 1):
                if step.confidence(request, position) < 0.7:
                    break
                step.admit(request)
"""


def main() -> None:
    """Microseconds of a step of threshold:0.7, compiled and in a file of one's own, over requests."""
    ready = recorded(7)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_text(MINE)
        for requests in (1, 16, 64, 256):
            (theirs, _), (mine, _) = step_us("threshold:0.7", requests, ready), step_us(f"{file}:Mine", requests, ready)
            print(
                f"{requests:4} requests: {theirs:6.1f} µs compiled, {mine:8.1f} µs of one's own: {mine / theirs:.0f} times"
            )


if __name__ == "__main__":
    main()
