"""Real replicas and one real Redis, with a catalogue of images."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import numpy as np
from support.redis_server import RedisServer
from support.service_client import Scrape, embed, open_client
from support.service_process import ServiceProcess
from tools.bench.connection import request
from tools.bench.disc import as_jpeg, disc_image
from tools.capacity.sizes import image_sizes

_WIDTH, _HEIGHT = 1600, 1200
_MIB = 2**20
_CLICK = {"prompts": [{"points": [{"x": 700, "y": 600}]}], "multimask": 1}


@dataclass(frozen=True, slots=True)
class Counted:
    """Metrics of replicas, summed over them."""

    hits: float
    misses: float
    cpu_s: float

    def since(self, before: "Counted") -> "Counted":
        """Return the difference to earlier metrics."""
        return Counted(self.hits - before.hits, self.misses - before.misses, self.cpu_s - before.cpu_s)

    @property
    def hit_ratio(self) -> float:
        """Hit ratio of the memory tiers, 0..1."""
        return self.hits / (self.hits + self.misses)


class Replicas:
    """Replicas of one thread each with one Redis that holds a catalogue of embeddings; a context manager.

    Only one image is encoded, because encoding all would take minutes. Redis copies its embedding to the other hashes.
    Caches and decoder treat the copies as separate images.

    Args:
        count: Number of replicas.
        images: Number of images in the catalogue.
        tier_images: Number of images that each replica's memory tier holds.
        model: Folder of the served artifact.

    Raises:
        RuntimeError: An embedding in Redis has another size than expected.
    """

    def __init__(self, *, count: int, images: int, tier_images: int, model: Path) -> None:
        self.hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(images)]
        self._tier_images = tier_images
        self._model = model
        self._count = count
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._redis = stack.enter_context(RedisServer())
            sizes = image_sizes(self._model)
            settings = {
                "EDGESAM_MODEL_DIR": str(self._model),
                "EDGESAM_REDIS_URL": self._redis.url,
                "EDGESAM_REDIS_READ_TIMEOUT_S": "2",  # for busy machines
                "EDGESAM_THREADS": "1",
                "EDGESAM_MEMORY_CACHE_BYTES": str(round((self._tier_images * sizes.memory_mib + 1) * _MIB)),
            }
            self.services = [stack.enter_context(ServiceProcess(settings)) for _ in range(self._count)]
            self.clients = [stack.enter_context(open_client(service.url)) for service in self.services]
            original = embed(self.clients[0], new_image(0))
            (key,) = (name.decode() for name in self._redis.ask("KEYS", f"*{original}"))
            if (size := self._redis.ask("STRLEN", key)) // _MIB != sizes.redis_mib:
                raise RuntimeError(f"an embedding has {size} bytes in Redis, not {sizes.redis_mib} MiB")
            for hashed in self.hashes:
                self._redis.ask("COPY", key, key.replace(original, hashed))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def urls(self) -> list[str]:
        """Addresses of the replicas."""
        return [service.url for service in self.services]

    def counted(self, clients: Sequence[httpx.Client] | None = None) -> Counted:
        """Return the metrics of all replicas, or of those of `clients`."""
        scrapes = [Scrape(client) for client in clients or self.clients]
        lookups = "edgesam_cache_lookups_total"
        return Counted(
            hits=sum(scrape.value(lookups, tier="memory", outcome="hit") for scrape in scrapes),
            misses=sum(scrape.value(lookups, tier="memory", outcome="miss") for scrape in scrapes),
            cpu_s=sum(scrape.value("process_cpu_seconds_total") for scrape in scrapes),
        )

    def click(self, image: int) -> bytes:
        """Return a request with one point on an image of the catalogue."""
        hashed = self.hashes[image]
        body = json.dumps({"image_hash": hashed, **_CLICK}).encode()
        return request("POST", "/segment", body, {"X-Image-Hash": hashed})


def new_image(seed: int) -> bytes:
    """Return a JPEG of 2 megapixels that differs by seed."""
    image = disc_image((_HEIGHT, _WIDTH))
    image[:8, :8] = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return as_jpeg(image)
