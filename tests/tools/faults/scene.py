"""Parts that experiments share: processes, images, loads, and samples of a process.

A load is an open loop of requests that are prepared beforehand. `zipf` mixes prompts and uploads over many images.
`sampler` records memory, open files and threads of a process.
"""

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Self

from support.noise_images import as_file, noise_image
from support.service_client import Scrape, embed, open_client, point
from support.service_process import ServiceProcess
from tools.bench.connection import request
from tools.bench.load_generator import LoadGenerator
from tools.capacity.sizes import image_sizes
from tools.faults.outcome import Interval, Outcome, Row, row_of

from service.settings import BUNDLED_MODEL

Requests = Sequence[bytes]
SIZE = (480, 640)
# Responses take milliseconds, but a busy machine may stop for seconds. The tables have the measured times.
SLOWEST_MS = 20_000
COMMENT_AT = 6
_COMMENT = b"\xff\xfe\x00\x12"  # JPEG's marker of a comment and its length: 2 + 16 bytes


@dataclass(frozen=True, slots=True)
class Effort:
    """Durations of an experiment, its request rates and settings of the service."""

    before_s: float
    during_s: float
    after_s: float
    unresponsive_s: float  # of a Redis that does not answer
    clicks_per_s: float
    cold_clicks_per_s: float  # on images that are in Redis only
    uploads_per_s: float  # 0: none
    images: int
    breaker_failures: int
    breaker_open_s: float
    lock_ttl_s: float
    drain_s: float


