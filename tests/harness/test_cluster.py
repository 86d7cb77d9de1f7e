"""Clusters of our own and of others: who may join them, and what is said of those that cannot be joined."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from harness.cluster import Cluster, Pool, _prepare_to_join, joined, speaks_http2
from simulator.errors import InputError
from tests.harness.processes import killed_after, wait_until

OWN = """
import os, sys
from harness.cluster import Cluster, joined
with joined(Cluster(None, 1)):
    import ray
    print(ray.get_runtime_context().gcs_address, file=sys.__stdout__, flush=True)
    sys.stdin.read()
"""
"""A cluster of our own, until nobody listens."""


def status(address: str, *prefix: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a client learns that asks a cluster for its status."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [*prefix, sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False,
        env={**kept, "RAY_NUM_REDIS_GET_RETRIES": "1", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home without a token of Ray's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def own(home: Path) -> Iterator[subprocess.Popen[str]]:
    """The process of a cluster of our own; its address is the attribute `address`."""
    yield from cluster_in(home)


@pytest.fixture(scope="module")
def without_token(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Likewise, and whoever reaches it may join."""
    yield from cluster_in(home, RAY_AUTH_MODE="disabled")


def cluster_in(home: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A cluster of our own in an environment."""
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, "HOME": str(home), **settings}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", OWN], stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        process.address = process.stdout.readline().strip()  # type: ignore[attr-defined]
        yield process


@pytest.mark.ray
def test_a_cluster_of_our_own_has_a_token_that_is_in_no_file(own: subprocess.Popen[str], home: Path) -> None:
    assert list(home.rglob("*token*")) == []
    environment = Path(f"/proc/{own.pid}/environ")
    assert environment.stat().st_mode & 0o077 == 0
    without = status(own.address, HOME=str(home))  # type: ignore[attr-defined]
    assert without.returncode != 0
    assert "InvalidAuthToken" in without.stderr
    wrong = status(own.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # type: ignore[attr-defined]
    assert wrong.returncode != 0
    assert "InvalidAuthToken" in wrong.stderr


def ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, str]]:
    """(a network namespace, this machine's address seen from it)."""
    name = f"specyard{os.getpid()}"
    inner, outer = f"si{os.getpid()}", f"so{os.getpid()}"
    made = (
        ip("netns", "add", name)
        and ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        and ip("link", "set", inner, "netns", name)
        and ip("addr", "add", "10.213.77.1/24", "dev", outer)
        and ip("link", "set", outer, "up")
        and ip("-n", name, "addr", "add", "10.213.77.2/24", "dev", inner)
        and ip("-n", name, "link", "set", inner, "up")
    )
    try:
        if not made:
            pytest.skip("network namespaces cannot be made here")
        yield name, "10.213.77.1"
    finally:
        ip("link", "del", outer)
        ip("netns", "del", name)


@pytest.mark.ray
def test_a_temporary_folder_that_is_no_place_is_told() -> None:
    """Trying again would change nothing."""
    code = "from harness.cluster import Cluster, joined\nwith joined(Cluster(None, 1)): pass"
    kept = {key: value for key, value in os.environ.items() if key != "RAY_TMPDIR"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**kept, "TMPDIR": "/proc"})
    assert "InputError: /proc/ray: " in ended.stderr
    assert "TMPDIR" in ended.stderr


@pytest.mark.ray
def test_another_machine_without_the_token_gets_nothing(
    own: subprocess.Popen[str], elsewhere: tuple[str, str], home: Path
) -> None:
    """Ray listens on every interface of a Linux machine; the token is what keeps others out."""
    name, host = elsewhere
    port = own.address.rpartition(":")[2]  # type: ignore[attr-defined]
    without = status(f"{host}:{port}", "ip", "netns", "exec", name, HOME=str(home))
    assert without.returncode != 0
    assert without.stdout == ""
    assert "InvalidAuthToken" in without.stderr


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nonsense", "is written host:port"),
        ("10.0.0.1:port", "is written host:port"),
        ("127.0.0.1:99999", "is written host:port"),
        ("127.0.0.1:1", "nothing answers there"),
        ("no.host.invalid:6379", "nothing answers there"),
    ],
)
def test_an_address_of_nobody_is_told_at_once(address: str, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=f"--ray-address {address}: {sentence}"):
        Cluster(address).check()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"SSH-2.0-OpenSSH"])
