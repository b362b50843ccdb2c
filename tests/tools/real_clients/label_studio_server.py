"""Label Studio as a process of its own on loopback, with its SQLite database in a temporary folder."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx

USER = "annotator@example.com"
PASSWORD = "a password for a test"
START_S = 900.0  # the first start creates the database: half a minute, or many on a busy machine


class LabelStudio:
    """Label Studio; a context manager that starts and stops it.

    Args:
        python: Python of the environment that has it.
        folder: Folder for its database and files.
        settings: Further environment variables.
    """

    def __init__(self, python: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self._program = python.parent / "label-studio"
        self.folder = folder
        self.log = folder / "label-studio.log"
        self._settings = settings
        self.url = ""

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "DJANGO_DB": "sqlite",
            **self._settings,
        }
        options = {"port": port, "internal-host": "127.0.0.1", "data-dir": self.folder}
        user = {"username": USER, "password": PASSWORD}
        arguments = [f"--{name}={value}" for name, value in {**options, **user}.items()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self._program, "start", "--no-browser", *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, by force after 20 s."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise RuntimeError(f"Label Studio does not start:\n{self.log.read_text(errors='replace')[-4000:]}")


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
