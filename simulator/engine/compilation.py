"""How the simulator becomes machine code: at its first call, and kept on disk for later processes where that is possible.

What takes time is the amount of code handed to LLVM, most of it arrays taken out of tuples and put into others. So only the
whole loop has a way in from Python and an entry on disk, and its parts have neither.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import njit
from numba.core import event
from numba.extending import register_jitable

from simulator.errors import InputError

_OPTIONS: dict[str, Any] = {"_nrt": False}
"""Leaves out the counting of references to arrays: Python holds them while compiled code runs.

The loop is compiled sooner and runs faster. numba does not document the option and ignores those it does not know: without
it everything is right, and slower.
"""
_DISABLED = isinstance(njit(lambda: None), FunctionType)
"""Whether NUMBA_DISABLE_JIT is set."""
part: Any = register_jitable(**_OPTIONS)
"""Decorates a function that is called by compiled code alone."""
inlined: Any = njit(inline="always")
"""Decorates a small one, copied to where it is called: cheaper to compile than handing over tuples of arrays."""
callable_part: Any = njit(**_OPTIONS)
"""Decorates one that is called by Python too."""


def copied(function: Callable[..., Any]) -> None:
    """Have compiled code copy a plain Python function to where it is called; for Python it stays what it is."""
    register_jitable(inline="always", **_OPTIONS)(function)  # made for each: numba drops `inline` at a decorator's first use


class Kept:
    """Decorates the function that Python calls: compiled with all its parts at the first call, or loaded where it was kept.

    numba keeps it in the first folder it can write of NUMBA_CACHE_DIR, `__pycache__` beside the source, the user's cache. It
    looks at the file of the loop alone to see whether that has changed, so what is kept of other parts is dropped here.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.kept = True
        """Whether later processes find it compiled."""
        self._compiled: Any = function
        if _DISABLED:
            return
        try:
            self._compiled = njit(cache=True, **_OPTIONS)(function)
            _drop_unless_made_of(_sources(function), Path(str(self._compiled.stats.cache_path)))
        except (RuntimeError, OSError):  # there is no such folder, or its files stay
            self._forget()

    def __call__(self, *arguments: Any) -> Any:
        if _DISABLED:
            raise InputError("NUMBA_DISABLE_JIT: is set, and the simulator runs as machine code alone; unset it")
        try:
            return self._compiled(*arguments)
        except OSError:  # from the folder, before anything has run: it is full, or holds what may not be read
            self._forget()
            return self._compiled(*arguments)

    def _forget(self) -> None:
        self._compiled, self.kept = njit(**_OPTIONS)(self._function), False


def _sources(function: Callable[..., Any]) -> list[Path]:
    """All files of the function's package: the code and constants of any may be within its machine code."""
    package = Path(inspect.getfile(function)).parents[max(0, function.__module__.count(".") - 1)]
    return sorted(package.rglob("*.py"))


def _drop_unless_made_of(sources: list[Path], folder: Path) -> None:
    """Delete what numba keeps in `folder`, unless a note beside it says that it was made of these very sources.

    A folder of numba's cache is of one folder of sources. Raises OSError where its files can be neither read nor deleted.
    """
    note, digest = folder / "made_of.sha256", hashlib.sha256()
    for file in sources:
        digest.update(str(file).encode() + file.read_bytes())
    if note.exists() and note.read_text() == digest.hexdigest():
        return
    for kept in folder.glob("*.nb[ic]"):  # index and code
        kept.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(digest.hexdigest())


@contextmanager
def heard(say: Callable[[], None]) -> Iterator[None]:
    """Call `say` as numba begins to compile within the block; not where it finds everything compiled."""
    with event.install_listener("numba:compile", _First(say)):
        yield


class _First(event.Listener):
    """Calls `say` at the first of the compilations, which begin one within the other."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say: Callable[[], None] | None = say

    def on_start(self, event: event.Event) -> None:
        if self._say is not None:
            self._say()
        self._say = None

    def on_end(self, event: event.Event) -> None:
        pass