def test_another_server_is_no_cluster(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(64)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(InputError, match="what answers there is no Ray cluster"):
            Cluster(f"127.0.0.1:{port}").check()


@pytest.mark.ray
def test_a_cluster_that_wants_a_token_is_said_to(own: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = own.address.rpartition(":")  # type: ignore[attr-defined]
    assert speaks_http2(host, int(port), 5)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="wants a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"):
        Cluster(f"127.0.0.1:{port}").check()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(InputError, match="wants another token than this one"):
        Cluster(f"localhost:{port}").check()


@pytest.mark.ray
def test_a_cluster_that_is_found_here_is_said_to_want_a_token(
    own: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise, where `auto` finds it."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", own.address)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="--ray-address auto: the Ray cluster there wants a token; set RAY_AUTH_MODE=token"):
        Cluster("auto").check()


def test_where_none_is_found_here_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    none = subprocess.CompletedProcess([], 1, "", "ConnectionError: Could not find any running Ray instance.")
    monkeypatch.setattr("harness.cluster._status", lambda *_, **__: none)
    _prepare_to_join.cache_clear()
    with pytest.raises(InputError, match="--ray-address auto: no Ray cluster runs on this machine"):
        Cluster("auto").check()


@pytest.mark.ray
def test_a_cluster_without_a_token_is_said_to_have_none(
    without_token: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = without_token.address.rpartition(":")[2]  # type: ignore[attr-defined]
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    Cluster(f"127.0.0.1:{port}").check()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(InputError, match="the Ray cluster there has no token"):
        Cluster(f"localhost:{port}").check()


@pytest.mark.ray
def test_a_token_that_is_not_there_is_said(
    own: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{own.address.rpartition(':')[2]}"  # type: ignore[attr-defined]
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="none: is no file; name one that holds the cluster's token"):
        Cluster(address).check()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="RAY_AUTH_MODE=token: there is no token here"):
        Cluster(address).check()
    with pytest.raises(InputError, match="is Ray Client's"):
        Cluster(f"ray://{address}").check()


