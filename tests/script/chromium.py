"""Drive headless Chromium by its DevTools protocol over pipes, without further packages."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_END = b"\0"


class Tab:
    """A page in the browser.

    Attributes:
        messages: errors of the page's console and scripts.
    """

    def __init__(self, commands, answers):
        self._commands, self._answers, self._ids = commands, answers, itertools.count(1)
        self._session, self.messages = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + _END)
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            content = answer.get("params", {})
            is_fault = content.get("entry", {}).get("level") == "error"
            if is_fault or answer.get("method") == "Runtime.exceptionThrown":
                self.messages.append(content)

    def _read(self):
        content = b"".join(iter(lambda: self._answers.read(1), _END))
        return json.loads(content)

    def evaluate(self, script):
        """Return the value of an expression, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition, *, seconds=60):
        """Wait until an expression is true."""
        poll = f"(function poll(n) {{ return ({condition}) ? true : n ? new Promise((done) => "
        poll += f"setTimeout(() => done(poll(n - 1)), 100)) : false; }})({10 * seconds})"
        assert self.evaluate(poll), (condition, self.evaluate("document.body.innerText"))

    def choose_files(self, selector, *paths):
        """Choose files in an input, as a user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path):
        """Write a picture of the page as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def open_tab(profile):
    """Yield an empty page of a new browser; skips the test if there is none."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine; install it (Debian: apt-get install chromium)")
    (commands_out, commands_in), (answers_out, answers_in) = os.pipe(), os.pipe()
    # The protocol's file descriptors are 3 and 4.
    shell = f'exec "$0" "$@" 3<&{commands_out} 4>&{answers_in}'
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-pipe",
        "--window-size=1200,900",
    ]
    process = subprocess.Popen(
        ["bash", "-c", shell, browser, *words, f"--user-data-dir={profile}"],
        pass_fds=(commands_out, answers_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands_out)
    os.close(answers_in)
    try:
        with os.fdopen(commands_in, "wb") as commands, os.fdopen(answers_out, "rb") as answers:
            yield Tab(commands, answers)
    finally:
        process.kill()
        process.wait()
