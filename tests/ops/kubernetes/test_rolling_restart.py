"""Rollouts under load: two replicas behind a load balancer are replaced one after the other, and no request fails.

The order is that of a Deployment with maxSurge 1 and maxUnavailable 0.
"""

import asyncio
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
import pytest
from support.balancer import Balancer
from support.noise_images import noise_file
from support.redis_server import RedisServer, free_port
from support.service_client import embed, open_client, point
from support.service_process import ServiceProcess

REPLICAS = 2
DRAIN_S = 5  # the load balancer needs half a second on a quiet machine
ROLLOUTS = 2
CLICKS_PER_S = 6.0
CLICKS_PER_EMBED = 24
# Longer timeouts, because uploads have a lower priority and take long on a busy machine.
LONG_TIMEOUTS = dict.fromkeys(
    ("EDGESAM_EMBED_TIMEOUT_S", "EDGESAM_SEGMENT_TIMEOUT_S", "EDGESAM_GRACEFUL_TIMEOUT_S"), "150"
) | dict.fromkeys(("EDGESAM_REDIS_READ_TIMEOUT_S", "EDGESAM_REDIS_CONNECT_TIMEOUT_S"), "5")
IMAGES = [noise_file((200 + number, 300), seed=number) for number in range(6)]
WAIT_S = 180.0


@dataclass(slots=True)
class Fleet:
    """Replicas behind a load balancer. There is one port more than replicas, for the replica that starts first."""

    balancer: Balancer
    settings: dict[str, str]
    stack: ExitStack
    free_ports: deque[int]
    running: deque[tuple[int, ServiceProcess]] = field(default_factory=deque)

    def start_one(self) -> None:
        """Start a replica, and wait until it gets requests."""
        port = self.free_ports.popleft()
        replica = self.stack.enter_context(ServiceProcess({**self.settings, "EDGESAM_PORT": str(port)}, wait_s=WAIT_S))
        self.balancer.wait_for(port, is_up=True)
        self.running.append((port, replica))

    def stop_oldest(self) -> ServiceProcess:
        """Terminate the oldest replica as a kubelet does, and wait until it has ended."""
        port, replica = self.running.popleft()
        replica.terminate()
        replica.process.wait(WAIT_S)
        self.free_ports.append(port)
        return replica


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two replicas with the bundled model, one Redis and haproxy."""
    ports = [free_port() for _ in range(REPLICAS + 1)]
    with RedisServer() as redis_server, Balancer(tmp_path_factory.mktemp("haproxy"), ports) as balancer:
        settings = {
            **LONG_TIMEOUTS,
            "EDGESAM_REDIS_URL": redis_server.url,
            "EDGESAM_THREADS": "1",
            "EDGESAM_DRAIN_S": str(DRAIN_S),
        }
        for port in ports:
            balancer.wait_for(port, is_up=False)
        with ExitStack() as stack:
            fleet = Fleet(balancer, settings, stack, deque(ports))
            for _ in range(REPLICAS):
                fleet.start_one()
            yield fleet


class Load(threading.Thread):
    """Prompts at a fixed rate, independent of the responses, and uploads of new and known images.

    Half of the prompts have the header X-Image-Hash. Connections are kept alive.

    Attributes:
        answers: Number of responses by kind, status and text.
        replicas: Number of responses by replica.
    """

    def __init__(self, url: str, hashes: list[str]) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[str] = Counter()
        self.replicas: Counter[str] = Counter()
        self._url = url
        self._hashes = hashes
        self._is_over = threading.Event()

    def run(self) -> None:
        """Send requests until `end` is called."""
        asyncio.run(self._send_all())

    def end(self) -> None:
        """Stop sending, and wait for outstanding responses."""
        self._is_over.set()
        self.join(WAIT_S)
        assert not self.is_alive()

    async def _send_all(self) -> None:
        began_at = time.monotonic()
        limits = httpx.Limits(max_keepalive_connections=16, keepalive_expiry=30)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=WAIT_S, trust_env=False, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in itertools.count():
                if self._is_over.is_set() or number > 300 * CLICKS_PER_S:
                    return
                await asyncio.sleep(max(0.0, began_at + number / CLICKS_PER_S - time.monotonic()))
                group.create_task(self._click(client, number))
                if number % CLICKS_PER_EMBED == 0:
                    group.create_task(self._embed(client, number // CLICKS_PER_EMBED))

    async def _click(self, client: httpx.AsyncClient, number: int) -> None:
        image_hash = self._hashes[number % len(self._hashes)]
        body = {"image_hash": image_hash, "prompts": [point(20 + number % 100, 30)], "format": "none"}
        headers = {"X-Image-Hash": image_hash} if number % 2 else {}
        await self._count("click", client.post("/segment", json=body, headers=headers))

    async def _embed(self, client: httpx.AsyncClient, number: int) -> None:
        data = noise_file((90, 90 + number), seed=77) if number % 2 else IMAGES[number % len(IMAGES)]
        await self._count("embed", client.post("/embed", content=data))

    async def _count(self, what: str, request) -> None:
        try:
            response = await request
        except httpx.HTTPError as error:
            self.answers[f"{what}: {error!r}"] += 1
            return
        said = "" if response.status_code == 200 else response.text
        self.answers[f"{what} {response.status_code} {said}".strip()] += 1
        self.replicas[response.headers.get("x-replica", "none")] += 1


def test_prompts_with_the_header_go_to_one_replica_and_others_to_all(fleet):
    with open_client(fleet.balancer.url) as client:
        hashes = [embed(client, data) for data in IMAGES]

        def replicas_of(image_hash: str, headers: dict[str, str]) -> set[str]:
            body = {"image_hash": image_hash, "prompts": [point(9, 9)], "format": "none"}
            answers = [client.post("/segment", json=body, headers=headers) for _ in range(4)]
            return {answer.headers["x-replica"] for answer in answers}

        named = [replicas_of(one, {"X-Image-Hash": one}) for one in hashes]
        unnamed = [replicas_of(one, {}) for one in hashes]

    assert {len(replicas) for replicas in named} == {1}
    assert len(set().union(*unnamed)) == REPLICAS


def test_two_rollouts_under_load_fail_no_request(fleet):
    with open_client(fleet.balancer.url) as client:
        hashes = [embed(client, data) for data in IMAGES]
    first = [replica for _, replica in fleet.running]
    load = Load(fleet.balancer.url, hashes)
    load.start()

    ended = []
    for _ in range(ROLLOUTS * REPLICAS):
        fleet.start_one()
        ended.append(fleet.stop_oldest())
    load.end()

    assert set(load.answers) == {"click 200", "embed 200"}, load.answers
    assert load.answers["click 200"] > 100
    assert load.answers["embed 200"] > 4
    assert len(load.replicas) == REPLICAS + 1
    assert fleet.balancer.errors() == dict.fromkeys(("econ", "eresp", "wretr", "wredis", "srv_abrt"), 0)
    assert ended[:REPLICAS] == first
    assert [replica.process.returncode for replica in ended] == [0] * len(ended)
    for replica in ended:
        events = [line["event"] for line in replica.log]
        assert events.index("draining") < events.index("Shutting down") < events.index("Application shutdown complete.")
        assert not [line for line in replica.log if line.get("level") == "error"]