class Slow:
    """A worker that says where it runs, and takes its time."""

    def work(self, number: int, seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        return number, os.getpid()


FROZEN = """
import os, signal, sys, time
from harness.cluster import Cluster, Pool, joined
from tests.harness.test_cluster import Slow
said = []
with joined(Cluster(None, 2)):
    pool = Pool(Cluster(None, 2), Slow, (), said.append)
    [first] = {pid for _, (_, pid) in pool.map("work", [(0, 0.1)])}
    os.kill(first, signal.SIGSTOP)
    work = [(number, 0.2) for number in range(8)] + [(8, 8.0)]  # the last one is under way while looks are had
    found = sorted(number for _, (number, _) in pool.map("work", work))
print(found == list(range(9)), said)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_frozen_worker_is_replaced_and_finished_ones_are_left_alone() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout == "True ['a worker hangs; it is replaced and its work redone']\n", done.stderr
    assert time.monotonic() - began < 90


NODES = """
import sys
from harness.cluster import Cluster, Pool, joined
from tests.harness.test_cluster import Slow
said = []
def say(text):
    said.append(text)
    print(text, file=sys.stderr, flush=True)
with joined(Cluster(sys.argv[1])):
    pool = Pool(Cluster(sys.argv[1]), Slow, (), say)
    had = pool.size
    found = []
    for _, (number, _) in pool.map("work", [(number, 4.0) for number in range(4)]):
        found.append(number)
        if len(found) == 1:
            print("kill", file=sys.stderr, flush=True)
            sys.stdin.readline()
print(had, pool.size, sorted(found) == list(range(4)), said)
"""


class Nodes:
    """A cluster of others, without a token: nodes on this machine with a CPU each, and whoever works there."""

    def __init__(self) -> None:
        self.environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        self.processes: list[subprocess.Popen[str]] = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"127.0.0.1:{server.getsockname()[1]}"
        folder = f"/tmp/ray-nodes-{os.getpid()}-{secrets.token_hex(3)}"
        port = self.address.rpartition(":")[2]
        self.start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", cpus=1)

    def start(self, *options: str, cpus: int) -> subprocess.Popen[str]:
        """A node, once it has joined: there are so many CPUs then."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block"]
        to = [] if "--head" in options else [f"--address={self.address}"]
        node = subprocess.Popen(
            [*command, "--node-ip-address=127.0.0.1", *to, *options], text=True, env=self.environment,
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(node)
        wait_until(lambda: f"{cpus}.0 CPU" in status(self.address, RAY_AUTH_MODE="disabled").stdout)
        return node

    def worked_on(self) -> subprocess.Popen[str]:
        """A driver of four pieces of work, the first of which is done; it goes on when it reads a line."""
        driver = subprocess.Popen(
            [sys.executable, "-c", NODES, self.address], env=self.environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(driver)
        assert driver.stderr is not None
        with killed_after(120, driver):
            assert driver.stderr.readline() == "kill\n"
        return driver

    def close(self) -> None:
        """Nothing of it is left."""
        for process in reversed(self.processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.ray
def test_workers_that_died_while_idle_are_no_deaths_of_the_next_work() -> None:
    """As many as a piece of work may outlive: it never ran on any of them."""
    said: list[str] = []
    with joined(Cluster(None, 4)):
        pool = Pool(Cluster(None, 4), Where, (), said.append)
        found = {process for _, process in pool.map("work", [(1.0,)] * 4)}
        for process in found:
            os.kill(process, signal.SIGKILL)
        assert [process not in found for _, process in pool.map("work", [(0.0,)])] == [True]
    assert len(found) == 4
    assert said == ["a worker died; it is replaced and its work redone"] * 4


class Where:
    """Says in which process it is."""

    def work(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """One node, the head, and what is started beside it."""
    with closing(Nodes()) as found:
        yield found


def lose(node: subprocess.Popen[str]) -> None:
    """Kill a node's raylet: what watches it tells everybody its last lines."""
    found = subprocess.run(["pgrep", "-P", str(node.pid), "raylet"], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout), signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.slow
def test_where_a_node_is_lost_the_others_do_its_work_at_once(nodes: Nodes) -> None:
    """Nobody waits for its places, and what Ray tells of how it died is on neither stream."""
    other = nodes.start(cpus=2)
    driver = nodes.worked_on()
    lose(other)
    began = time.monotonic()
    out, err = driver.communicate("\n", timeout=120)
    assert out == "2 1 True ['a worker died; it is replaced and its work redone']\n", (out, err)
    assert "aylet" not in err
    assert time.monotonic() - began < 28


@pytest.mark.ray
@pytest.mark.slow
def test_where_the_last_node_with_a_gpu_is_lost_it_is_said_and_another_one_goes_on(nodes: Nodes) -> None:
    """Ray would wait for one without a word."""
    other = nodes.start("--num-gpus=1", cpus=2)
    driver = nodes.worked_on()
    lose(other)
    assert driver.stdin is not None
    assert driver.stderr is not None
    driver.stdin.write("\n")
    driver.stdin.flush()
    said = "the cluster has 1 CPU and 0 GPUs left, which is not enough for a worker; it waits for another node"
    died = "a worker died; it is replaced and its work redone"  # once, or again where it was to start on the dying node
    with killed_after(60, driver):
        while (line := driver.stderr.readline()) == f"{died}\n":
            pass
    assert line == f"{said}\n"
    nodes.start("--num-gpus=1", cpus=2)
    out, err = driver.communicate(timeout=120)
    assert out.startswith("1 1 True "), (out, err)
    assert out.count(said) == 1


def test_what_ray_tells_on_its_farewell_is_not_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray gathers what several nodes told alike and prints it when it is shut down, before the result of a command."""
    monkeypatch.setattr("harness.cluster._start", lambda actors: None)
    monkeypatch.setattr("ray.shutdown", lambda: print("(raylet) The node has been marked dead"))
    with joined(Cluster()):
        pass
    assert capsys.readouterr().out == ""
