"""Two replicas on one Redis, monitored by Prometheus, under a load of all kinds of requests, good and bad."""

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
# Small limits, so that every cache and queue is full within seconds.
SETTINGS = {
    "EDGESAM_THREADS": "1",
    "EDGESAM_MEMORY_CACHE_BYTES": str(22 << 20),
    "EDGESAM_MASK_MEMORY_BYTES": str(2 << 20),
    "EDGESAM_MAX_SEGMENT_REQUESTS": "6",
    "EDGESAM_REDIS_BREAKER_OPEN_S": "1",
}
REDIS = ["--maxmemory 20mb", "--maxmemory-policy allkeys-lfu"]
IMAGES = 6
CLICKERS = 2
CLICK_PAUSE_S = 0.05
BURST_EVERY_S = 3.0


class WatchedService:
    """The services, Redis, its exporter and Prometheus; a context manager.

    Attributes:
        replicas: The two services.
        prometheus: Prometheus, which scrapes replicas and exporter every second, with the rules of the repository.
        traces: Trace ids of the prompts.
    """

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.redis = stack.enter_context(RedisServer(arguments=REDIS))
            settings = {**SETTINGS, "EDGESAM_REDIS_URL": self.redis.url}
            # The second replica has a separate port for metrics, as in a cluster.
            separate = {**settings, "EDGESAM_METRICS_PORT": "0"}
            self.replicas = [stack.enter_context(ServiceProcess(own)) for own in (settings, separate)]
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
        """Wait until every target has been scraped again."""
        count = "min(count_over_time(up[1h]))"
        wait_until(lambda: bool(self.prometheus.values(count)), timeout_s=30, what="nothing was scraped")
        (before,) = self.prometheus.values(count)
        wait_until(lambda: self.prometheus.values(count)[0] >= before + 2, timeout_s=30, what="no new scrapes")

    def use(self, seconds: float) -> None:
        """Send prompts, everything requests, uploads, bad requests and bursts for a time, and pause Redis once."""
        self._until = monotonic() + seconds
        with ThreadPoolExecutor(CLICKERS + 4) as pool:
            loads = [pool.submit(self._click, seed) for seed in range(CLICKERS)]
            loads += [pool.submit(self._upload), pool.submit(self._send_bad_requests)]
            loads += [pool.submit(self._find_objects), pool.submit(self._send_bursts, seconds / 2)]
            for load in loads:
                load.result()

    def _pause(self, seconds: float) -> bool:
        """Wait, and return whether there is time left."""
        threading.Event().wait(seconds)
        return monotonic() < self._until

    def _click(self, seed: int) -> None:
        """Send prompts on images by Zipf's law, and upload images that no cache has."""
        rng = random.Random(seed)
        popular = [1 / (rank + 1) for rank in range(IMAGES)]
        known: dict[int, str] = {}
        with open_client(self.replicas[0].url) as first, open_client(self.replicas[1].url) as second:
            while self._pause(rng.expovariate(1 / CLICK_PAUSE_S)):
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

    def _upload(self) -> None:
        """Upload new images."""
        seed = 1000
        with open_client(self.replicas[0].url) as client:
            while self._pause(BURST_EVERY_S):
                seed += 1
                client.post("/embed", content=noise_file(SIZE, seed=seed))

    def _find_objects(self) -> None:
        """Ask for all objects of an image, with parameters that Redis has and others."""
        with open_client(self.replicas[0].url) as client:
            while self._pause(BURST_EVERY_S / 3):
                image = client.post("/embed", content=noise_file(SIZE, seed=0)).json().get("image_hash")
                for points_per_side in (1, 2):
                    body = {"image_hash": image, "points_per_side": points_per_side, "pred_iou_thresh": 0}
                    client.post("/segment/everything", json={**body, "stability_score_thresh": 0})

    def _send_bad_requests(self) -> None:
        """Send bad requests of several kinds to the second replica."""
        with open_client(self.replicas[1].url) as client:
            while self._pause(BURST_EVERY_S / 6):
                client.post("/segment", content=b"{")
                client.post("/segment", json={"image_hash": "2" * 64, "prompts": [point(1, 1)]})
                client.post("/embed", content=b"no image")
                client.get("/nowhere")

    def _send_bursts(self, pause_redis_after_s: float) -> None:
        """Send more prompts at once than there are permits, and pause Redis once for a few seconds."""
        pause_at = monotonic() + pause_redis_after_s
        with open_client(self.replicas[0].url) as client, ThreadPoolExecutor(16) as burst:
            answer = client.post("/embed", content=noise_file(SIZE, seed=0))
            body = {"image_hash": answer.json()["image_hash"], "prompts": [point(9, 9)] * 4}
            while self._pause(BURST_EVERY_S):
                list(burst.map(lambda _: client.post("/segment", json=body), range(16)))
                if monotonic() > pause_at:
                    pause_at = float("inf")
                    self.redis.pause()
                    try:
                        for seed in range(8):
                            if not self._pause(0.3):
                                break
                            unknown = {**body, "image_hash": f"{seed:064x}"}
                            client.post("/segment", json=unknown)
                    finally:
                        self.redis.resume()
