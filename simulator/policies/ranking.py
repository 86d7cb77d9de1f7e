"""Drafted positions of all requests, the most probable first."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from simulator.policies.contract import StepView


def best_first(step: StepView) -> Iterator[tuple[int, float]]:
    """(request, survival) of the best position not yet admitted; ties go to the earlier position, then the first request.

    Asking for the next one admits the last: a position shows itself only once all before it are admitted.
    """
    heap = [(-step.survival(request, 1), 1, request) for request in range(step.running) if step.drafted(request)]
    heapify(heap)
    while heap:
        survival, position, request = heappop(heap)
        yield request, -survival
        step.admit(request)
        if position < step.drafted(request):
            heappush(heap, (-step.survival(request, position + 1), position + 1, request))
