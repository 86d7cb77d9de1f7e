"""SGLang's `/server_info` with `SGLANG_DSPARK_DEBUG_DUMP`: every step, what was drafted, verified and accepted in it, with
confidences and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import Drafts, Interval, Observation, ServedRequest, Settings, TimedStep
from harness.served.sources.sglang_info import capacity_of, states_of
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted


class SglangDspark:
    """See the module. `verify_len` and `acc_len` hold the anchor, and the bonus token; Specyard's counts do not."""

    name: ClassVar[str] = "SGLang's dspark_info_record"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Records of steps with γ beside them, in what the server says of itself or alone."""
        return any(True for document in text.documents() for _ in _dumps(document))

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All steps of all dumps, each once: ranks that share a model write the same, and so do dumps that overlap."""
        gammas, model, modes, capacity = set[int](), "", set[str](), None
        steps: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for text in texts:
            for document in text.documents():
                model = str(document.get("served_model_name") or document.get("model_path") or model)
                capacity = capacity_of(document) or capacity
                for dump in _dumps(document):
                    gammas.add(_whole(text, dump.get("gamma"), "gamma"))
                    modes.add(str(dump.get("mode") or ""))
                    for i, record in enumerate(dump["records"]):
                        if isinstance(record, dict):
                            steps.setdefault(_step(text, i, record), record)
        if len(gammas) != 1:
            raise InputError(
                f"{texts[0].name}: dumps of γ = {', '.join(map(str, sorted(gammas)))}: give those of one server"
            )
        [gamma] = gammas
        try:
            return [_observation(texts, list(steps.values()), gamma, model, modes, capacity)]
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{texts[0].name}: dspark_info_record: {error}") from None


