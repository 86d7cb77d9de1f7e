"""What commands that store only a whole have found so far: parts in a folder beside the database, until the whole is stored.

The same command, of the same code, goes on with them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from harness import stops
from harness.console import Watcher
from results.store.provenance import git_revision, package_versions
from simulator.errors import InputError, is_full

T = TypeVar("T")


class Keep(Protocol):
    """Gives a part of some work that was kept under this name, or else makes it; `kind` is what msgspec decodes it as."""

    def __call__(self, name: str, kind: type[T], make: Callable[[], T], /) -> T:
        """The part."""
        ...


def keep_nothing(name: str, kind: type[T], make: Callable[[], T], /) -> T:
    """Make every part: for work that begins anew whenever it is stopped."""
    return make()


def full(out: Path) -> InputError:
    """What to say where a disk is full."""
    return InputError(f"--out {out}: there is no space left on its disk; make room, or choose another --out")


class Parts:
    """The parts of one command's work."""

    def __init__(self, out: Path, kind: str, decides: object, watcher: Watcher) -> None:
        """The folder of what a command of this kind has left, or a new one.

        Args:
            out: the folder of the database.
            decides: all that decides what is found, but the code; encodable by msgspec.
        """
        settled = msgspec.msgpack.encode([kind, decides, git_revision(), package_versions()])
        self._kind, self._out = kind, out
        self.name = f"{kind} {hashlib.sha256(settled).hexdigest()[:6]}"
        self._folder = out / "unfinished" / self.name.replace(" ", "-")
        self._watcher = watcher
        left = len(list(self._folder.glob("*.part")))
        watcher.say(f"{self.name}: goes on after {left} parts that were kept" if left else self.name)
        if left:
            watcher.began(self.name, None)

    def part(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """A part that is kept, or else made and kept; decoded as `kind` by msgspec."""
        found = self.kept(name, kind)
        if found is None:
            found = make()
            self.keep(name, found)
        return found

    def under(self, whole: str) -> Keep:
        """Parts of a larger one, which may be called as those of another."""

        def part(name: str, kind: type[T], make: Callable[[], T], /) -> T:
            return self.part(f"{whole}: {name}", kind, make)

        return part

    def kept(self, name: str, kind: type[T]) -> T | None:
        """A part that is kept; None where it is yet to be made."""
        file = self._file(name)
        return msgspec.msgpack.decode(file.read_bytes(), type=kind) if file.exists() else None

    def keep(self, name: str, made: object) -> None:
        """Keep a part. Whoever is stopped in the midst of it is told how to go on: else one could lie there unsaid."""
        partial = self._file(name).with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.msgpack.encode(made))
            self._watcher.began(self.name, None)
            partial.replace(self._file(name))
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
                self._folder.rmdir()  # where no part is kept
                self._folder.parent.rmdir()
            if isinstance(error, OSError) and is_full(error):
                raise full(self._out) from error
            raise

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.part"

    def done(self) -> None:
        """The whole is stored: parts are not needed any more."""
        stops.finished(f"the {self._kind}")
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # others have parts there, or nobody ever had
            self._folder.parent.rmdir()
