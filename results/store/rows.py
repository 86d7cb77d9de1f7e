"""Rows of the database: Arrow tables, in which workers hand over what they recorded, and profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.errors import InputError
from simulator.hardware.profile import Profile, dump_profile, parse_profile
from simulator.load import Load
from simulator.plan import StudyPlan, SweepPlan
from simulator.policies import Fixed, PolicyKind, PolicySpec, take_up
from simulator.records import NO_RECORDING, Anchors, Recording, Response, Round
from simulator.replay import replay
from simulator.serving.engines import engine_of, name_of
from simulator.sla import Sla

PlanT = TypeVar("PlanT", bound=msgspec.Struct)
GoneOnWith = TypeVar("GoneOnWith", SweepPlan, StudyPlan)

_FLOATS = pa.list_(pa.float32())
_KEY = [("drafter", pa.string()), ("gamma", pa.uint8()), ("drafting", pa.string())]
RESPONSE_COLUMNS = pa.schema([
    *_KEY, ("task", pa.string()), ("domain", pa.string()), ("prompt_id", pa.string()), ("turn", pa.uint8()),
    ("prompt_tokens", pa.uint32()), ("output_tokens", pa.uint32()), ("finish", pa.string()),
    ("token_ids", pa.list_(pa.uint32())), ("text", pa.string()), ("beyond", pa.list_(pa.uint32())),
])  # fmt: skip
_ROUND_COLUMNS = pa.schema([
    *_KEY, ("prompt_id", pa.string()), ("turn", pa.uint8()), ("round", pa.uint16()), ("drafted", pa.uint8()),
    ("verified", pa.uint8()), ("accepted", pa.uint8()), ("committed", pa.uint8()),
    ("confidence", _FLOATS), ("running", pa.uint16()), ("draft_s", pa.float32()), ("verify_s", pa.float32()),
])  # fmt: skip
_RECORDING_COLUMNS = pa.schema([*_KEY, ("prompt_id", pa.string()), ("turn", pa.uint8()), ("anchors", pa.uint32())])
_READING_COLUMNS = pa.schema([
    ("prompt_id", pa.string()), ("turn", pa.uint8()), ("tokens", pa.uint32()), ("outside", pa.uint32()),
    ("surprise", pa.float64()), ("variance", pa.float64()),
])  # fmt: skip
TARGET: Final = NO_RECORDING.drafted_by("either")
"""What the target's own responses are kept as."""


def key_columns(recording: Recording) -> dict[str, Any]:
    """A recording's key as all tables have it."""
    return {"drafter": recording.drafter, "gamma": recording.gamma, "drafting": recording.drafting}


def response_tables(recording: Recording, responses: Sequence[Response]) -> dict[str, pa.Table]:
    """The rows of `responses` and `rounds` as Arrow tables, ready to be sent and inserted."""
    rows = [
        {
            **key_columns(recording), "task": r.task, "domain": r.domain,
            "prompt_id": r.prompt_id, "turn": r.turn, "prompt_tokens": r.prompt_tokens,
            "output_tokens": len(r.token_ids), "finish": r.finish, "token_ids": list(r.token_ids), "text": r.text,
            "beyond": list(r.beyond),
        }
        for r in responses
    ]  # fmt: skip
    rounds = [round_table(recording, r.prompt_id, r.turn, r.rounds) for r in responses]
    return {"responses": pa.Table.from_pylist(rows, RESPONSE_COLUMNS), "rounds": pa.concat_tables(rounds)}


def round_table(recording: Recording, prompt_id: str, turn: int, rounds: Sequence[Round]) -> pa.Table:
    """Rows of `rounds` for one response."""
    rows = [
        {
            **key_columns(recording), "prompt_id": prompt_id, "turn": turn, "round": i,
            "drafted": x.drafted, "verified": x.verified, "accepted": x.accepted, "committed": x.committed,
            "confidence": list(x.confidence), "running": x.running, "draft_s": x.draft_s, "verify_s": x.verify_s,
        }
        for i, x in enumerate(rounds)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, _ROUND_COLUMNS)


def anchor_table(recording: Recording, prompt_id: str, turn: int, anchors: Anchors) -> pa.Table:
    """Rows of `anchors` for one response."""
    count = len(anchors)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * anchors.gamma)

    def lists(values: npt.NDArray[np.float32] | None) -> pa.Array:
        if values is None:
            return pa.nulls(count, _FLOATS)
        return pa.ListArray.from_arrays(
            offsets, pa.array(np.ascontiguousarray(values, np.float32).ravel(), from_pandas=True)
        )

    key = key_columns(recording)
    columns = {
        **{name: pa.repeat(pa.scalar(value, kind), count) for (name, kind), value in zip(_KEY, key.values(), strict=True)},
        "prompt_id": pa.array([prompt_id] * count, pa.string()),
        "turn": pa.array(np.full(count, turn, np.uint8)),
        "anchor": pa.array(np.arange(1, count + 1, dtype=np.uint32)),
        "drafted": pa.array(anchors.drafted, pa.uint8()),
        "accepted": pa.array(anchors.accepted, pa.uint8()),
        "accept_prob": lists(anchors.accept_prob),
        "confidence": lists(anchors.confidence),
        "fresh_confidence": lists(anchors.fresh_confidence),
        "certainty": lists(anchors.certainty),
        "outside": lists(anchors.outside),
    }
    return pa.table(columns)


