"""A real browser, driven over the pipes of its developer tools."""

import base64
import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Of a page: nothing that a browser does by itself, as looking for updates, is asked for.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def find():
    """The path of a browser; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab: what is asked of it, and what it has told."""

    def __init__(self, commands, answers):
        self._commands, self._answers = commands, answers
        self._numbers = itertools.count(1)
        self._session = None
        self.events = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (told := self._read()).get("id") != number:
            self.events.append(told)
        assert "error" not in told, told
        return told["result"]

    def open(self, path, width=1280, height=900, scheme="light"):
        """Shows a file of the disk in a window of that width, until it is loaded."""
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=media)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.ask("Page.navigate", url=Path(path).resolve().as_uri())
        while not any(told.get("method") == "Page.loadEventFired" for told in self.events):
            self.events.append(self._read())

    def value(self, expression):
        """Of JavaScript that the page itself need not allow."""
        told = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, **_KEYS[key])

    def screenshot(self, path):
        told = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        Path(path).write_bytes(base64.b64decode(told["data"]))

    def told(self, method):
        """Parameters of all events of a kind."""
        return [told["params"] for told in self.events if told.get("method") == method]

    def _read(self):
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        return json.loads(message)


_KEYS = {
    "Tab": {"windowsVirtualKeyCode": 9},
    "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
}


@contextlib.contextmanager
def new_page(program, profile):
    """A tab of a browser of its own.

    Args:
      program: of `find`.
      profile: an empty directory for what it keeps.
    """
    (reads, commands), (answers, writes) = os.pipe(), os.pipe()
    flags = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    # By a shell, since the pipes have to be 3 and 4.
    line = f"exec {shlex.join(map(str, flags))} 3<&{reads} 4>&{writes}"
    process = subprocess.Popen(
        ["bash", "-c", line],
        pass_fds=(reads, writes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reads)
    os.close(writes)
    with os.fdopen(commands, "wb") as to, os.fdopen(answers, "rb") as from_:
        try:
            page = Page(to, from_)
            yield page
            page._session = None
            page.ask("Browser.close")
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
