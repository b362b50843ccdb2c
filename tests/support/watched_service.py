"""Two replicas on one Redis, watched by Prometheus, and people who use them: clicks, uploads, mistakes, a crowd."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Self

import httpx
from support.noise_images import noise_file
from support.prometheus_server import PrometheusServer, RedisExporter
from support.redis_server import RedisServer, wait_until
from support.service_client import open_client, point
from support.service_process import ServiceProcess

RULES = Path(__file__).parent.parent.parent / "k8s" / "components" / "monitoring" / "rules.yaml"
SIZE = (480, 640)
# Small, so that everything that can be full is full within seconds.
SETTINGS = {
    "EDGESAM_THREADS": "1",
    "EDGESAM_MEMORY_CACHE_BYTES": str(45 << 20),
    "EDGESAM_MASK_MEMORY_BYTES": str(2 << 20),
    "EDGESAM_MAX_SEGMENT_REQUESTS": "6",
    "EDGESAM_REDIS_BREAKER_OPEN_S": "1",
}
REDIS = ["--maxmemory 20mb", "--maxmemory-policy allkeys-lfu"]
IMAGES = 6


class WatchedService:
    """A context manager: everything runs inside.

    Attributes:
        replicas: the two services.
        prometheus: scrapes them and the exporter every second, with the rules of the repository.
    """

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.redis = stack.enter_context(RedisServer(arguments=REDIS))
            settings = {**SETTINGS, "EDGESAM_REDIS_URL": self.redis.url}
            # One has its metrics on a port of their own, as in a cluster.
            apart = {**settings, "EDGESAM_METRICS_PORT": "0"}
            self.replicas = [stack.enter_context(ServiceProcess(own)) for own in (settings, apart)]
            (port,) = (line["port"] for line in self.replicas[1].log if line["event"] == "metrics")
            targets = [self.replicas[0].url.removeprefix("http://"), f"127.0.0.1:{port}"]
            self.exporter = stack.enter_context(RedisExporter(self.redis.url))
            jobs = {"edgesam": targets, "edgesam-redis": [f"127.0.0.1:{self.exporter.port}"]}
            self.prometheus = stack.enter_context(PrometheusServer(jobs, RULES.read_text()))
            self.traces: list[str] = []
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_for_scrapes(self) -> None:
        """Return when every target was scraped once more than now."""
        count = "min(count_over_time(up[1h]))"
        wait_until(lambda: bool(self.prometheus.values(count)), timeout_s=30, what="nothing was scraped")
        (before,) = self.prometheus.values(count)
        wait_until(lambda: self.prometheus.values(count)[0] >= before + 2, timeout_s=30, what="scrapes stand still")

    def use(self, seconds: float, *, clickers: int = 2, pause_s: float = 0.05, crowd_every_s: float = 3.0) -> None:
        """People at work for so long: clickers, somebody who uploads, one who errs, a crowd, and a Redis that hangs."""
        self._until = monotonic() + seconds
        with ThreadPoolExecutor(clickers + 3) as pool:
            people = [pool.submit(self._click, seed, pause_s) for seed in range(clickers)]
            people += [pool.submit(self._upload, crowd_every_s), pool.submit(self._err, crowd_every_s / 6)]
            people += [pool.submit(self._crowd, crowd_every_s, seconds / 2)]
            for one in people:
                one.result()

    def _pause(self, seconds: float) -> bool:
        """Wait, and say whether there is time left."""
        threading.Event().wait(seconds)
        return monotonic() < self._until

    def _click(self, seed: int, pause_s: float) -> None:
        """Clicks on images, some far more often than others; uploads what the service has not."""
        rng = random.Random(seed)
        popular = [1 / (rank + 1) for rank in range(IMAGES)]
        known: dict[int, str] = {}
        with open_client(self.replicas[0].url) as first, open_client(self.replicas[1].url) as second:
            while self._pause(rng.expovariate(1 / pause_s)):
                client = rng.choice([first, second])
                (number,) = rng.choices(range(IMAGES), popular)
                with suppress(httpx.HTTPError, KeyError):
                    if number not in known:
                        answer = client.post("/embed", content=noise_file(SIZE, seed=number))
                        known[number] = answer.json()["image_hash"]
                    trace = f"{rng.getrandbits(128) | 1:032x}"
                    self.traces.append(trace)
                    body = {"image_hash": known[number], "prompts": [point(rng.uniform(0, 639), rng.uniform(0, 479))]}
                    headers = {"traceparent": f"00-{trace}-{rng.getrandbits(64) | 1:016x}-01"}
                    if client.post("/segment", json=body, headers=headers).status_code == 404:
                        del known[number]

    def _upload(self, every_s: float) -> None:
        """Images that nobody has seen."""
        seed = 1000
        with open_client(self.replicas[0].url) as client:
            while self._pause(every_s):
                seed += 1
                client.post("/embed", content=noise_file(SIZE, seed=seed))

    def _err(self, every_s: float) -> None:
        """Everything that a client can do wrong, to the second replica."""
        with open_client(self.replicas[1].url) as client:
            while self._pause(every_s):
                client.post("/segment", content=b"{")
                client.post("/segment", json={"image_hash": "2" * 64, "prompts": [point(1, 1)]})
                client.post("/embed", content=b"no image")
                client.get("/nowhere")

    def _crowd(self, every_s: float, hang_after_s: float) -> None:
        """More clicks at once than there are permits; and once, Redis says nothing for a while."""
        hang_at = monotonic() + hang_after_s
        with open_client(self.replicas[0].url) as client, ThreadPoolExecutor(16) as crowd:
            answer = client.post("/embed", content=noise_file(SIZE, seed=0))
            body = {"image_hash": answer.json()["image_hash"], "prompts": [point(9, 9)] * 4}
            while self._pause(every_s):
                list(crowd.map(lambda _: client.post("/segment", json=body), range(16)))
                if monotonic() > hang_at:
                    hang_at = float("inf")
                    self.redis.pause()
                    try:
                        for seed in range(8):
                            if not self._pause(0.3):
                                break
                            unknown = {**body, "image_hash": f"{seed:064x}"}
                            client.post("/segment", json=unknown)
                    finally:
                        self.redis.resume()
