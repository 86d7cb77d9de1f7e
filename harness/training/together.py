"""Training by several processes or GPUs: Ray Train starts them and joins them for torch's DistributedDataParallel."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from drafters.training.loop import Processes, Watch
from harness.cluster import Cluster, joined
from harness.console import Watcher, WorkerDied
from harness.training.material import precision, prepare
from harness.training.plan import Given, TrainingPlan
from harness.training.run import Finished, fit, told
from simulator.errors import InputError, first_paragraph

_POLL_S = 1.0
_PATIENCE_S = 6 * 3600
"""Seconds that processes wait for one another: the first fills the cache meanwhile."""


def train_together(plan: TrainingPlan, given: Given, folder: Path, to: Path, cluster: Cluster, watcher: Watcher) -> Finished:
    """Train in `plan.processes` processes, a GPU each where there are any. On several machines `folder` must be shared.

    Raises InputError for what one of them finds wrong, and WorkerDied where one is lost; what was kept last is there then.
    """
    with joined(cluster, watcher.doing):
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.util.queue import Queue

        told_here = Queue(actor_options={"num_cpus": 0})
        config = {
            "plan": msgspec.json.encode(plan), "given": msgspec.json.encode(given), "folder": str(folder.absolute()),
            "to": str(to.absolute()), "queue": told_here,
        }  # fmt: skip
        gpus = bool(ray.cluster_resources().get("GPU")) and plan.pair.device != "cpu"
        trainer = TorchTrainer(
            _process, train_loop_config=config, torch_config=TorchConfig(timeout_s=_PATIENCE_S),
            scaling_config=ScalingConfig(num_workers=plan.processes, use_gpu=gpus),
            run_config=RunConfig(name="processes", storage_path=str(folder.absolute() / "ray")),
        )  # fmt: skip
        watcher.doing("starting processes")
        failed: list[Exception] = []
        running = threading.Thread(target=_run, args=(trainer, failed), daemon=True, name="ray train")
        running.start()
        finished = _listened(plan, told_here, running, watcher)
        running.join()
        if failed:
            raise _cause(failed[0])
        if finished is None:
            raise WorkerDied("the processes ended, and none said what came out")
        return finished


def _run(trainer: Any, failed: list[Exception]) -> None:
    """Run Ray Train outside of the main thread, where signals stay ours."""
    try:
        trainer.fit()
    except Exception as error:  # told to the main thread
        failed.append(error)


def _listened(plan: TrainingPlan, queue: Any, running: threading.Thread, watcher: Watcher) -> Finished | None:
    """Pass on what the first process tells, until all have ended; what came out."""
    from ray.util.queue import Empty

    finished: Finished | None = None
    while True:
        try:
            what, value = queue.get(timeout=_POLL_S)
        except Empty:
            if not running.is_alive():
                return finished
            continue
        match what:
            case "say":
                watcher.say(value)
            case "advance":
                watcher.advance(*value)
            case "kept":
                watcher.began(f"training {plan.name}", plan.name)
            case "finished":
                finished = value


def _process(config: dict[str, Any]) -> None:
    """One process of several: prepares what the others prepare, and takes its share of every step."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    plan = msgspec.json.decode(config["plan"], type=TrainingPlan)
    given = msgspec.json.decode(config["given"], type=Given)
    context, folder = get_context(), Path(config["folder"])
    processes = Processes(context.get_world_rank(), context.get_world_size())
    first = processes.rank == 0
    if get_device().type == "cuda":  # every process sees all GPUs
        torch.cuda.set_device(get_device())

    def tell(what: str, value: Any) -> None:
        if first:
            config["queue"].put((what, value))

    if first and plan.shard:
        precision(plan, folder, lambda text: tell("say", text))
    elif first:
        prepared = _prepared(plan, given, folder, tell, fills=True, evaluates=True)
    torch.distributed.barrier()  # the precision is chosen, and the cache filled: of a shared target there is none
    if plan.shard or not first:
        prepared = _prepared(plan, given, folder, tell, fills=False, evaluates=first)
    watch = Watch(
        lambda done, total: tell("advance", ("training", done, total)), lambda e: tell("say", told(e)),
        lambda: tell("kept", None),
    )  # fmt: skip
    tell("finished", fit(plan, prepared, folder, Path(config["to"]), watch, processes))


def _prepared(plan: TrainingPlan, given: Given, folder: Path, tell: Any, *, fills: bool, evaluates: bool) -> Any:
    say, advance = lambda text: tell("say", text), lambda *stage: tell("advance", stage)
    return prepare(plan, given, folder, say, advance, fills=fills, evaluates=evaluates)


def _cause(error: Exception) -> Exception:
    """What a process raised: an InputError as itself, anything else as a loss of workers."""
    failures = getattr(error, "worker_failures", {}).values()
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, InputError):
            return InputError(str(cause))
        if "InputError" in type(cause).__name__:
            return InputError(str(cause).strip().splitlines()[-1].removeprefix("simulator.errors.InputError: "))
    why = first_paragraph(next(iter(failures), error))
    return WorkerDied(f"training stopped, since a process of it failed: {why}")
