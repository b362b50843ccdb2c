"""The service in a container, without capabilities and without a writable file system."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
from support.image_builder import podman
from support.redis_server import free_port, wait_until

_STOP_S = 40


class ServiceContainer:
    """A container of the service; a context manager that starts it, waits for /readyz and removes it.

    Args:
        image: Name of the image, from `image_builder.build`.
        settings: EDGESAM_… variables. The port is a free one.
        options: Additional options of `podman run`.
        ready: Whether to wait for /readyz.
        start_s: Longest duration of the start, in seconds.
    """

    RESTRICTIONS = (
        *("--pull", "never", "--network", "host", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges"),
    )

    def __init__(
        self,
        image: str,
        settings: Mapping[str, str] | None = None,
        *,
        options: Sequence[str] = (),
        ready: bool = True,
        start_s: float = 120.0,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._image = image
        self._settings = {"EDGESAM_HOST": "127.0.0.1", "EDGESAM_PORT": str(self.port), **(settings or {})}
        self._options = [*self.RESTRICTIONS, *options]
        self._ready, self._start_s = ready, start_s

    def __enter__(self) -> Self:
        settings = [word for name, value in self._settings.items() for word in ("-e", f"{name}={value}")]
        self.name = podman("run", "-d", *self._options, *settings, self._image).stdout.strip()
        try:
            if self._ready:
                wait_until(self._is_ready, timeout_s=self._start_s, what="the container did not become ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        podman("rm", "-f", "-t", "1", self.name)

    def sh(self, script: str) -> str:
        """Return the output of a shell script in the container."""
        return podman("exec", self.name, "sh", "-c", script).stdout

    def probe(self) -> subprocess.CompletedProcess[str]:
        """Run the image's HEALTHCHECK once. Its exit status is 0 if the container is healthy."""
        return podman("healthcheck", "run", self.name, check=False)

    def state(self) -> dict[str, Any]:
        """Return the State of the container, from podman."""
        (known,) = json.loads(podman("inspect", self.name).stdout)
        return dict(known["State"])

    def log(self) -> str:
        """Return the log of the container."""
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Send SIGTERM, and SIGKILL after _STOP_S seconds. Returns the exit status."""
        podman("stop", "-t", str(_STOP_S), self.name)
        return int(self.state()["ExitCode"])

    def wait_for_exit(self) -> int:
        """Wait until the container ends by itself, and return its exit status."""
        return int(podman("wait", self.name).stdout)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            state = self.state()
            assert state["Running"], f"the container ended with {state['ExitCode']}: {self.log()}"
            return False
