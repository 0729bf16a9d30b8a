"""A headless Chromium that a test drives by the DevTools protocol over a pair of pipes, without another package."""

import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One page in a browser of its own, whose profile lies in `folder`."""

    def __init__(self, folder: Path, width: int = 1200, height: int = 1000) -> None:
        here, there = os.pipe(), os.pipe()  # to the browser, and from it

        def connect() -> None:
            # The browser reads descriptor 3 and writes 4.
            reads, writes = os.dup(here[0]), os.dup(there[1])
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self.process = subprocess.Popen(
            [
                str(CHROMIUM),
                *FLAGS,
                f"--user-data-dir={folder}",
                f"--window-size={width},{height}",
            ],
            preexec_fn=connect,  # noqa: PLW1509  # of a test without other threads
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(here[0])
        os.close(there[1])
        self.to = os.fdopen(here[1], "wb", buffering=0)
        self.back = os.fdopen(there[0], "rb", buffering=0)
        self.count, self.rest, self.session = 0, b"", None
        self.errors: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.ask("Runtime.enable")
        self.ask("Page.enable")

    def ask(self, method: str, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"])[:500])
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self.rest:
            read = os.read(self.back.fileno(), 2**20)
            assert read, "the browser has gone"
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        )

    def wait(self, expression: str) -> None:
        for _ in range(100):
            if self.value(expression):
                return
            self.value("new Promise((done) => setTimeout(done, 50))")
        raise AssertionError(f"{expression} did not become true; {self.errors}")

    def value(self, expression: str):
        result = self.ask(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def settled(self) -> None:
        """Wait until what was asked for is drawn."""
        self.value(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def drag(self, *places: tuple[float, float]) -> None:
        self.mouse("mousePressed", *places[0])
        for place in places[1:]:
            self.mouse("mouseMoved", *place)
        self.mouse("mouseReleased", *places[-1])
        self.settled()

    def touch(self, *places: tuple[float, float]) -> None:
        """Put a finger down, move it and take it away."""
        self.ask("Emulation.setTouchEmulationEnabled", enabled=True)
        kinds = ["touchStart", *["touchMove"] * (len(places) - 1)]
        for kind, (x, y) in zip(kinds, places, strict=True):
            finger = [{"x": x, "y": y}]
            self.ask("Input.dispatchTouchEvent", type=kind, touchPoints=finger)
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settled()

    def narrow(self, width: int, height: int) -> None:
        """Be a telephone."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=True,
        )

    def key(self, name: str) -> None:
        code = {"windowsVirtualKeyCode": 9} if name == "Tab" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, **code)
        self.settled()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.to.close()
        self.back.close()
