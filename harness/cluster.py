"""Workers as Ray actors: a shared queue of work, dead, hung and lost ones replaced, their work redone."""

from __future__ import annotations

import math
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from harness import stops
from harness.console import WorkerDied
from simulator.errors import InputError, first_paragraph
from simulator.memory import MACHINE_BYTES
from simulator.numbers import counted

W = TypeVar("W")
_MAX_DEATHS = 3
"""An actor may die this often over one piece of work before the run gives up on it."""
_STARTS = 3
"""Times a cluster of our own is tried to start: on a busy machine Ray gives up after 30 s."""
_LOOK_S, _SILENT_S, _MUTE = 3.0, 30.0, 2
"""Seconds between looks at workers and cluster; without a sign of life after which a worker is given up; and looks at which
Ray's own processes may be mute: some seconds later its library would end this process, without a word to the user."""
_START_S = 120.0
"""Seconds that a worker on a cluster of our own may take to start."""
_WORKER_BYTES = 100_000_000
"""The least that a worker's process takes, before it has anything to do."""
_ANSWER_S = 2.0
"""Seconds that a cluster's address has to take a connection and to answer on it."""
_SOCKET_BYTES, _BELOW_TEMPORARY_BYTES = 107, 75
"""Longest path of a Unix socket, and what Ray appends to its temporary folder's."""


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

    def check(self) -> None:
        """Raise InputError within seconds where the address is no cluster's that can be joined, or so many workers are more
        than this machine holds; before anything else."""
        needed = (self.actors or 0) * _WORKER_BYTES
        if self.address is not None:
            _prepare_to_join(self.address)
        elif needed > MACHINE_BYTES:
            would = f"would take {needed / 1e9:,.0f} GB of memory, and this machine has {MACHINE_BYTES / 1e9:,.0f} GB"
            raise InputError(f"--actors {self.actors:,}: {would}")
        elif self.gpus_per_actor and not may_have_gpu():
            raise InputError(f"--gpus-per-actor {self.gpus_per_actor:g}: this machine has no GPU; leave it out")


def may_have_gpu() -> bool:
    """Whether this machine may have a GPU, told without a library or a cluster: on Linux one is a file of some driver."""
    devices = Path("/dev")
    drivers = ("nvidia[0-9]*", "kfd", "dri", "dxg", "nvhost-gpu", "accel*", "davinci*")
    return sys.platform != "linux" or any(True for driver in drivers for _ in devices.glob(driver))


