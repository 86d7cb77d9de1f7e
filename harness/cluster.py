"""Workers as Ray actors: a shared queue of work, dead actors replaced, their work redone."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from harness.console import WorkerDied
from simulator.errors import InputError, first_paragraph

W = TypeVar("W")
_MAX_DEATHS = 3
"""An actor may die this often over one piece of work before the run gives up on it."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where workers run."""

    address: str | None = None
    """Ray cluster to join; None starts a local one."""
    actors: int | None = None
    """Workers; None is as many as fit."""
    gpus_per_actor: float | None = None
    """GPUs each worker holds; None is one where the cluster has any, else none."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise InputError(f"--actors must be at least 1, got {self.actors}")
        if self.gpus_per_actor is not None and self.gpus_per_actor < 0:
            raise InputError(f"--gpus-per-actor must be 0 or more, got {self.gpus_per_actor}")


class Pool:
    """A number of actors of one class, each with one call under way at most."""

    def __init__(self, cluster: Cluster, kind: type, arguments: tuple[object, ...], say: Callable[[str], None]) -> None:
        """Actors are `kind(*arguments)`, made when there is work for them."""
        self._kind, self._arguments, self._say = kind, arguments, say
        resources = ray.cluster_resources()
        held = cluster.gpus_per_actor
        self._gpus_each = (1.0 if resources.get("GPU") else 0.0) if held is None else held
        self.size = _workers_that_fit(cluster.actors, self._gpus_each, resources)
        self._idle: list[Any] = []

    def call(self, method: str, *arguments: object) -> Any:
        """One call on one actor, others untouched."""
        [(_, result)] = self.map(method, [arguments])
        return result

    def map(self, method: str, work: Sequence[tuple[W, ...]]) -> Iterator[tuple[tuple[W, ...], Any]]:
        """Call `method(*item)` for every item of `work`; yields (item, result) as they come.

        An actor that dies is replaced and its item goes back to the front of the queue.

        Raises:
            InputError: a worker found something wrong with what the user gave.
            WorkerDied: workers died over one item too often.
        """
        queue: deque[tuple[tuple[W, ...], int]] = deque((item, 0) for item in work)
        pending: dict[Any, tuple[Any, tuple[W, ...], int]] = {}
        try:
            while queue or pending:
                while queue and len(pending) < self.size:
                    item, deaths = queue.popleft()
                    actor = self._idle.pop() if self._idle else self._start()
                    pending[getattr(actor, method).remote(*item)] = (actor, item, deaths)
                [done], _ = ray.wait(list(pending), num_returns=1)
                actor, item, deaths = pending.pop(done)
                try:
                    result = ray.get(done)
                except RayTaskError as error:
                    raise _cause(error) from None
                except RayError as error:  # the process, its node, its memory: all the same to the work
                    if deaths + 1 == _MAX_DEATHS:
                        raise WorkerDied(f"a worker died {_MAX_DEATHS} times over the same work: {error}") from None
                    self._say("a worker died; it is replaced and its work redone")
                    queue.appendleft((item, deaths + 1))
                    continue
                self._idle.append(actor)
                yield item, result
        finally:
            for actor, _, _ in pending.values():
                ray.kill(actor)

    def _start(self) -> Any:
        options = {"num_cpus": 1, "num_gpus": self._gpus_each, "max_concurrency": 1}
        return ray.remote(self._kind).options(**options).remote(*self._arguments)


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Join a Ray cluster, or start a local one for as long as the block runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 lets any other process distort the timings
    options: dict[str, Any] = {}
    if cluster.address is None:
        # Workers import what the driver imports, installed or not.
        runtime = {"env_vars": {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}}
        options = {"num_cpus": cluster.actors, "include_dashboard": False, "runtime_env": runtime}
    try:
        ray.init(address=cluster.address or "local", log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = f"--ray-address {cluster.address}: no Ray cluster answers there" if cluster.address else "Ray did not start"
        raise InputError(f"{where} ({first_paragraph(error)})") from None
    try:
        yield
    finally:
        ray.shutdown()


def _workers_that_fit(wanted: int | None, gpus_each: float, resources: dict[str, float]) -> int:
    """Workers to run. Ray would let one more than the cluster can hold wait for ever, so that is refused here."""
    fit = int(resources.get("CPU", 0))
    if gpus_each:
        fit = min(fit, int(resources.get("GPU", 0) / gpus_each))
    if fit < (wanted or 1):
        has = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise InputError(f"--actors, --gpus-per-actor: the cluster has {has}, which is enough for {fit} workers")
    return wanted or fit


def _cause(error: RayTaskError) -> BaseException:
    """What the worker raised: an InputError as itself, anything else as Ray tells it."""
    cause = getattr(error, "cause", None)
    return InputError(str(cause)) if isinstance(cause, InputError) else error
