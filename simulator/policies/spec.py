"""Policies as users write them: parsed once, printed back, and bound to what a step costs where they are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from simulator.errors import InputError
from simulator.hardware.cost import StepCost
from simulator.numbers import real, whole
from simulator.policies.batch_adaptive import BatchAdaptive
from simulator.policies.contract import Policy
from simulator.policies.fixed import Fixed
from simulator.policies.k_by_batch import KByBatch
from simulator.policies.lagged_scheduler import LaggedScheduler, VllmAdaptive
from simulator.policies.oracle import Oracle
from simulator.policies.own import OwnPolicy, is_own, known, name_and_parameter, named
from simulator.policies.prefix_scheduler import PrefixScheduler
from simulator.policies.threshold import Threshold


@dataclass(frozen=True, slots=True)
class _Form:
    """How policies of one name are written and made."""

    usage: str
    policy: type[Policy]
    arguments: Callable[[str], tuple[Any, ...]] = lambda _: ()
    """From the parameter's text to the class's arguments, after the cost where it needs one. Raises ValueError."""
    spelling: Callable[..., str] | None = None
    """From the arguments to the one way in which the policy is written; None without a parameter."""


def _rows(table: KByBatch) -> tuple[tuple[tuple[int, int], ...]]:
    return (table.joined.rows,)


_FORMS: dict[str, _Form] = {
    "fixed": _Form("fixed:K", Fixed, lambda k: (Fixed(whole(k)).k,), Fixed.spelling),
    "threshold": _Form("threshold:C", Threshold, lambda c: (Threshold(real(c)).least,), Threshold.spelling),
    "k_by_batch": _Form(
        "k_by_batch:REQUESTS=K/REQUESTS=K…", KByBatch, lambda rows: _rows(KByBatch.parse(rows)), KByBatch.spelling
    ),
    "cutoff": _Form(
        "cutoff:REQUESTS", KByBatch, lambda requests: _rows(KByBatch.cutoff(whole(requests))), KByBatch.spelling
    ),
    "oracle": _Form("oracle", Oracle),
    "none": _Form("none", Fixed, lambda _: (0,)),
    "prefix_scheduler": _Form("prefix_scheduler", PrefixScheduler),
    "lagged_scheduler": _Form(
        "lagged_scheduler[:LAG[/EMA]]", LaggedScheduler, LaggedScheduler.parameters, LaggedScheduler.spelling
    ),
    "vllm_adaptive": _Form("vllm_adaptive", VllmAdaptive),
    "batch_adaptive": _Form("batch_adaptive[:WEIGHT]", BatchAdaptive, BatchAdaptive.parameters, BatchAdaptive.spelling),
}
POLICIES = tuple(form.usage for form in _FORMS.values())
"""All policies, as users write them."""


@dataclass(frozen=True, slots=True, order=True)
class PolicySpec:
    """A policy before it is run: its name, its parameter and what its class says of itself, without a cost.

    However a parameter is written, `fixed:03` or `fixed:3`, it is kept in one spelling, so that the same policies are equal.
    Raises InputError for a policy there is not, and for a parameter it cannot have.
    """

    name: str
    """Without the parameter: fixed, threshold, prefix_scheduler, …; mine.py:Greedy#01234567 of a file."""
    parameter: str = ""
    """The parameter as users write it; empty without one, and where it is the usual one."""
    _arguments: tuple[Any, ...] = field(init=False, compare=False, repr=False)
    """The arguments of the policy's class, after the cost where it needs one."""
    own: OwnPolicy | None = field(init=False, compare=False, repr=False, default=None)
    """The user's own policy that it is; None of those here."""

    def __post_init__(self) -> None:
        if is_own(self.name):
            object.__setattr__(self, "own", known(self.name))
            object.__setattr__(self, "_arguments", ())
            known(self.name).check(self.parameter)
            return
        if self.name not in _FORMS:
            if self.name.endswith(".py"):
                raise InputError(f"policy {self}: a policy of your own is written FILE.py:CLASS, with the name of its class")
            raise InputError(
                f"policy {self}: no such policy; there are {', '.join(POLICIES)}, and FILE.py:CLASS of your own"
            )
        usage = self._form.usage
        if (self.parameter and ":" not in usage) or (not self.parameter and ":" in usage.partition("[")[0]):
            raise InputError(f"policy {self}: is written {usage}")
        try:
            arguments = self._form.arguments(self.parameter)
        except ValueError as error:
            raise InputError(f"policy {self}: {error}; it is written {usage}") from None
        object.__setattr__(self, "_arguments", arguments)
        if self._form.spelling is not None:
            name, _, parameter = self._form.spelling(*arguments).partition(":")
            object.__setattr__(self, "name", name)
            object.__setattr__(self, "parameter", parameter)

    @classmethod
    def parse(cls, text: str) -> PolicySpec:
        """A policy as it is printed and kept, `name` or `name:parameter`, or one of a file that is known by now.

        Nothing is run for it. Raises InputError, naming the policies there are.
        """
        if is_own(text):
            return cls(*name_and_parameter(text))
        name, colon, parameter = text.partition(":")
        if colon and not parameter and name in _FORMS:
            raise InputError(f"policy {text}: is written {_FORMS[name].usage}")
        return cls(name, parameter)

    @classmethod
    def asked(cls, text: str) -> PolicySpec:
        """A policy as users write it: the same, or of a file of their own, mine.py:Greedy:parameter, which is run for it."""
        return cls.parse(named(text) if is_own(text) else text)

    @classmethod
    def fixed(cls, k: int) -> PolicySpec:
        """Verifying the first k positions, always."""
        return cls("fixed", str(k))

    @classmethod
    def table(cls, rows: Sequence[tuple[int, int]]) -> PolicySpec:
        """k by batch size, from (requests, k); neighbouring rows of one k become one."""
        return cls(*KByBatch.spelling(rows).split(":"))

    def __str__(self) -> str:
        return f"{self.name}:{self.parameter}" if self.parameter else self.name

    @property
    def _class(self) -> type[Policy] | OwnPolicy:
        """What says what it reads and needs."""
        return self.own or _FORMS[self.name].policy

    @property
    def _form(self) -> _Form:
        return _FORMS[self.name]

    @property
    def reads_confidences(self) -> bool:
        """Whether it needs a drafter that says how sure it is."""
        return self._class.reads_confidences

    @property
    def wants_raw_confidences(self) -> bool:
        """Whether it ignores calibration."""
        return self._class.wants_raw_confidences

    @property
    def lossless(self) -> bool:
        """Whether an engine can run it: False for bounds that look at what no engine can know."""
        return self._class.lossless

    @property
    def replays_exactly(self) -> bool:
        """Whether a replay of sampled drafts under it has the law of a live run."""
        return self._class.replays_exactly

    @property
    def needs_cost(self) -> bool:
        """Whether it decides by what a step costs."""
        return self._class.needs_cost

    @property
    def k(self) -> int | None:
        """How many positions it verifies of every draft, 0 for `none`; None where it depends on more than the block."""
        return int(self._arguments[0]) if self._class is Fixed else None

    def within(self, request_cap: int, gamma: int) -> PolicySpec:
        """The plainest policy that does the same to drafts of γ tokens while at most so many requests run: a table that has
        one k up to there is that k."""
        table = self.k_by_batch
        if table is None:
            return self
        ks = {min(k, gamma) for k in map(table.at, range(1, request_cap + 1))}
        return self if len(ks) > 1 else PolicySpec.fixed(k) if (k := ks.pop()) else NO_DRAFTER

    @property
    def k_by_batch(self) -> KByBatch | None:
        """Its table of k over running requests; None where it has none."""
        return KByBatch(*self._arguments) if self._class is KByBatch else None

    def bind(self, cost: StepCost | None = None) -> Policy:
        """The policy itself, a new one each time, for policies learn; `cost` is what it believes a step costs.

        Raises InputError where it needs a cost and there is none.
        """
        if self.needs_cost and cost is None:
            raise InputError(f"policy {self}: decides by what a step costs, which a replay does not know; simulate it")
        if cost is not None and cost.eager_s_per_token:  # engines time passes without prompts
            cost = replace(cost, eager_s_per_token=0.0)
        if self.own is not None:
            return self.own.made(self.parameter, cost if self.needs_cost else None)
        kind, arguments = self._form.policy, self._arguments
        made: Callable[..., Policy] = kind
        if not kind.needs_cost or cost is None:
            return made(*arguments)
        return made(kind.believed_cost(cost), *arguments)


NO_DRAFTER = PolicySpec("none")
"""Plain decoding."""


def policies_of(texts: list[str] | None) -> list[PolicySpec] | None:
    """Several policies as users write them; None stays None. Raises InputError."""
    return None if texts is None else [PolicySpec.asked(text) for text in texts]


def policy_class(name: str) -> type[Policy]:
    """The class of the policies of a name, for what is known of them without a parameter. Raises KeyError."""
    return _FORMS[name].policy
