"""Headless Chromium by chromedriver and the W3C WebDriver protocol, with nothing but the standard library."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

#: Chromium never asks the network for anything of its own, and starts with an empty profile.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-device-scale-factor=1",
]
START_SECONDS = 30
ANSWER_SECONDS = 60


class Browser:
    """A browser with one page; to be used in a `with` statement."""

    def __init__(self, width, height):
        self.size = (width, height)

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="ringlane-chromium-")
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self):
        """Opens the browser's session."""
        self.base = f"http://127.0.0.1:{self._port()}"
        width, height = self.size
        flags = [*FLAGS, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
        options = {"args": flags, "binary": shutil.which("chromium") or shutil.which("chromium-browser")}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{session['sessionId']}"

    def __exit__(self, *_):
        try:
            self._call("DELETE", "")
        finally:
            self._stop()

    def _stop(self):
        """Ends the driver, and the browser with it."""
        self.driver.terminate()
        self.driver.wait(timeout=START_SECONDS)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _port(self):
        """The port that chromedriver chose and prints."""
        deadline = time.monotonic() + START_SECONDS
        for line in self.driver.stdout:
            words = line.strip().rstrip(".").split("successfully on port ")
            if len(words) == 2:
                return int(words[1])
            if time.monotonic() > deadline:
                break
        raise RuntimeError("chromedriver does not say its port")

    def _call(self, method, path, body=None):
        data = None if body is None and method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            self.base + path, data=data, method=method, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        """Loads a local file."""
        self._call("POST", "/url", {"url": Path(path).resolve().as_uri()})

    def run(self, script, *arguments):
        """The value of a script that ends with `return`."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def color_scheme(self, scheme):
        """Makes the page believe that the user wants `light` or `dark`."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self._call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": media})

    def screenshot(self, path):
        """The whole page as a PNG."""
        params = {"captureBeyondViewport": True, "format": "png"}
        image = self._call("POST", "/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": params})
        Path(path).write_bytes(base64.b64decode(image["data"]))

    def console(self):
        """What the page wrote to its console, errors included."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self, page):
        """The address of every request that a page has made, itself included."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [entry for entry in messages if entry["method"] == "Network.requestWillBeSent"]
        own = [entry["params"] for entry in sent if entry["params"]["documentURL"] == page]
        return [entry["request"]["url"] for entry in own]
