"""Policies of users' own: a class of a Python file, run by plain Python and known by the hash of what the file says.

The file alone is ever run, and only where somebody has named it. What a database keeps of a policy is what it says of
itself and the file's text, to be read; whoever opens somebody's database runs nothing of it.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import operator
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from inspect import ismethod
from pathlib import Path
from types import ModuleType
from typing import Any

from simulator.errors import InputError
from simulator.hardware.cost import StepCost, StepLoad
from simulator.numbers import is_whole
from simulator.policies.contract import CausalityError, PeekError, Policy, StepView

_WRITTEN = re.compile(
    r"(?P<file>.+\.py):(?P<class_name>[A-Za-z_]\w*)(?:#(?P<digest>[0-9a-f]{8}))?(?P<colon>:(?P<parameter>.*))?", re.DOTALL
)
_LONGEST_BYTES = 1 << 20
_LONGEST_SAID = 300
"""Characters of what an error says."""
FACTS = ("lossless", "replays_exactly", "reads_confidences", "wants_raw_confidences", "needs_cost")
"""What every policy's class says of itself."""


@dataclass(frozen=True, slots=True)
class OwnPolicy:
    """A policy of a user's own, as its file has it, or as a database remembers it."""

    file: str
    """Where it was found."""
    class_name: str
    digest: str
    """The first characters of the SHA-256 of the file's text."""
    lossless: bool
    replays_exactly: bool
    reads_confidences: bool
    wants_raw_confidences: bool
    needs_cost: bool
    searched: tuple[str, ...]
    """Parameters that a search tries."""
    text: str = field(repr=False, compare=False)
    """The file's, which goes wherever the policy is run."""
    named: bool = field(default=False, compare=False)
    """Whether the user has named the file, so that its text may be run."""

    @property
    def name(self) -> str:
        """The policy without its parameter, as it is printed and kept: mine.py:Greedy#01234567."""
        return f"{Path(self.file).name}:{self.class_name}#{self.digest}"

    @property
    def slow(self) -> str:
        """That it takes long to simulate, in words; empty where it brings a compiled form."""
        if self.named and self.policy_class.compiled is not Policy.compiled:
            return ""
        return f"{self.name} runs in plain Python, 40 to 300 times slower than the policies here"

    @property
    def policy_class(self) -> type[Policy]:
        """The class itself, of a policy whose file was named."""
        return _class_of(self.file, self.class_name, self.digest, self.text)

    def made(self, parameter: str, cost: StepCost | None) -> Policy:
        """The policy itself. Raises InputError where nobody has named its file, or its class refuses the parameter."""
        if not self.named:
            raise InputError(f"policy {self.name}: is known from a database, from which nothing is run; name its file")
        kind = self.policy_class
        arguments = self._arguments(parameter)
        with self._told(parameter, "__init__"):
            make: Callable[..., Policy] = kind
            policy: object = make(*arguments) if cost is None else make(kind.believed_cost(cost), *arguments)
            if not isinstance(policy, Policy):
                raise ValueError(f"makes {policy!r:.60}; it must make a policy")
        return _Watched(policy, self)

    def check(self, parameter: str) -> None:
        """Raise InputError where its class refuses a parameter; of a policy that a database remembers it was taken once."""
        if self.named and not self.needs_cost:
            self.made(parameter, None)
        elif self.named:
            self._arguments(parameter)

    def _arguments(self, parameter: str) -> tuple[Any, ...]:
        """What its class makes of a parameter."""
        with self._told(parameter, "parameters"):
            read: Any = self.policy_class.parameters
            if not ismethod(read):
                raise ValueError("its `parameters` must be a class method, of `cls` and the text")
            if not isinstance(arguments := read(parameter), tuple):
                raise ValueError(f"its `parameters` returns {arguments!r:.60}; it must be a tuple of arguments, as (0.5,)")
            return arguments

    def _told(self, parameter: str, method: str) -> AbstractContextManager[None]:
        return _told(f"{self.name}:{parameter}".rstrip(":"), self.file, self.policy_class, method)