QUICK = Effort(
    before_s=0.4, during_s=1.0, after_s=1.0, unresponsive_s=1.5, clicks_per_s=4.0, cold_clicks_per_s=6.0,
    uploads_per_s=0.0, images=3, breaker_failures=2, breaker_open_s=0.4, lock_ttl_s=1.0, drain_s=0.8,
)  # fmt: skip
FULL = Effort(
    before_s=2.0, during_s=5.0, after_s=7.0, unresponsive_s=60.0, clicks_per_s=5.0, cold_clicks_per_s=2.5,
    uploads_per_s=0.15, images=4, breaker_failures=5, breaker_open_s=5.0, lock_ttl_s=10.0, drain_s=3.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind at a fixed rate.

    Args:
        asked: Kind of request, for the table.
        urls: Addresses of the replicas.
        requests: Requests as bytes.
        per_s: Requests per second.
    """

    asked: str
    urls: Sequence[str]
    requests: Requests
    per_s: float


class Scene:
    """Processes and files of an experiment; a context manager that ends all processes.

    Args:
        effort: Durations and rates.
        folder: Folder for files of the experiment.
        model: Folder of the artifact that services serve, unless they name another one.
    """

    def __init__(self, effort: Effort, folder: Path, model: Path = BUNDLED_MODEL) -> None:
        self.effort = effort
        self.folder = folder
        self.model = model
        self._stack = ExitStack()
        self._seeds = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, context: Any) -> Any:
        """Enter a context that lasts until the end of the scene."""
        return self._stack.enter_context(context)

    def service(self, **settings: object) -> ServiceProcess:
        """Start a replica. Settings have their names without the prefix."""
        return self.enter(self.process(**settings))

    def retire(self, *services: ServiceProcess) -> None:
        """Stop replicas that are not needed any more."""
        for service in services:
            service.stop()

    def process(self, *, prefix: Sequence[str] = (), **settings: object) -> ServiceProcess:
        """Return a replica that is not started. Settings have their names without the prefix."""
        own = {
            "EDGESAM_MODEL_DIR": self.model,
            "EDGESAM_REDIS_BREAKER_FAILURES": self.effort.breaker_failures,
            "EDGESAM_REDIS_BREAKER_OPEN_S": self.effort.breaker_open_s,
            "EDGESAM_REDIS_LOCK_TTL_S": self.effort.lock_ttl_s,
            # Redis may be slow on a busy machine.
            "EDGESAM_REDIS_READ_TIMEOUT_S": 0.25,
        }
        named = {f"EDGESAM_{name.upper()}": str(value) for name, value in settings.items()}
        return ServiceProcess({name: str(value) for name, value in own.items()} | named, prefix=prefix)

    def memory_bytes(self, images: int) -> int:
        """Return the size of a memory tier that holds a number of images of the model, and not one more."""
        return round((images * image_sizes(self.model).memory_mib + 1) * (1 << 20))

    def image(self, size: tuple[int, int] = SIZE) -> bytes:
        """Return a new JPEG. Other values of the 16 bytes at COMMENT_AT make other files of it."""
        self._seeds += 1
        data = as_file(noise_image(size, self._seeds), "JPEG")
        return data[:2] + _COMMENT + b"0" * 16 + data[2:]

    def images(self) -> list[bytes]:
        """Return the images of a load."""
        return [self.image() for _ in range(self.effort.images)]

    def watch(
        self,
        fault: str,
        streams: Sequence[Stream],
        strike: Callable[[], None],
        heal: Callable[[], None],
        *,
        during_s: float | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> list[Row]:
        """Run streams of requests before, during and after a fault, and return a row for each stream.

        Args:
            fault: Name of the fault.
            streams: Streams of requests.
            strike: Function that causes the fault.
            heal: Function that ends the fault.
            during_s: Time from `strike` to `heal`, in seconds.
            look: Function that is called before `heal`.
        """
        effort = self.effort
        during_s = effort.during_s if during_s is None else during_s
        with ExitStack() as stack:
            loads = [stack.enter_context(LoadGenerator()) for _ in streams]
            seconds = effort.before_s + during_s + effort.after_s
            started = perf_counter()
            for load, stream in zip(loads, streams, strict=True):
                load.start_open(stream.urls, stream.requests, rate=stream.per_s, seconds=seconds, seed=1)
            sleep_until(started + effort.before_s)
            strike()
            began_s = perf_counter()
            sleep_until(began_s + during_s)
            look()
            heal()
            ended_s = perf_counter()
            traces = [load.wait().trace for load in loads]
        interval = Interval(began_s, ended_s)
        return [row_of(fault, stream.asked, trace, interval) for stream, trace in zip(streams, traces, strict=True)]


def click(image_hash: str, number: int = 0, *, size: tuple[int, int] = SIZE) -> bytes:
    """Return a request with one point, which depends on `number`, on an image of this height and width."""
    x, y = 20 + 37 * number % (size[1] - 40), 20 + 53 * number % (size[0] - 40)
    body = {"image_hash": image_hash, "prompts": [point(x, y)]}
    return request("POST", "/segment", json.dumps(body).encode())


def upload(image: bytes) -> bytes:
    """Return an upload request."""
    return request("POST", "/embed", image, {"Content-Type": "image/jpeg"})


def with_key(data: bytes, key: str) -> bytes:
    """Return a request with an additional API key."""
    return data.replace(b"\r\n", f"\r\nX-API-Key: {key}\r\n".encode(), 1)


def embed_all(url: str, images: Sequence[bytes], *, key: str | None = None) -> list[str]:
    """Embed images and return their hashes."""
    with open_client(url, headers={"X-API-Key": key} if key else {}) as client:
        return [embed(client, image) for image in images]


def redis_state(url: str) -> tuple[str, float]:
    """Return the state of Redis in /readyz, and the metric of the circuit breaker."""
    with open_client(url) as client:
        return client.get("/readyz").json()["redis"], Scrape(client).value("edgesam_redis_breaker_open")


def zipf(clicks: Sequence[bytes], uploads: Sequence[bytes], count: int, *, uploads_share: float, seed: int) -> Requests:
    """Return a random mix of requests, in which the k-th image gets 1/k of the first image's prompts."""
    draw = random.Random(seed)
    weights = [1.0 / rank for rank in range(1, len(clicks) + 1)]
    return [
        draw.choice(uploads) if uploads and draw.random() < uploads_share else draw.choices(clicks, weights)[0]
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """Resources of a process at one moment."""

    at_s: float
    rss_bytes: int
    files: int
    threads: int


def process_sample(pid: int) -> Sample:
    """Return the resources of a process now, from /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(perf_counter(), int(fields["VmRSS"]) * 1024, files, int(fields["Threads"]))


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process since `reset_peak`, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def reset_peak(pid: int) -> None:
    """Reset the peak memory of a process."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def sampler(pid: int, *, every_s: float) -> Iterator[list[Sample]]:
    """Sample a process periodically while the block runs."""
    samples, is_over = [process_sample(pid)], threading.Event()

    def follow() -> None:
        while not is_over.wait(every_s):
            samples.append(process_sample(pid))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join(10)


def sleep_until(at_s: float) -> None:
    """Sleep while a load runs."""
    sleep(max(0.0, at_s - perf_counter()))


def ok_only(outcome: Outcome, row: Row) -> None:
    """Check that no request failed or was too slow, even for a busy machine."""
    outcome.promise(not row.errors, f"{row.fault}: {row.asked} failed: {row.errors}")
    outcome.promise(row.slowest_ms < SLOWEST_MS, f"{row.fault}: {row.asked} took {row.slowest_ms:.0f} ms")


def problems_only(outcome: Outcome, row: Row, allowed: set[str]) -> None:
    """Check that failures are allowed problems and end soon after the fault."""
    unexpected = {what: count for what, count in row.errors.items() if what not in allowed}
    outcome.promise(not unexpected, f"{row.fault}: {row.asked} was answered {unexpected}")
    outcome.promise(row.recovery_s < 10, f"{row.fault}: {row.asked} recovered after {row.recovery_s:.1f} s")