class Held:
    """What an actor's process holds: the worker, made in the thread that runs it, and a pulse while it works."""

    def __init__(self, kind: type, arguments: tuple[object, ...]) -> None:
        self._kind, self._arguments = kind, arguments
        self._worker: Any = None

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the worker."""
        if self._worker is None:
            self._worker = self._kind(*self._arguments)
        return getattr(self._worker, method)(*arguments)

    def pulse(self) -> None:
        """Answer, in a thread of its own."""


@dataclass(slots=True)
class _Call:
    """A call under way."""

    actor: Any
    item: tuple[Any, ...]
    deaths: int
    begun: float
    """When it was called, by `time.monotonic` as all times here."""
    rested: bool
    """Whether its actor had nothing to do before: it may have died meanwhile, and not over this work."""
    heard: float | None = None
    """When its actor answered last; None before it has started."""
    asked: Any = None
    """The pulse that is not answered yet."""


class Pool:
    """A number of actors of one class, each with one call under way at most."""

    def __init__(self, cluster: Cluster, kind: type, arguments: tuple[object, ...], say: Callable[[str], None]) -> None:
        """Actors are `kind(*arguments)`, made when there is work for them."""
        import ray

        self._arguments, self._say = (kind, arguments), say
        resources = ray.cluster_resources()
        held = cluster.gpus_per_actor
        self._gpus_each = (1.0 if resources.get("GPU") else 0.0) if held is None else held
        self.size = self._most = _workers_to_run(cluster.actors, self._gpus_each, resources)
        """Workers that run at once, as many as what is left of the cluster holds; and what it held at first."""
        self._homeless = False
        """Whether nothing that is left of the cluster has room for a worker, which was said then."""
        self._idle: list[Any] = []
        self._start_s = _START_S if cluster.address is None else math.inf
        """Elsewhere a worker may wait for others to make room."""
        held_as = type(kind.__name__, (Held,), {"pulse": ray.method(concurrency_group="pulse")(Held.pulse)})
        options = {"num_cpus": 1, "num_gpus": self._gpus_each, "max_concurrency": 1}
        self._actor = ray.remote(concurrency_groups={"pulse": 1}, **options)(held_as)
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self._vital = {"the Ray cluster's head": (host.strip("[]"), int(port))}
        for node in ray.nodes():
            if node["NodeID"] == context.get_node_id():
                self._vital["Ray on this node"] = (node["NodeManagerAddress"], node["NodeManagerPort"])
        self._mute = dict.fromkeys(self._vital, 0)

    def call(self, method: str, *arguments: object) -> Any:
        """One call on one actor, others untouched."""
        [(_, result)] = self.map(method, [arguments])
        return result

    def map(self, method: str, work: Sequence[tuple[W, ...]]) -> Iterator[tuple[tuple[W, ...], Any]]:
        """Call `method(*item)` for every item of `work`; yields (item, result) as they come.

        An actor that dies, or gives no sign of life, is replaced and its item goes back to the front of the queue.

        Raises:
            InputError: a worker found something wrong with what the user gave.
            WorkerDied: workers died over one item too often, or the cluster is gone.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        queue: deque[tuple[tuple[W, ...], int]] = deque((item, 0) for item in work)
        pending: dict[Any, _Call] = {}
        look = time.monotonic() + _LOOK_S
        try:
            while queue or pending:
                stops.check()
                while queue and len(pending) < self.size:
                    item, deaths = queue.popleft()
                    now = time.monotonic()
                    rested = bool(self._idle)
                    actor = self._idle.pop() if rested else self._actor.remote(*self._arguments)
                    call = _Call(actor, item, deaths, now, rested, now if rested else None)
                    pending[actor.call.remote(method, *item)] = call
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_S)
                self._check_cluster()
                silent: list[Any] = []
                if time.monotonic() >= look:
                    silent = [reference for reference in self._silent(pending) if reference not in ready]
                    self._fit()
                    unready = {reference: call for reference, call in pending.items() if reference not in (*ready, *silent)}
                    for reference in self._waiting(unready, len(pending), more=bool(queue)):
                        call = pending.pop(reference)
                        ray.kill(call.actor)
                        queue.append((call.item, call.deaths))
                    look = time.monotonic() + _LOOK_S
                for reference in dict.fromkeys([*ready, *silent]):
                    call = pending.pop(reference)
                    try:
                        if reference in silent:
                            ray.kill(call.actor)
                            raise RayError(f"no sign of life for {_SILENT_S:.0f} s")
                        result = ray.get(reference)
                    except RayTaskError as error:
                        raise _cause(error) from None
                    except RayError as error:  # the process, its node, its memory: all the same to the work
                        deaths = call.deaths + (not call.rested)
                        if deaths == _MAX_DEATHS:
                            why = " ".join(str(error).split())[:300]
                            raise WorkerDied(f"a worker died {_MAX_DEATHS} times over the same work: {why}") from None
                        self._say(
                            f"a worker {'hangs' if reference in silent else 'died'}; it is replaced and its work redone"
                        )
                        queue.appendleft((call.item, deaths))
                        self._fit()
                        continue
                    self._idle.append(call.actor)
                    yield call.item, result
        finally:
            for call in pending.values():
                with suppress(Exception):
                    ray.kill(call.actor)

    def _fit(self) -> None:
        """Run no more workers than the nodes that are left hold: others would wait for places that do not come back.

        Where none holds any, one waits for a node that does.
        """
        import ray

        fit = _workers_that_fit(self._gpus_each, resources := ray.cluster_resources())
        if not fit and not self._homeless:
            self._say(f"the cluster has {_has(resources)} left, which is not enough for a worker; it waits for another node")
        self.size, self._homeless = max(1, min(self._most, fit)), not fit

    def _silent(self, pending: dict[Any, _Call]) -> list[Any]:
        """Calls whose actors had started and have not answered for too long; asks all of them for a pulse."""
        import ray
        from ray.exceptions import RayError

        now, found = time.monotonic(), []
        for reference, call in pending.items():
            if call.asked is None:
                call.asked = call.actor.pulse.remote()
            elif ray.wait([call.asked], timeout=0)[0]:
                with suppress(RayError):  # a dead one fails the call itself too
                    ray.get(call.asked)
                call.heard, call.asked = now, call.actor.pulse.remote()
            elif now > (call.begun + self._start_s if call.heard is None else call.heard + _SILENT_S):
                found.append(reference)
        return found

    def _waiting(self, unready: dict[Any, _Call], called: int, *, more: bool) -> list[Any]:
        """Calls whose actors have not started and need not: there are fewer places than actors since a node was lost, or
        others have nothing to do for long.

        Args:
            unready: calls that have not come back.
            called: actors with a call, those that have come back included.
            more: whether there is further work.
        """
        unstarted = [reference for reference, call in unready.items() if call.heard is None]
        if (beyond := called + len(self._idle) - self.size) > 0:
            return unstarted[:beyond]
        long_ago = time.monotonic() - _SILENT_S
        return [] if more else [r for r in unstarted if unready[r].begun < long_ago][: len(self._idle)]

    def _check_cluster(self) -> None:
        """Raise WorkerDied where Ray itself is gone: nothing would come back, and its library would end this process.

        What takes no connections any more is gone; what takes them and says nothing, `_MUTE` times in a row, is too.
        """
        for what, (host, port) in self._vital.items():
            try:
                self._mute[what] = 0 if speaks_http2(host, port, _LOOK_S) else self._mute[what] + 1
            except ConnectionError:
                self._mute[what] = _MUTE
            except OSError:
                self._mute[what] += 1
            if self._mute[what] >= _MUTE:
                _lost.set()
                raise WorkerDied(f"{what} does not answer any more")


