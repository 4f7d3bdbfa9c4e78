"""Headless Chromium, driven over a pipe by its DevTools protocol: no driver, no port."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page in Chromium, and what it told while it was loaded.

    Attributes:
        complaints: Texts of console messages, exceptions and log entries.
        requests: Addresses that were asked for.
    """

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self._session = None
        self._number = 0
        self._events = set()
        self.complaints = []
        self.requests = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=True, **offline)

    def call(self, method, **parameters):
        """Calls a method of the protocol and waits for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._send(message | ({"sessionId": self._session} if self._session else {}))
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def open(self, url, *, width, is_dark=False, has_scripts=True):
        """Loads an address in a viewport of so many pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not has_scripts)
        self._events.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._note(self._receive())

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path):
        """Writes the whole page as a PNG file."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(content["data"]))

    def _note(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        self._events.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])


@contextlib.contextmanager
def open_browser():
    """A page in a new browser, which ends with the context."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    # A helper process of the browser may outlive it by a moment and still write into the profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol's pipes are descriptors 3 and 4 of the browser's process.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        process = subprocess.Popen(
            ["bash", "-c", shell, CHROMIUM, *flags, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": profile},
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        with os.fdopen(from_us, "wb", buffering=0) as sending, os.fdopen(to_us, "rb") as receiving:
            try:
                yield Page(lambda message: _send(sending, message), lambda: _receive(receiving))
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _send(file, message):
    file.write(json.dumps(message).encode() + b"\0")


def _receive(file):
    content = bytearray()
    while (byte := file.read(1)) != b"\0":
        assert byte, "the browser ended"
        content += byte
    return json.loads(content)