_forks = 0
"""Times that a fork has led to this process."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)

_known: dict[str, OwnPolicy] = {}
"""By name: what this process has loaded, or has been told by a database."""


def remember(policy: OwnPolicy) -> None:
    """Let a policy that a database keeps be known by its name; one that is at hand itself stays."""
    _known.setdefault(policy.name, policy)


def at_hand() -> list[OwnPolicy]:
    """Those whose files this process was named."""
    return [policy for policy in _known.values() if policy.named]


def known(name: str) -> OwnPolicy:
    """A policy by its name with the digest. Raises InputError where it was neither loaded nor read of."""
    try:
        return _known[name]
    except KeyError:
        raise InputError(
            f"policy {name}: is of a file of somebody's own, which is not at hand; name it with --policy"
        ) from None


def is_own(text: str) -> bool:
    """Whether a policy is written as one of a file."""
    return _WRITTEN.fullmatch(text) is not None


def name_and_parameter(text: str) -> tuple[str, str]:
    """A policy as it is printed and kept, mine.py:Greedy#01234567:0.7, by its name and its parameter. Runs nothing."""
    written = _WRITTEN.fullmatch(text)
    assert written is not None, text
    parameter = (written["parameter"] or "").strip()
    if written["colon"] and not parameter:
        raise InputError(f"policy {text}: is written FILE.py:CLASS or FILE.py:CLASS:PARAMETER")
    if written["digest"] is None:
        raise InputError(f"policy {text}: is of a file of somebody's own, and does not say of which content")
    return f"{written['file']}:{written['class_name']}#{written['digest']}", parameter


def named(text: str) -> str:
    """Load a policy that a user names, FILE.py:CLASS[:PARAMETER]; returns how it is printed and kept.

    With a digest, as it is printed, the file must be as it was then. Raises InputError for what cannot be loaded.
    """
    written = _WRITTEN.fullmatch(text)
    assert written is not None, text
    policy = _named(written["file"], written["class_name"], written["digest"])
    _known[policy.name] = policy
    return policy.name + (written["colon"] or "")


def take_up(name: str) -> None:
    """Load a policy that a database remembers from where its file was, to go on with what it decides.

    Raises InputError where the file is not there, or is not what it was.
    """
    policy = known(name)
    if not policy.named:
        _known[name] = _named(policy.file, policy.class_name, policy.digest)


