"""A page in headless Chromium, driven over the DevTools protocol."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE_S = 60
KEYS = {"Tab": 9, "Enter": 13, " ": 32}


@dataclass
class Page:
    """One tab, and all that it said and asked for since it was opened."""

    socket: websocket.WebSocket
    session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.socket.send(
            json.dumps(message | ({"sessionId": self.session} if self.session else {}))
        )
        while True:
            said = json.loads(self.socket.recv())
            if said.get("id") == self.number:
                assert "error" not in said, said
                return dict(said["result"])
            self.events.append(said)

    def open(self, path: Path) -> None:
        """Load a file and wait until it is shown."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + PATIENCE_S
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < deadline, "the page did not load"

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as plain data."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def width(self, pixels: int, height: int = 800) -> None:
        """Set the size of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=pixels,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        code = KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        about = {"key": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, element: str) -> None:
        """Click the middle of what a JavaScript expression names."""
        self.value("document.documentElement.style.scrollBehavior = 'auto'")
        self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, wide, high = self.value(
            f"(b => [b.x, b.y, b.width, b.height])({element}.getBoundingClientRect())"
        )
        x, y = left + wide / 2, top + high / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, violations of the content policy included."""
        found = []
        for event in self.events:
            said = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(said["exceptionDetails"]))
            if event["method"] == "Runtime.consoleAPICalled" and said["type"] != "log":
                found.append(str(said["args"]))
            if event["method"] == "Log.entryAdded" and said["entry"]["level"] in (
                "error",
                "warning",
            ):
                found.append(said["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """What was asked for, but for what the page holds itself."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]


class Browser:
    """Headless Chromium; a context manager."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        assert CHROMIUM is not None
        self.folder = tempfile.mkdtemp(prefix="safediff-tests-")
        flags = ["--headless=new", "--remote-debugging-port=0", "--disable-gpu", "--no-first-run"]
        flags += ["--disable-dev-shm-usage", f"--user-data-dir={self.folder}", *options]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        self.process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.sockets: list[websocket.WebSocket] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        for socket in self.sockets:
            socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def page(self) -> Page:
        """A new tab."""
        socket = websocket.create_connection(
            self._address(), suppress_origin=True, timeout=PATIENCE_S
        )
        self.sockets.append(socket)
        page = Page(socket)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        return page

    def _address(self) -> str:
        """Chromium writes it down once it listens."""
        path = Path(self.folder) / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE_S
        while not (path.exists() and re.fullmatch(r"\d+\n\S+", path.read_text())):
            assert self.process.poll() is None, "Chromium ended"
            assert time.monotonic() < deadline, "Chromium does not listen"
            time.sleep(0.05)
        port, where = path.read_text().split("\n")
        return f"ws://127.0.0.1:{port}{where}"
