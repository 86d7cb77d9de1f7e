"""What is worth a remark in a file of measurements: lines for people that name another machine, and rows that cannot be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from harness.hardware.measured import MeasuredPoint
from simulator.hardware.catalogue import devices
from simulator.hardware.profile import Profile
from simulator.numbers import counted, four_digits
from simulator.policies import NO_DRAFTER

_MODEL: Final = re.compile(r"\bmodel\s*[:=]\s*([^\s,;()]+)", re.IGNORECASE)
_FALLEN: Final = 0.9
"""What is left of throughput with fewer users, from which on it is no noise."""
_NUMBERS: Final = {"one": 1, "two": 2, "four": 4, "eight": 8}


def others(lines: Sequence[str], profile: Profile) -> list[str]:
    """What lines name that a profile is not of: another device, number of GPUs or model, in words."""
    named, found = _devices("\n".join(lines)), list[str]()
    stems, own = {name.lower() for _, name in named}, {name.lower() for _, name in _devices(profile.device)}
    counts = sorted({count for count, _ in named if count is not None})
    if own and stems and not own & stems:
        written = ", ".join(dict.fromkeys(name for _, name in named))
        found.append(f"{written}, and {profile.name} is of {profile.device}")
    elif counts and profile.gpus not in counts:
        many = " or ".join(counted(count, "GPU") for count in counts)
        found.append(f"{many}, and {profile.name} has {counted(profile.gpus, 'GPU')}: --gpus says how many")
    models = dict.fromkeys(match[1].removesuffix(".config.json") for line in lines for match in _MODEL.finditer(line))
    if models and not any(_alike(one, profile.model) for one in models):
        found.append(f"{', '.join(models)}, and {profile.name} is of {profile.model}")
    return found


def falling(points: Sequence[MeasuredPoint]) -> list[str]:
    """Given rows without speculation that have clearly fewer tokens a second than one with fewer users: a server does not
    get slower in all by serving more, unless some wait for room, or the measurement ended before it had begun."""
    found, most = list[str](), dict[object, tuple[float, MeasuredPoint]]()
    plain = [one for one in points if one.given and one.policy == NO_DRAFTER and one.load.users is not None]
    for point in sorted(plain, key=lambda one: one.load.users or 0):
        value = point.values.get("output_tok_s", point.values.get("output_tok_s_per_gpu"))
        if value is None:
            continue
        key = (point.prompt_tokens, point.output_tokens, "output_tok_s" in point.values)
        before = most.setdefault(key, (value, point))
        if value < _FALLEN * before[0]:
            found.append(
                f"line {point.line}: {four_digits(value)} tokens/s at {point.load.label} are fewer than "
                f"{four_digits(before[0])} at {before[1].load.label} (line {before[1].line}): was it measured long enough?"
            )
        elif value > before[0]:
            most[key] = (value, point)
    return found


def _devices(text: str) -> list[tuple[int | None, str]]:
    """(how many, the first part of its name as it is written) of every device that a text names, as `2 x H200` or `H100`;
    None where nobody says how many."""
    stems = "|".join(sorted({name.split("-")[0] for name in devices()}, key=len, reverse=True))
    many = rf"(?:(\d{{1,4}})\s*[x×*]\s*|\b({'|'.join(_NUMBERS)})\s+)?(?:nvidia\s+|amd\s+instinct\s+)?"
    found = re.finditer(rf"{many}(?<![\w.-])({stems})(?!\w)", text, re.IGNORECASE)
    return [(int(m[1]) if m[1] else _NUMBERS.get((m[2] or "").lower()), m[3]) for m in found]


def _alike(one: str, other: str) -> bool:
    """Whether two names of models are of one, a hub's owner and signs aside, or a part of each other."""
    first, second = (re.sub(r"[^a-z0-9]", "", name.lower().rsplit("/", 1)[-1]) for name in (one, other))
    return first in second or second in first
