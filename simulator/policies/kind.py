"""Kinds of policies as a search is asked for them: by name, their parameters to be found, or a user's own."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.policies.contract import Policy
from simulator.policies.own import OwnPolicy, is_own
from simulator.policies.spec import PolicySpec, policy_class


@dataclass(frozen=True, slots=True, order=True)
class PolicyKind:
    """Policies of one name; or a user's own, with the parameter that was asked for or those that it names."""

    name: str
    """The name alone: fixed, threshold, …; of a user's own the policy as it is printed."""
    own: PolicySpec | None = None

    @classmethod
    def parse(cls, text: str) -> PolicyKind:
        """A kind as it is printed and kept; see `PolicySpec.parse`. A name is not looked up."""
        return cls._of(PolicySpec.parse(text)) if is_own(text) else cls(text)

    @classmethod
    def asked(cls, text: str) -> PolicyKind:
        """A kind as users write it; see `PolicySpec.asked`."""
        return cls._of(PolicySpec.asked(text)) if is_own(text) else cls(text)

    @classmethod
    def _of(cls, own: PolicySpec) -> PolicyKind:
        return cls(str(own), own)

    def __str__(self) -> str:
        return self.name

    @property
    def says(self) -> type[Policy] | OwnPolicy:
        """What says what they read and need."""
        return policy_class(self.name) if self.own is None or self.own.own is None else self.own.own

    def includes(self, policy: PolicySpec) -> bool:
        """Whether a policy is one of them."""
        return self.name in (policy.name, str(policy))