def _named(file: str, class_name: str, digest: str | None) -> OwnPolicy:
    """The policy of a file that a user has named, or that must still be what it was."""
    path = Path(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        back = "; put it back: the table own_policies of the database has its text" if digest is not None else ""
        raise InputError(f"policy {file}:{class_name}: {file}: {error.strerror or error}{back}") from None
    if len(content) > _LONGEST_BYTES:
        raise InputError(f"policy {file}:{class_name}: {file} is longer than any policy, {len(content):,} bytes")
    found = hashlib.sha256(content).hexdigest()[:8]
    if digest is not None and found != digest:
        raise InputError(
            f"policy {path.name}:{class_name}#{digest}: {file} has changed since, to #{found}; put it back, or begin anew"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"policy {file}:{class_name}: {file} is no text in UTF-8") from None
    return _read(file, class_name, found, text)


def _read(file: str, class_name: str, digest: str, text: str) -> OwnPolicy:
    """What the class of a file's text says of itself, which is run for it."""
    path = str(Path(file).absolute())
    kind = _class_of(path, class_name, digest, text)
    for fact in FACTS:
        if not isinstance(getattr(kind, fact), bool):
            raise InputError(f"policy {file}:{class_name}: its `{fact}` must be True or False")
    if not (isinstance(kind.searched, list | tuple) and all(isinstance(parameter, str) for parameter in kind.searched)):
        raise InputError(f"policy {file}:{class_name}: its `searched` must be a list of parameters, each as text")
    facts = {fact: getattr(kind, fact) for fact in FACTS}
    return OwnPolicy(path, class_name, digest, **facts, searched=tuple(kind.searched), text=text, named=True)


def _class_of(file: str, class_name: str, digest: str, text: str) -> type[Policy]:
    """Its class. Raises InputError where the file has no such policy."""
    module = _module(file, digest, text)
    kind, shown = getattr(module, class_name, None), f"{Path(file).name}:{class_name}"
    if not (isinstance(kind, type) and issubclass(kind, Policy)):
        own = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        there = f"; its classes are {', '.join(own)}" if own else ""
        if isinstance(kind, type):
            raise InputError(f"policy {shown}: the class {class_name} is no subclass of simulator.policies.Policy")
        raise InputError(f"policy {shown}: no subclass of simulator.policies.Policy of that name in the file{there}")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise InputError(f"policy {shown}: lacks {', '.join(missing)}")
    return kind


@functools.cache
def _module(file: str, digest: str, text: str) -> ModuleType:
    """The file, run once in a process."""
    module = ModuleType(f"specyard_policy_{digest}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where dataclasses look for the names of a class's fields
    with _told(Path(file).name, file):
        exec(compile(text, file, "exec", dont_inherit=True), vars(module))
    return module


@contextmanager
def _told(policy: str, file: str, kind: type[object] | None = None, method: str = "") -> Iterator[None]:
    """Whatever the code of a user's file raises is one sentence, with the line of the file, of what it raises or of the
    method that was called; and what it prints goes where progress does, since stdout is for results. A process that it
    forks ends where the file's code does: it would go on with the command a second time."""
    forks = _forks
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # `SystemExit` and what else a file may raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines = [error.lineno]
        line = lines[-1] if lines else _line_of(getattr(kind, method, None), file)
        where, said = f"line {line}: " if line else "", _said(error)
        if isinstance(error, CausalityError):
            raise PeekError(f"policy {policy}: {where}{said.removeprefix(f'{policy}: ')}") from None
        name = "" if isinstance(error, ValueError) and said else type(error).__name__
        raise InputError(f"policy {policy}: {where}{': '.join(filter(None, (name, said)))}") from None
    finally:
        if _forks != forks:
            os._exit(0)


def _said(error: BaseException) -> str:
    """What an error says, in one line that leaves a terminal as it is."""
    try:
        said = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:  # it is of the file's own
        return ""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(said.split()))
    return printable if len(printable) <= _LONGEST_SAID else f"{printable[:_LONGEST_SAID]} …"


def _line_of(function: object, file: str) -> int | None:
    """Where a function begins, if the file has it."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code.co_firstlineno if code is not None and code.co_filename == file else None


class _Watched(Policy):
    """A user's policy whose mistakes are sentences: it decides, and what it raises or returns is looked at.

    It is asked about steps in which somebody decodes, and no others.
    """

    def __init__(self, policy: Policy, own: OwnPolicy) -> None:
        self._policy, self._own, self._name = policy, own, own.name
        for fact in FACTS:
            setattr(self, fact, getattr(own, fact))

    def __copy__(self) -> _Watched:
        with self._told("__copy__"):
            return _Watched(copy.copy(self._policy), self._own)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watched:
        with self._told("__deepcopy__"):
            return _Watched(copy.deepcopy(self._policy, memo), self._own)

    @property
    def name(self) -> str:
        return self._name

    def foresee(self, useful: Sequence[int]) -> None:
        with self._told("foresee"):
            self._policy.foresee(useful)

    def draft(self, load: StepLoad, gamma: int) -> int:
        if load.decoding == 0:
            return 0
        with self._told("draft"):
            tokens = self._policy.draft(load, gamma)
            if not is_whole(tokens) or operator.index(tokens) < 0:
                raise ValueError(f"its `draft` returns {tokens!r:.60}; it must be a whole number of tokens, 0 or more")
            return operator.index(tokens)

    def admit(self, step: StepView) -> None:
        if step.running:
            with self._told("admit"):
                returned: object = self._policy.admit(step)
                if isinstance(returned, Coroutine):
                    returned.close()  # else Python would say that nobody has waited for it
                if returned is not None:
                    raise ValueError(f"its `admit` returns {returned!r:.60}; it must call step.admit(request, n) instead")
                step.lengths()

    def compiled(self) -> Policy | None:
        with self._told("compiled"):
            form: object = self._policy.compiled()
            if form is None or (isinstance(form, Policy) and type(form).__module__.startswith(f"{__package__}.")):
                return form
            raise ValueError(f"its `compiled` returns {form!r:.60}; it must be one of the policies of {__package__}")

    def learn(self, verified: Sequence[int], accepted: Sequence[int]) -> None:
        if verified:
            with self._told("learn"):
                self._policy.learn([*verified], [*accepted])  # whatever it does to them is its own

    def _told(self, method: str) -> AbstractContextManager[None]:
        return _told(self._name, self._own.file, type(self._policy), method)
