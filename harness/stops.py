"""How a command ends early: Ctrl-C, SIGTERM, a closed terminal, a closed pipe; and the one line that is said then.

The first signal raises KeyboardInterrupt, and the command puts its things away. A second one ends it at once, and so do ten
seconds. What a command has under way is told here as soon as it is kept, so that the line can say how to go on.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import shlex
import signal
import socket
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import NoReturn

BESIDE_RESUME = ("trials", "time_limit", "actors", "gpus_per_actor", "ray_address", "rows", "out", "as_json")
"""Parameters that may stand beside `--resume`: they say where and how long, not what."""
IN_PLACE = ("to",)
"""Parameters that may stand beside `--resume` in place of what was planned."""
INTERNAL = 70
"""Exit code of a command that failed by no fault of its user's: an error of its own, or workers that were lost."""
_CLOSED_PIPE = 128 + signal.SIGPIPE
_PATIENCE_S = 10.0
"""Seconds that a command has to put its things away after the first signal."""
_TWICE_S = 0.5
"""A terminal and a wrapper may both pass on one Ctrl-C: a second signal counts after so many seconds."""
_AGAIN_S = 0.05
"""Seconds after which an interrupt comes again that was lost."""
_SIGNALS = tuple(s for s in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)) if s is not None)


@dataclass(slots=True)
class _Command:
    """The command of this process."""

    program: str
    handled: tuple[signal.Signals, ...]
    signal: int | None = None
    """The first that came."""
    raised: bool = False
    """Whether it has interrupted the command."""
    resent: int = 0
    """Signals that this process has sent itself, since the interrupt was lost, and has not heard yet."""
    under_way: str | None = None
    go_on: str | None = None
    """The command that goes on with what is under way."""
    otherwise: str = ""
    """What a stop says where nothing is under way: that all is done, or how to begin again."""
    words: tuple[str, ...] = ()
    """Which of the program's, and what follows its name, in today's spellings, once that is known."""
    beside_resume: tuple[str, ...] = ()
    """Those of its options that may stand beside `--resume`, as typed."""
    said: bool = False
    hung: bool = False
    """Whether the interpreter's own end would hang."""
    wakes: socket.socket | None = None
    """Where the interpreter writes the numbers of signals; kept open."""


