"""What experiments share: processes that end with the scene, images, loads, and a look at a process from outside.

A load is an open loop of requests that were written beforehand: `zipf` mixes clicks and uploads over many images as
people do, for experiments of half an hour as for those of seconds; `Sampler` follows memory, files and tasks meanwhile.
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
from tools.faults.outcome import Outcome, Row, Spell, row_of

Requests = Sequence[bytes]
SIZE = (480, 640)
# What is promised takes milliseconds; a machine that others use as well may stand still for seconds. The figures tell.
SLOWEST_MS = 20_000
COMMENT_AT = 6
_COMMENT = b"\xff\xfe\x00\x12"  # JPEG's marker of a comment and its length: 2 + 16 bytes


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a fault is watched, and with how many requests a second."""

    before_s: float
    during_s: float
    after_s: float
    silence_s: float  # of a Redis that stands still
    clicks_per_s: float
    cold_clicks_per_s: float  # on images that are in Redis only
    uploads_per_s: float  # 0: none
    images: int
    breaker_failures: int
    breaker_open_s: float
    lock_ttl_s: float
    drain_s: float


QUICK = Effort(
    before_s=0.4, during_s=1.0, after_s=1.0, silence_s=1.5, clicks_per_s=4.0, cold_clicks_per_s=6.0, uploads_per_s=0.0,
    images=3, breaker_failures=2, breaker_open_s=0.4, lock_ttl_s=1.0, drain_s=0.8,
)  # fmt: skip
FULL = Effort(
    before_s=2.0, during_s=5.0, after_s=7.0, silence_s=60.0, clicks_per_s=5.0, cold_clicks_per_s=2.5,
    uploads_per_s=0.15, images=4, breaker_failures=5, breaker_open_s=5.0, lock_ttl_s=10.0, drain_s=3.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request that keeps coming.

    Args:
        asked: what it is, for the table.
        urls: of the replicas that are asked.
    """

    asked: str
    urls: Sequence[str]
    requests: Requests
    per_s: float


class Scene:
    """A context: whatever was started in it has ended when it is left."""

    def __init__(self, effort: Effort, folder: Path) -> None:
        self.effort = effort
        self.folder = folder
        self._stack = ExitStack()
        self._seeds = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, context: Any) -> Any:
        """Keep a context until the end."""
        return self._stack.enter_context(context)

    def service(self, **settings: object) -> ServiceProcess:
        """A replica; settings by their names without the prefix."""
        return self.enter(self.process(**settings))

    def retire(self, *services: ServiceProcess) -> None:
        """End replicas that nobody needs any more."""
        for service in services:
            service.stop()

    def process(self, *, prefix: Sequence[str] = (), **settings: object) -> ServiceProcess:
        """A replica that has not been started; settings by their names without the prefix."""
        own = {
            "EDGESAM_REDIS_BREAKER_FAILURES": self.effort.breaker_failures,
            "EDGESAM_REDIS_BREAKER_OPEN_S": self.effort.breaker_open_s,
            "EDGESAM_REDIS_LOCK_TTL_S": self.effort.lock_ttl_s,
            # A machine that others use as well may be late: the promises are about the service, not about it.
            "EDGESAM_REDIS_READ_TIMEOUT_S": 0.25,
        }
        named = {f"EDGESAM_{name.upper()}": str(value) for name, value in settings.items()}
        return ServiceProcess({name: str(value) for name, value in own.items()} | named, prefix=prefix)

    def image(self, size: tuple[int, int] = SIZE) -> bytes:
        """A JPEG that nobody has seen, with 16 bytes at COMMENT_AT that make as many others of it."""
        self._seeds += 1
        data = as_file(noise_image(size, self._seeds), "JPEG")
        return data[:2] + _COMMENT + b"0" * 16 + data[2:]

    def images(self) -> list[bytes]:
        """As many as a load is spread over."""
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
        """Let the streams come, make the fault, undo it; one row a stream.

        Args:
            during_s: from `strike` to `heal`, seconds.
            look: called just before `heal`.
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
        spell = Spell(began_s, ended_s)
        return [row_of(fault, stream.asked, trace, spell) for stream, trace in zip(streams, traces, strict=True)]


def click(image_hash: str, number: int = 0, *, size: tuple[int, int] = SIZE) -> bytes:
    """One click somewhere on an image of this height and width."""
    x, y = 20 + 37 * number % (size[1] - 40), 20 + 53 * number % (size[0] - 40)
    body = {"image_hash": image_hash, "prompts": [point(x, y)]}
    return request("POST", "/segment", json.dumps(body).encode())


def upload(image: bytes) -> bytes:
    """An image on its way."""
    return request("POST", "/embed", image, {"Content-Type": "image/jpeg"})


def with_key(data: bytes, key: str) -> bytes:
    """A request that was written, with an API key."""
    return data.replace(b"\r\n", f"\r\nX-API-Key: {key}\r\n".encode(), 1)


def embed_all(url: str, images: Sequence[bytes], *, key: str | None = None) -> list[str]:
    """Embed images; their hashes."""
    with open_client(url, headers={"X-API-Key": key} if key else {}) as client:
        return [embed(client, image) for image in images]


def redis_state(url: str) -> tuple[str, float]:
    """What /readyz and the metric say of Redis."""
    with open_client(url) as client:
        return client.get("/readyz").json()["redis"], Scrape(client).value("edgesam_redis_breaker_open")


def zipf(clicks: Sequence[bytes], uploads: Sequence[bytes], count: int, *, uploads_share: float, seed: int) -> Requests:
    """A mix of requests in random order: the k-th image gets 1/k of the first one's clicks."""
    draw = random.Random(seed)
    weights = [1.0 / rank for rank in range(1, len(clicks) + 1)]
    return [
        draw.choice(uploads) if uploads and draw.random() < uploads_share else draw.choices(clicks, weights)[0]
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    at_s: float
    rss_bytes: int
    files: int
    threads: int


def look_at(pid: int) -> Sample:
    """A process now, as the kernel sees it."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(perf_counter(), int(fields["VmRSS"]) * 1024, files, int(fields["Threads"]))


def peak_bytes(pid: int) -> int:
    """The most memory a process has had since `forget_peak`, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def forget_peak(pid: int) -> None:
    """Let the peak begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def sampler(pid: int, *, every_s: float) -> Iterator[list[Sample]]:
    """Look at a process again and again while the block runs."""
    samples, is_over = [look_at(pid)], threading.Event()

    def follow() -> None:
        while not is_over.wait(every_s):
            samples.append(look_at(pid))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join(10)


def sleep_until(at_s: float) -> None:
    """Let a load run; it is what the time is for."""
    sleep(max(0.0, at_s - perf_counter()))


def ok_only(outcome: Outcome, row: Row) -> None:
    """Nothing of this may fail, or be slower than a busy machine explains."""
    outcome.promise(not row.errors, f"{row.fault}: {row.asked} failed: {row.errors}")
    outcome.promise(row.slowest_ms < SLOWEST_MS, f"{row.fault}: {row.asked} took {row.slowest_ms:.0f} ms")


def problems_only(outcome: Outcome, row: Row, allowed: set[str]) -> None:
    """What fails says what to do, and it stops failing when the cause has gone."""
    unexpected = {what: count for what, count in row.errors.items() if what not in allowed}
    outcome.promise(not unexpected, f"{row.fault}: {row.asked} was answered {unexpected}")
    outcome.promise(row.recovery_s < 10, f"{row.fault}: {row.asked} recovered after {row.recovery_s:.1f} s")
