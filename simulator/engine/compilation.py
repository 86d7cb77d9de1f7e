"""How the simulator becomes machine code: at its first call, and kept on disk for later processes where that is possible.

What takes time is the amount of code handed to LLVM, most of it arrays taken out of tuples and put into others. So only the
whole loop has a way in from Python and an entry on disk, and its parts have neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit
from numba.core import event
from numba.extending import register_jitable

_NOTHING_ALLOCATED: dict[str, Any] = {"_nrt": False}
"""Leaves out the code that counts references to arrays, which is much of it: Python holds them while compiled code runs."""
part: Any = register_jitable(**_NOTHING_ALLOCATED)
"""Decorates a function that is called by compiled code alone."""
inlined: Any = njit(inline="always")
"""Decorates a small one, copied to where it is called: cheaper to compile than handing over tuples of arrays."""
callable_part: Any = njit(**_NOTHING_ALLOCATED)
"""Decorates one that is called by Python too."""


class Kept:
    """Decorates the function that Python calls: compiled with all its parts at the first call, or loaded where it was kept.

    numba keeps it in the first folder it can write of NUMBA_CACHE_DIR, `__pycache__` beside the source, the user's cache.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.kept = True
        """Whether later processes find it compiled."""
        try:
            self._compiled = njit(cache=True, **_NOTHING_ALLOCATED)(function)
        except RuntimeError:  # there is no such folder
            self._forget()

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._compiled(*arguments)
        except OSError:  # from the folder, before anything has run: it is full, or holds what may not be read
            self._forget()
            return self._compiled(*arguments)

    def _forget(self) -> None:
        self._compiled, self.kept = njit(**_NOTHING_ALLOCATED)(self._function), False


@contextmanager
def heard(say: Callable[[], None]) -> Iterator[None]:
    """Call `say` as numba begins to compile within the block; not where it finds everything compiled."""
    with event.install_listener("numba:compile", _First(say)):
        yield


class _First(event.Listener):
    """Of the compilations, which begin one within the other."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say: Callable[[], None] | None = say

    def on_start(self, event: event.Event) -> None:
        if self._say is not None:
            self._say()
        self._say = None

    def on_end(self, event: event.Event) -> None:
        pass