_command: _Command | None = None


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """While the block runs, the whole command, signals and closed pipes end it with one line and their exit codes."""
    global _command
    # What was started in the background, or with nohup, ignores some of them already; that is left so.
    handled = tuple(s for s in _SIGNALS if signal.getsignal(s) is not signal.SIG_IGN)
    _command = _Command(program, handled)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal has no character for ends no command
    atexit.register(_ignore, _command)  # what is registered first is done last
    _watch(_command)
    sys.unraisablehook = _swallowed
    rearm()
    try:
        _check_working_folder(program)
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _done(_command, 0)
    except KeyboardInterrupt:
        _end_stopped_here(_command)
    except SystemExit as end:
        if _command.signal is not None:
            _end_stopped_here(_command)
        if _command.hung:
            end_at_once(end.code if isinstance(end.code, int) else INTERNAL)
        with _quiet_pipes():
            sys.stdout.flush()
        _done(_command, end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except BrokenPipeError:
        end_of_pipe()
    except Exception as error:
        traceback.print_exception(error)
        say(f"{program}: internal error, please report it with the lines above{way_on()}")
        raise SystemExit(INTERNAL) from None


def _open_closed_streams() -> None:
    """Nowhere to read from or write to, for streams that whoever started this has closed: else files take their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def keep_stdout() -> None:
    """Standard output for this command's results alone: what libraries, a user's file or processes that they start write to
    it by its number goes to stderr from here on."""
    if _command is None:
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors="replace")


def _check_working_folder(program: str) -> None:
    """End the program where the folder that it works in has been deleted: no path can be told apart from there."""
    try:
        os.getcwd()
    except OSError as error:
        say(f"{program}: the working folder: {error.strerror}; change into one that is there")
        raise SystemExit(2) from None


def _done(command: _Command, code: int) -> None:
    """The command has come to its end: a signal while the interpreter puts its own things away changes nothing of that."""
    for number in command.handled:
        signal.signal(number, lambda *_: end_at_once(code))


def _ignore(command: _Command) -> None:
    """At the very end the interpreter takes its handlers away, and a signal would be all that is heard of the command."""
    for number in command.handled:
        signal.signal(number, signal.SIG_IGN)


def _end_stopped_here(command: _Command) -> NoReturn:
    """End a stopped command without the interpreter's own end.

    That may wait for what hangs, and after a KeyboardInterrupt inside an extension it makes a signal of the exit code.
    """
    _say_stopped()
    end_at_once(128 + int(command.signal or signal.SIGINT))


def rearm() -> None:
    """Take signals again after a library has set its own handlers; nothing outside of `stoppable`."""
    if _command is not None and threading.current_thread() is threading.main_thread():
        for number in _command.handled:
            signal.signal(number, _stop)


def stopped() -> bool:
    """Whether a signal has come: whatever is raised after it was raised by it."""
    return _command is not None and _command.signal is not None


def check() -> None:
    """Raise KeyboardInterrupt where a signal has come: libraries lose the one that was raised in the midst of them."""
    if stopped():
        raise KeyboardInterrupt


def keep(under_way: str, resume: str | None) -> None:
    """From here on the command keeps what it finds under the name `under_way`, such as "run 3f9c"; empty: nothing is kept.

    Args:
        resume: the id that `--resume` takes; None where the same command goes on.
    """
    if _command is not None and not under_way:
        _command.under_way = _command.go_on = None
        if any(word.partition("=")[0] == "--resume" for word in _command.words):
            _command.otherwise = ""  # what was to be resumed is gone
    elif _command is not None:
        _command.under_way = under_way
        _command.go_on = shlex.join([_command.program, *_command.words]) if resume is None else _resuming(resume)


def finished(what: str, command: Sequence[str] = ()) -> None:
    """What the command was for, such as "study 3f9c", is done and stored: there is nothing to go on with.

    `command`, after the program's name, shows it to whoever stops the printing; empty where no command does.
    """
    if _command is not None:
        _command.under_way = _command.go_on = None
        seen = f", see it with: {shlex.join([_command.program, *command])}" if command else ""
        _command.otherwise = f"; {what} is finished{seen}"


@contextmanager
def working() -> Iterator[None]:
    """While the block runs, a stop before anything is kept says so, and how to begin again."""
    if _command is None:
        yield
        return
    anew = f"; nothing new is kept, begin again with: {shlex.join([_command.program, *_command.words])}"
    _command.otherwise = anew
    yield
    if _command.otherwise == anew:
        _command.otherwise = ""


def way_on() -> str:
    """How to go on with what is kept, to end a sentence with; empty where nothing is."""
    if _command is None or _command.go_on is None:
        return ""
    return f"; {_command.under_way} keeps what it has, go on with: {_command.go_on}"


def say(text: str) -> None:
    """A line on stderr, as far as anybody listens; on a terminal broken between words."""
    with suppress(OSError, ValueError):
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
        print("\n".join(broken(text, width)) if width else text, file=sys.stderr, flush=True)


def broken(text: str, width: int, further: str = "") -> list[str]:
    """The lines of a text, broken between words where they are longer than that; what goes on begins with `further`.

    What stands between backticks is to be copied, and what is longer than a line by itself is most often a path: both stay
    whole.
    """
    lines = []
    for line in text.splitlines() or [""]:
        indent = line[: len(line) - len(line.lstrip())]
        glued = re.sub(r"`[^`]*`", lambda found: found[0].replace(" ", "\0"), line.strip())
        parts = textwrap.wrap(
            glued, width, initial_indent=indent, subsequent_indent=indent + further, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
        lines += [part.replace("\0", " ") for part in parts] or [""]
    return lines


def end_stopped() -> NoReturn:
    """End a command that a signal has stopped."""
    code = 128 + int(_command.signal or signal.SIGINT) if _command is not None else 128 + signal.SIGINT
    _say_stopped()
    with _quiet_pipes():
        sys.stdout.flush()
    raise SystemExit(code)


def end_of_pipe() -> NoReturn:
    """End a command whose reader has closed the pipe, as `head` does: nobody is there to be told."""
    _forget(sys.stdout)
    _forget(sys.stderr)
    raise SystemExit(_CLOSED_PIPE)


def hang_up() -> None:
    """What this process is connected to is gone: its exit would wait for it, and is left out."""
    if _command is not None:
        _command.hung = True


def end_at_once(code: int) -> NoReturn:
    """End the process as it stands: what would be put away hangs."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def command_is(name: str, words: Sequence[str], beside_resume: Mapping[str, bool]) -> None:
    """Tell which command of the program this is.

    Args:
        words: what follows the name.
        beside_resume: spellings of its options that may stand beside `--resume`, and whether each takes a value.
    """
    if _command is None:
        return
    kept: list[str] = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        spelling, joint, _ = word.partition("=")
        if spelling in beside_resume:
            kept += [word, following] if beside_resume[spelling] and not joint else [word]
    _command.words, _command.beside_resume = (*name.split(" "), *words), tuple(kept)


def _resuming(name: str) -> str:
    """The command that resumes, with the options of this one that may stand beside `--resume`."""
    assert _command is not None
    words = [_command.program, *_command.words[:1], "--resume", name]
    return shlex.join([*words, *_command.beside_resume])


def _stop(number: int, frame: FrameType | None) -> None:
    """The handler of signals: the first interrupts. While a command puts its things away `_watch` alone hears the next."""
    assert _command is not None
    _command.signal = _command.signal or number
    if _command.raised:
        return
    if _makes_compiled(frame):
        _interrupt_soon(_command)
        return
    _command.raised = True
    raise KeyboardInterrupt


def _makes_compiled(frame: FrameType | None) -> bool:
    """Whether a compiled module is being made: some end the process where anything is raised into that."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _interrupt_soon(command: _Command) -> None:
    again = threading.Timer(_AGAIN_S, _interrupt_again, [command])
    again.daemon = True
    again.start()


def _swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """A callback of compiled code, from which nothing can be raised, was interrupted: once more, when it is over."""
    if _command is None or not _command.raised or not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    _command.raised = False
    _interrupt_soon(_command)


def _interrupt_again(command: _Command) -> None:
    command.resent += 1
    signal.pthread_kill(threading.main_thread().ident or 0, command.signal or signal.SIGINT)


def _watch(command: _Command) -> None:
    """A thread that hears signals even where the main one is deep in compiled code, and ends what does not end itself."""
    heard, command.wakes = socket.socketpair()
    command.wakes.setblocking(False)
    signal.set_wakeup_fd(command.wakes.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        first = 0.0
        while True:
            heard.settimeout(max(first + _PATIENCE_S - time.monotonic(), 0.01) if first else None)
            try:
                number = heard.recv(1)[0]
            except TimeoutError:
                break
            if number not in command.handled:
                continue
            if not first:
                first, command.signal = time.monotonic(), command.signal or number
            elif command.resent:  # not the user's
                command.resent -= 1
            elif time.monotonic() > first + _TWICE_S:
                break
        _say_stopped()
        end_at_once(128 + int(command.signal or signal.SIGINT))

    threading.Thread(target=watch, daemon=True, name="stops").start()


def _say_stopped() -> None:
    if _command is not None and not _command.said:
        _command.said = True
        say(f"{_command.program}: stopped{way_on() or _command.otherwise}")


@contextmanager
def _quiet_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        end_of_pipe()


def _forget(stream: object) -> None:
    """What is still to be written to a stream goes nowhere: the interpreter would complain about it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
        os.close(nowhere)
