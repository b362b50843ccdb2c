"""Start and control the process of the load generator."""

import base64
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tools.bench.samples import Samples

_PROGRAM = Path(__file__).parent / "load.py"
# Longest time that a job may need in addition to its own, for slow responses.
_EXTRA_S = 120.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request of a traced open loop, and its response."""

    due_s: float  # perf_counter, the same in all processes
    ms: float
    status: str  # HTTP status, or the error of the connection
    code: str  # problem code, or empty
    timings: str  # header Server-Timing, or empty


@dataclass(frozen=True, slots=True)
class Load:
    """Results of one job."""

    samples: Samples
    per_s: float  # responses with status 200
    refused: int  # number of responses with status 503
    failed: int  # number of other responses and errors
    late_ms: Samples  # delay of sending in an open loop
    cpu_share: float  # share of one core that the load generator used
    trace: list[Exchange]


def warm_seconds(seconds: float) -> float:
    """Return the time that is not measured at the start of a job of so many measured seconds."""
    return min(1.0, seconds / 4)


class LoadGenerator:
    """Runs one job at a time in a separate process; a context manager that ends the process."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(timeout=10)
        self._reader.join(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def closed(self, url: str, requests: Sequence[bytes], *, clients: int, seconds: float) -> Load:
        """Run a closed loop in which each client sends after its last response. Client i sends request i."""
        return self._run(url, requests, seconds, clients=clients)

    def open(
        self, url: str, requests: Sequence[bytes], *, rate: float, seconds: float, seed: int | None = None
    ) -> Load:
        """Run a traced open loop of `rate` requests per second: regular, or with a seed random (Poisson)."""
        return self._run(url, requests, seconds, rate=rate, seed=seed, is_traced=True)

    def start_endless(self, url: str, request: bytes, *, vary_at: int, seconds: float) -> None:
        """Start a closed loop of one client whose requests differ in 16 bytes. `wait` returns the result."""
        self._start(url, [request], seconds, warm_s=0.0, clients=1, vary_at=vary_at)
        self._seconds = seconds

    def start_open(
        self, urls: Sequence[str], requests: Sequence[bytes], *, rate: float, seconds: float, seed: int | None = None
    ) -> None:
        """Start a traced open loop over one or several replicas. `wait` returns the result."""
        others = [(address.hostname, address.port) for address in map(urlsplit, urls[1:])]
        self._seconds = seconds
        self._start(urls[0], requests, seconds, warm_s=0.0, rate=rate, seed=seed, others=others, is_traced=True)

    def wait(self) -> Load:
        """Wait for the running job and return its result."""
        try:
            line = self._lines.get(timeout=self._seconds + _EXTRA_S)
        except queue.Empty:
            raise RuntimeError(f"the load generator did not end within {self._seconds + _EXTRA_S:.0f} s") from None
        if line is None:
            raise RuntimeError("the load generator ended; its message is above")
        result = json.loads(line)
        statuses: dict[str, int] = result["statuses"]
        ok, refused = statuses.get("200", 0), statuses.get("503", 0)
        return Load(
            samples=Samples(result["ms"]),
            per_s=result["per_s"],
            refused=refused,
            failed=sum(statuses.values()) - ok - refused,
            late_ms=Samples(result["late_ms"]),
            cpu_share=result["cpu_share"],
            trace=[Exchange(*item) for item in result["trace"]],
        )

    def _run(self, url: str, requests: Sequence[bytes], seconds: float, **job: Any) -> Load:
        warm_s = warm_seconds(seconds)
        self._seconds = warm_s + seconds
        self._start(url, requests, seconds, warm_s=warm_s, **job)
        load = self.wait()
        if not load.samples.ms:
            raise RuntimeError(f"no request was answered within {seconds} s: {load.refused=} {load.failed=}")
        return load

    def _start(self, url: str, requests: Sequence[bytes], seconds: float, *, warm_s: float, **job: Any) -> None:
        address = urlsplit(url)
        document = {
            "host": address.hostname,
            "port": address.port,
            "requests": [base64.b64encode(data).decode() for data in requests],
            "seconds": seconds,
            "warm_s": warm_s,
            **job,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)
