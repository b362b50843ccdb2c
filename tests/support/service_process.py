"""`python -m service` as a child process on a free port, with its log."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent.parent


class ServiceProcess:
    """The service in a process; a context manager that starts and stops it.

    Args:
        settings: EDGESAM_… variables. The port is a free one unless given.
        wait_s: Longest duration of the start, in seconds.
        prefix: Command that runs the service's command with `exec`, for example in a cgroup.
        command: Command that starts the service.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        wait_s: float = 60.0,
        prefix: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "service"),
    ) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGESAM_")}
        defaults = {
            "EDGESAM_PORT": "0",
            "EDGESAM_PROVIDER": os.environ.get("EDGESAM_TEST_PROVIDER", "auto"),
            "MALLOC_ARENA_MAX": "1",  # as the images and `make serve` set it
        }
        self._environment = {**kept, **defaults, "PYTHONUNBUFFERED": "1", **settings}
        self._command = (*prefix, *command)
        self._wait_s = wait_s
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.log: list[dict[str, Any]] = []
        self.url = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self.wait_for("listening")["url"]
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for the next line of the log with this event, and return it. Each line is returned once."""
        return self._next(lambda line: line["event"] == event, repr(event))

    def wait_for_request(self, request_id: str) -> dict[str, Any]:
        """Wait for the next line of the log about a request, which may come after the answer, and return it."""
        return self._next(lambda line: line.get("request_id") == request_id, f"a line about {request_id!r}")

    def terminate(self) -> None:
        """Send SIGTERM, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Send SIGTERM, and SIGKILL after 30 s, and return the exit status."""
        if self.process.poll() is None:
            self.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
        self._reader.join(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode

    def _next(self, matches: Callable[[dict[str, Any]], bool], wanted: str) -> dict[str, Any]:
        while True:
            try:
                line = self._lines.get(timeout=self._wait_s)
            except queue.Empty:
                raise AssertionError(f"no {wanted} in {self._wait_s} s; the log so far: {self.log[-20:]}") from None
            if line is None:
                raise AssertionError(f"the service ended before {wanted}: {self.log[-20:]}")
            if matches(line):
                return line

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": text.rstrip()}
            self.log.append(line)
            self._lines.put(line)
        self._lines.put(None)
