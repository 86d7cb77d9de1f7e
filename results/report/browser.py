"""A headless Chromium driven through a pipe: pictures of pages, and what their scripts say. No network, no driver."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from simulator.errors import InputError

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
_TRAMPOLINE: Final = (
    "import fcntl, os, sys; high = [fcntl.fcntl(int(file), fcntl.F_DUPFD, 10) for file in sys.argv[1:3]];"
    "os.dup2(high[0], 3); os.dup2(high[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""Chromium reads commands from file 3 and answers on file 4."""


def find_browser() -> str | None:
    """The path of a Chromium or Chrome; None if there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. Raises TimeoutError if it does not answer."""

    def __init__(self, commands: int, answers: int, timeout_s: float) -> None:
        self._commands, self._answers, self._timeout_s = commands, answers, timeout_s
        self._number, self._buffer, self._session = 0, b"", ""
        self.complaints: list[str] = []
        """What the console and failing scripts said, warnings and errors alone."""
        [target] = [t for t in self._do("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self._do("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def open(self, file: Path, *, width: int, scheme: Literal["light", "dark"] = "light", scale: float = 1.0) -> None:
        """Load a file into a window so wide, and wait until its figures are drawn."""
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=scale, mobile=width < 600)
        self._do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._do("Page.navigate", url=file.resolve().as_uri())
        deadline = time.monotonic() + self._timeout_s
        while not self.evaluate("document.readyState === 'complete' && document.body?.dataset.drawn === 'yes'"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{file.name}: not drawn after {self._timeout_s:g} s; {self.complaints[:3]}")
            time.sleep(0.05)
        self.evaluate("document.fonts.ready.then(() => true)")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited."""
        answer = self._do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "script failed"))
        return answer["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse, in pixels from the window's corner."""
        self._do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, selector: str | None = None, padding: int = 0) -> bytes:
        """PNG of an element, or of the whole page."""
        box = (
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [b.x + scrollX, b.y + scrollY, b.width, b.height] })()"
            if selector
            else "[0, 0, document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        x, y, width, height = self.evaluate(box)
        clip = {
            "x": max(x - padding, 0), "y": max(y - padding, 0), "width": width + 2 * padding, "height": height + 2 * padding,
            "scale": 1,
        }  # fmt: skip
        shot = self._do("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        self._do("Browser.close")

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer; what else is said meanwhile is kept."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message(method)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        if message.get("method") == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in said["args"]))
        if message.get("method") == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        if message.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])

    def _message(self, waiting_for: str) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(deadline - time.monotonic(), 0))
            chunk = os.read(self._answers, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError(f"the browser does not answer {waiting_for}")
            self._buffer += chunk
        first, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(first))


@contextmanager
def browsing(timeout_s: float = 60.0) -> Iterator[Page]:
    """A browser while the block runs. Raises InputError where there is none."""
    found = find_browser()
    if found is None:
        raise InputError(f"pictures are drawn by a browser, and there is none of {', '.join(_NAMES)}; CSV needs none")
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()
    with tempfile.TemporaryDirectory(prefix="specyard-", ignore_cleanup_errors=True) as profile:
        start = [sys.executable, "-c", _TRAMPOLINE, str(read_commands), str(write_answers), found]
        browser = subprocess.Popen(
            [*start, *_FLAGS[:-1], f"--user-data-dir={profile}", _FLAGS[-1]], pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_commands)
        os.close(write_answers)
        try:
            page = Page(commands, answers, timeout_s)
            yield page
            page.close()
        finally:
            browser.terminate()
            browser.wait(10)
            os.close(commands)
            os.close(answers)
