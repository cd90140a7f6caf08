"""A headless Chromium, driven through a pair of pipes: JSON messages that end with a NUL."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 30.0
# The browser reads from the descriptor 3 and writes to 4, whatever numbers the pipes have here.
LAUNCH = """
import fcntl, os, sys
# Above 4, so that neither is overwritten before it is copied.
commands, answers = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(commands, 3), os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
OPTIONS = """
    headless=new remote-debugging-pipe no-sandbox disable-gpu no-first-run no-proxy-server
    disable-dev-shm-usage disable-extensions disable-background-networking disable-sync
    disable-component-update hide-scrollbars
"""
KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "ArrowRight": (39, ""),
    "Home": (36, ""),
    "Escape": (27, ""),
}


def browser_program() -> str:
    """The browser that ESTIMATOR_BROWSER names, or one on the PATH."""
    named = os.environ.get("ESTIMATOR_BROWSER")
    if named is not None:
        found = shutil.which(named)
        if found is None:
            pytest.fail(f"ESTIMATOR_BROWSER must name a program, and {named!r} is none")
        return found
    there = [path for path in map(shutil.which, NAMES) if path is not None]
    if not there:
        pytest.skip("no browser: install chromium, or name one in ESTIMATOR_BROWSER")
    return there[0]


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser with one empty page, which is gone at the end whatever happens."""
    program = browser_program()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        options = [f"--{option}" for option in OPTIONS.split()]
        launch = [sys.executable, "-c", LAUNCH, str(command_read), str(answer_write)]
        process = subprocess.Popen(
            [*launch, program, *options, f"--user-data-dir={profile}"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(command_read)
        os.close(answer_write)
        try:
            yield Browser(command_write, answer_read)
        finally:
            os.close(command_write)
            os.close(answer_read)
            # Its own session: the group holds the browser and its helpers, and nothing else.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT)


class Browser:
    """One page of a browser.

    Args:
        commands: A descriptor to write to.
        answers: A descriptor to read from.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest = 0, b""
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda found: found.get("id") == message["id"], method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, wanted: Any, what: str) -> dict[str, Any]:
        end = time.monotonic() + WAIT
        while True:
            message, separator, rest = self._rest.partition(b"\0")
            if separator:
                self._rest = rest
                found: dict[str, Any] = json.loads(message)
                if "method" in found:
                    self._events.append(found)
                if wanted(found):
                    return found
                continue
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer {what} in {WAIT:g} s")
            read = os.read(self._answers, 1 << 20)
            assert read, f"the browser ended before it answered {what}"
            self._rest += read

    def open(self, page: Path) -> None:
        """Loads a file and forgets what the page before did."""
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        loaded = [e for e in self._events if e["method"] == "Page.loadEventFired"]
        if not loaded:
            self._next(lambda found: found.get("method") == "Page.loadEventFired", "the page")
        # One frame later everything that a script does at the beginning is done.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")

    def view(self, width: int, *, height: int = 900, scheme: str = "light") -> None:
        """Sets the size of the window, and the colours that the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        wish = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[wish])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Presses and releases a key of `KEYS`."""
        code, text = KEYS[key]
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **what, **down)
        self.call("Input.dispatchKeyEvent", **what, type="keyUp")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Writes what the page looks like as PNG: all of it, or what fits into the window."""
        options = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {**size, "height": min(size["height"], 16000), "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))

    @property
    def complaints(self) -> list[str]:
        """Messages of the console, errors of scripts, and what the browser itself reported."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self._events if e["method"] in methods]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself among them; pictures inside it are none."""
        sent = [e for e in self._events if e["method"] == "Network.requestWillBeSent"]
        found = [str(event["params"]["request"]["url"]) for event in sent]
        return [address for address in found if not address.startswith("data:")]

    @property
    def refused(self) -> list[str]:
        """Those of the addresses that the page's own policy kept from being asked for."""
        sent = {
            event["params"]["requestId"]: str(event["params"]["request"]["url"])
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        }
        failed = [e["params"] for e in self._events if e["method"] == "Network.loadingFailed"]
        return [sent[f["requestId"]] for f in failed if f.get("blockedReason") == "csp"]