def _step(text: Text, number: int, record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a step from others: its number and its requests, whose names no other server has."""
    rids = tuple(str(one.get("rid")) for one in record.get("reqs") or () if isinstance(one, dict) and one.get("rid"))
    return (int(record.get("forward_ct", number)), *(rids or (text.name,)))


def _dumps(document: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, dict):
        return
    if isinstance(document.get("records"), list) and "gamma" in document:
        yield document
    for holder in (document, *states_of(document)):
        own = holder.get("dspark_info_record")
        if isinstance(own, dict) and isinstance(own.get("records"), list):
            yield own


def _timed(step: Mapping[str, Any], own: Sequence[tuple[int, int, Sequence[float] | None]]) -> list[TimedStep]:
    """The step, where its parts were timed."""
    whole, draft, verify = (step.get(name) for name in ("step_gpu_ms", "draft_gpu_ms", "target_verify_gpu_ms"))
    if not whole or not draft or not verify or not draft + verify <= 1.01 * whole:
        return []
    tokens = step.get("num_verify_tokens")
    tokens = tokens if isinstance(tokens, int) and tokens >= len(own) else sum(1 + verified for _, verified, _ in own)
    return [TimedStep(len(own), tokens, whole / 1e3, draft / 1e3, verify / 1e3)]


def _whole(text: Text, value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise InputError(f"{text.name}: dspark_info_record: {name} must be a whole number from 1 to 64, got {value!r}")
    return value


def _observation(
    texts: Sequence[Text], steps: Sequence[Mapping[str, Any]], gamma: int, model: str, modes: set[str], capacity: int | None
) -> Observation:
    rounds: dict[str, list[tuple[int, int, Sequence[float] | None]]] = {}
    intervals, timed = list[Interval](), list[TimedStep]()
    for step in steps:
        own = [_round(one, gamma) for one in step.get("reqs") or ()]
        for one, told in zip(step.get("reqs") or (), own, strict=True):
            rounds.setdefault(str(one.get("rid") or one.get("req_pool_index")), []).append(told)
        if (interval := _interval(step, own, gamma)) is not None:
            intervals.append(interval)
            timed += _timed(step, own)
    if not any(rounds.values()):
        raise ValueError("no record holds reqs: set SGLANG_DSPARK_DEBUG_DUMP to all")
    every = [one for own in rounds.values() for one in own]
    trimmed = sum(verified < gamma for _, verified, _ in every)
    notes = ["verify_len and acc_len hold the anchor and the bonus token: 1 less is what was drafted and accepted"]
    if trimmed:
        notes.append(
            f"{counted(trimmed, 'draft')} of {len(every):,} verified less than γ = {gamma}: acceptance of late positions is "
            "of those that were verified, which were likelier to be accepted: it is too high"
        )
    return Observation(
        source=SglangDspark.name, files=tuple(text.name for text in texts),
        settings=Settings(
            engine="SGLang", model=model, method="DSPARK", gamma=gamma, speculates=True,
            adaptive=bool(trimmed) or "compact" in modes,
        ),
        drafts=_drafts(every, gamma), requests=None, request_steps=len(every), engine_steps=len(steps),
        told_apart=tuple(_request(own, gamma) for own in rounds.values()), intervals=tuple(intervals), steps=tuple(timed),
        context_capacity=capacity, notes=tuple(notes),
    )  # fmt: skip


def _round(one: Mapping[str, Any], gamma: int) -> tuple[int, int, Sequence[float] | None]:
    """(accepted, verified, confidences) of a request's step, before it was capped where the engine caps after verifying."""
    verified, accepted = int(one["verify_len"]) - 1, int(one["acc_len"]) - 1
    if cap := int(one.get("cap_trim") or 0):
        verified, accepted = gamma, accepted + cap
    if not 0 <= verified <= gamma or not 0 <= accepted <= verified:
        raise ValueError(f"a request verified {verified} tokens of {gamma} and accepted {accepted}")
    return accepted, verified, one.get("confidence")


def _interval(
    step: Mapping[str, Any], own: Sequence[tuple[int, int, Sequence[float] | None]], gamma: int
) -> Interval | None:
    """A step, where it was timed. A server that does not wait for its GPU takes as long as that does."""
    ms = step.get("step_gpu_ms") or step.get("step_cpu_ms")
    running = step.get("bs") if (step.get("bs") or -1) > 0 else step.get("num_running_reqs")
    if not ms or not running or running < 1 or not own:
        return None
    seconds = float(ms) / 1e3
    return Interval(
        seconds=seconds, running=float(running), steady=True, generated_tok_s=sum(1 + a for a, *_ in own) / seconds,
        drafts=_drafts(own, gamma), step_s=seconds,
    )  # fmt: skip


def _drafts(rounds: Sequence[tuple[int, int, Sequence[float] | None]], gamma: int) -> Drafts:
    """Kaplan and Meier's estimate by position: accepted among those that got so far and were verified there."""
    some = [(a, v) for a, v, _ in rounds if v > 0]
    shares, survival = [], 1.0
    for k in range(1, gamma + 1):
        tried = sum(a >= k - 1 and v >= k for a, v in some)
        survival *= sum(a >= k for a, _ in some) / tried if tried else 0.0
        shares.append(survival)
    return Drafts(
        drafts=len(some), drafted=sum(v for _, v in some), accepted=sum(a for a, _ in some),
        accepted_at=tuple(share * len(some) for share in shares), trimmed=any(v < gamma for _, v in some),
    )  # fmt: skip


def _request(own: Sequence[tuple[int, int, Sequence[float] | None]], gamma: int) -> ServedRequest:
    tokens = sum(a + 1 for a, *_ in own) + 1
    confidences = tuple(tuple(map(float, c)) for _, v, c in own if c is not None and v > 0)
    whole = len(confidences) == sum(v > 0 for _, v, _ in own) and all(len(c) == gamma for c in confidences)
    return ServedRequest(
        output_tokens=tokens, drafts=_drafts(own, gamma), rounds=tuple(a for a, v, _ in own if v > 0),
        verified=tuple(v for _, v, _ in own if v > 0), confidences=confidences if whole else (),
    )  # fmt: skip