_lost = threading.Event()
"""Set where Ray is gone: saying farewell to it would hang."""


@contextmanager
def joined(cluster: Cluster, doing: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Join a Ray cluster, or start a local one for as long as the block runs; `doing` is told which.

    Raises:
        InputError: no cluster can be joined at the address.
        WorkerDied: Ray does not start here, or was lost.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 lets any other process distort the timings
    if cluster.address is None:
        doing("starting Ray")
        _start(cluster.actors)
    else:
        doing(f"joining the Ray cluster at {cluster.address}")
        _join(cluster.address)
    import ray
    from ray.exceptions import RayError, RayTaskError

    # Ray tells on stdout how nodes died, some of it only on its farewell.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        except RayTaskError:
            raise
        except RayError as error:
            raise WorkerDied(f"the Ray cluster failed: {' '.join(str(error).split())[:300]}") from None
        finally:
            # Ray waits for what does not answer; the process ends soon, and what it started ends with it.
            farewell = threading.Thread(target=ray.shutdown, daemon=True)
            if _lost.is_set():
                farewell.start()
                farewell.join(_LOOK_S)
                stops.hang_up()
            else:
                ray.shutdown()
            stops.rearm()


def _start(actors: int | None) -> None:
    """Start a cluster of our own.

    Ray listens on every interface of a Linux machine, whatever address it is given. What guards it is a token, which every
    cluster has anew and which lies in no file: Ray's own would be readable for others.
    """
    if "ray" not in sys.modules:  # afterwards Ray would not look at it; recent ones ask for a token all the same
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    with suppress(OSError):
        _shorten_temporary()
    import ray

    # Workers import what the driver imports, installed or not.
    own = os.pathsep.join(p for p in sys.path if p)
    # Ray hands the program to a shell as it stands, which would end it at a blank in its path.
    runtime = {"env_vars": {"PYTHONPATH": own}, "py_executable": shlex.quote(sys.executable)}
    why = ""
    for _ in range(_STARTS):
        try:
            _init(address="local", num_cpus=actors, include_dashboard=False, runtime_env=runtime)
        except InputError:
            raise
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise InputError(
                f"{error.filename or 'Ray'}: {error.strerror}; Ray keeps its sockets there, see TMPDIR"
            ) from None
        except Exception as error:  # Ray raises all kinds, a bare Exception after 30 s among them
            why = first_paragraph(error)
            ray.shutdown()
            continue
        return
    raise WorkerDied(f"Ray did not start in {_STARTS} attempts, is the machine busy? ({why})")


_TOKEN = secrets.token_hex(32)


def _shorten_temporary() -> None:
    """Give Ray a folder near the root where its sockets would have paths longer than the system takes."""
    usual = os.environ.get("RAY_TMPDIR") or os.path.join(os.environ.get("TMPDIR", "/tmp"), "ray")
    if len(os.fsencode(usual)) + _BELOW_TEMPORARY_BYTES > _SOCKET_BYTES:
        os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-", dir="/tmp")


def _join(address: str) -> None:
    """Join a cluster that others have started. Raises InputError within seconds where that cannot be."""
    _prepare_to_join(address)
    from ray.exceptions import RayError

    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        why = _NONE_HERE if address == "auto" else "the Ray cluster there cannot be joined"
        raise InputError(f"--ray-address {address}: {why} ({first_paragraph(error)})") from None


@cache
def _prepare_to_join(address: str) -> None:
    """Use the token that is given, and look whether anything can be joined. Raises InputError."""
    if "ray" not in sys.modules and ("RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # what is a token given for?
    if address != "auto":
        _check_address(address)
    _check_status(address)


def _check_address(address: str) -> None:
    """Raise InputError within seconds where no cluster can be joined: Ray itself would try for minutes, and dump."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise InputError(f"--ray-address {address}: is Ray Client's; give the head's own, host:port without ray://")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--ray-address {address}: is written host:port, as 10.0.0.1:6379, or auto for one on this machine")
    try:
        speaks = speaks_http2(host.strip("[]"), int(port), _ANSWER_S)
    except OSError as error:
        raise InputError(f"--ray-address {address}: nothing answers there ({error.strerror or error})") from None
    if not speaks:
        raise InputError(f"--ray-address {address}: what answers there is no Ray cluster")


def speaks_http2(host: str, port: int, timeout_s: float) -> bool:
    """Whether a server answers in HTTP/2, which Ray's processes speak: its first frame must be its settings (RFC 9113, 3.4).

    Raises OSError where nothing answers.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        return connection.recv(9)[3:4] == b"\x04"


def _check_status(address: str) -> None:
    """Raise InputError where a cluster does not tell its status, or wants another token, or none."""
    shown = _shows_token()
    done = _status(address)
    if done.returncode == 0:
        # A cluster without a token lets in who shows one, and then ends all his workers.
        if shown and _status(address, RAY_AUTH_MODE="disabled").returncode == 0:
            raise InputError(
                f"--ray-address {address}: the Ray cluster there has no token; leave RAY_AUTH_MODE, RAY_AUTH_TOKEN and "
                "RAY_AUTH_TOKEN_PATH unset"
            )
        return
    if "token" in done.stderr.lower():
        given = "another token than this one" if shown else "a token"
        own = "; a Ray that another command has started for itself cannot be joined" if address == "auto" else ""
        raise InputError(f"--ray-address {address}: the Ray cluster there wants {given}; {_TOKEN_OF_NODES}{own}")
    if address == "auto":
        raise InputError(f"--ray-address auto: {_NONE_HERE}")
    raise InputError(f"--ray-address {address}: what answers there is not the head of a Ray cluster (6379 unless told)")


_NONE_HERE = "no Ray cluster runs on this machine"
_TOKEN_OF_NODES = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or have ~/.ray/auth_token, as on its nodes"
)


def _shows_token() -> bool:
    """Whether Ray shows clusters a token. Raises InputError where it is to, and there is none."""
    mode, path = os.environ.get("RAY_AUTH_MODE", ""), os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if mode == "disabled":
        return False
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    if path:
        if not Path(path).is_file():
            raise InputError(f"RAY_AUTH_TOKEN_PATH {path}: is no file; name one that holds the cluster's token, or unset it")
        return True
    if mode == "token" and not (Path.home() / ".ray" / "auth_token").is_file():
        raise InputError(f"RAY_AUTH_MODE=token: there is no token here; {_TOKEN_OF_NODES}")
    return mode == "token"


def _status(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask a cluster for its status, in a process of its own that can be ended and whose complaints nobody has to read.

    Raises InputError where no answer comes.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    own = {**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "2", **environment}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=15, env=own, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"--ray-address {address}: the Ray cluster there does not answer") from None


def _init(**options: Any) -> None:
    """`ray.init`, which leaves signals to us."""
    import ray

    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except SystemExit:  # Ray's handler of SIGTERM, or of a cluster that went away meanwhile
        if stops.stopped():
            raise KeyboardInterrupt from None
        raise WorkerDied("the Ray cluster went away while it was joined") from None
    finally:
        stops.rearm()


def _workers_that_fit(gpus_each: float, resources: dict[str, float]) -> int:
    """Workers that a cluster holds."""
    fit = int(resources.get("CPU", 0))
    return min(fit, int(resources.get("GPU", 0) / gpus_each)) if gpus_each else fit


def _has(resources: dict[str, float]) -> str:
    """What a cluster's nodes have for workers, in words."""
    return f"{counted(resources.get('CPU', 0), 'CPU')} and {counted(resources.get('GPU', 0), 'GPU')}"


def _workers_to_run(wanted: int | None, gpus_each: float, resources: dict[str, float]) -> int:
    """Workers to begin with. Ray would let one more than the cluster can hold wait for ever, so that is refused here."""
    fit = _workers_that_fit(gpus_each, resources)
    if fit < (wanted or 1):
        enough = f"which is enough for {counted(fit, 'worker')}"
        raise InputError(f"--actors, --gpus-per-actor: the cluster has {_has(resources)}, {enough}")
    return wanted or fit


def _cause(error: Exception) -> BaseException:
    """What the worker raised: an InputError as itself, anything else as Ray tells it."""
    cause = getattr(error, "cause", None)
    return InputError(str(cause)) if isinstance(cause, InputError) else error