def dense_tables(recording: Recording, dense: Iterable[tuple[str, int, Anchors]]) -> dict[str, pa.Table]:
    """All rows of a dense recording, from (prompt id, turn, anchors) of each of one or more responses.

    Rows of `recordings` and `anchors`, and those of `rounds` that verifying every draft whole comes to.
    """
    every, policy = list(dense), Fixed(recording.gamma)
    rounds = (round_table(recording, p, t, replay(anchors, policy)) for p, t, anchors in every)
    return {
        "recordings": recordings(recording, [(p, t, len(anchors)) for p, t, anchors in every]),
        "anchors": pa.concat_tables(anchor_table(recording, p, t, anchors) for p, t, anchors in every),
        "rounds": pa.concat_tables(rounds),
    }


def recordings(recording: Recording, recorded: Sequence[tuple[str, int, int]]) -> pa.Table:
    """Rows of `recordings` from (prompt id, turn, anchors) of each response."""
    rows = [
        {**key_columns(recording), "prompt_id": prompt_id, "turn": turn, "anchors": anchors}
        for prompt_id, turn, anchors in recorded
    ]
    return pa.Table.from_pylist(rows, _RECORDING_COLUMNS)


def readings(responses: Sequence[Response], made: Sequence[tuple[int, float, float]]) -> pa.Table:
    """Rows of `readings`: of each response, how many tokens the target cannot say, how surprising the others are, and the
    variance of that."""
    rows = [
        {"prompt_id": r.prompt_id, "turn": r.turn, "tokens": len(r.token_ids) - 1, "outside": outside, "surprise": surprise,
         "variance": variance}
        for r, (outside, surprise, variance) in zip(responses, made, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, _READING_COLUMNS)


def matrix(table: pa.Table, name: str, gamma: int) -> npt.NDArray[np.float32] | None:
    """A list column as [A, γ]; None where it was not recorded."""
    column = table[name].combine_chunks()
    if column.null_count:
        return None
    values: npt.NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, gamma)
    return values


def profile_row(profile: Profile) -> dict[str, Any]:
    """The row of `profiles`."""
    names = ("name", "device", "model", "source", "gpus")
    return {"profile_hash": profile.digest, **{n: getattr(profile, n) for n in names}, "profile": dump_profile(profile)}


def plan_row(plan: msgspec.Struct) -> dict[str, Any]:
    """A plan as the database keeps it: policies, loads, bounds and engines as users write them, profiles as their JSON."""
    values = (getattr(plan, name) for name in plan.__struct_fields__)
    fields = zip(plan.__struct_encode_fields__, values, strict=True)  # some have other names in the database
    return {name: name_of(value) if name == "engine" else _kept(value) for name, value in fields}


def read_plan(row: Mapping[str, Any], kind: type[PlanT]) -> PlanT:
    """A plan that `plan_row` wrote, its values parsed again. Raises InputError for one that another version has stored."""
    try:
        return msgspec.convert({name: _read(name, value) for name, value in row.items()}, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"a stored plan cannot be read: {error}; another version of Specyard made it") from None


def plan_to_go_on_with(row: Mapping[str, Any], kind: type[GoneOnWith]) -> GoneOnWith:
    """The same, once the files of users' own policies are taken up, which must be as they were. Raises InputError."""
    for policy in read_plan(row, kind).policies or ():
        own = policy.own if isinstance(policy, PolicyKind) else policy
        if own is not None and own.own is not None:
            take_up(own.name)
    return read_plan(row, kind)


_READERS: dict[str, Callable[[str], Any]] = {
    "profile": parse_profile, "believed": parse_profile, "others": parse_profile, "loads": Load.parse,
    "policies": PolicySpec.parse,
    "against": PolicySpec.parse, "kinds": PolicyKind.parse, "slas": Sla.parse, "engine": engine_of,
}  # fmt: skip
"""The fields of plans that are values, and how their text is read."""


def _kept(value: Any) -> Any:
    if isinstance(value, Profile):
        return dump_profile(value)
    if isinstance(value, list):
        return [_kept(v) for v in value]
    return str(value) if isinstance(value, PolicySpec | PolicyKind | Load | Sla) else value


def _read(name: str, value: Any) -> Any:
    if name not in _READERS or value is None:
        return value
    return [_READERS[name](v) for v in value] if isinstance(value, list) else _READERS[name](value)
