"""Resources that sections share: images, models and processes, created on first use."""

import io
import json
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.redis_server import RedisServer
from support.service_process import ServiceProcess
from tools.bench.connection import Connection, request
from tools.bench.disc import SHARE, as_jpeg, disc_centre, disc_image
from tools.bench.effort import Effort
from tools.bench.load_generator import LoadGenerator
from tools.bench.models import Models, frame_of, make_models
from tools.bench.ours import Clicks, embedding_of, open_runtime
from tools.bench.peer_process import PeerProcess

from service.inference.backends.runtime import Runtime
from service.process import available_cpus
from service.sam.embedding import ImageEmbedding
from service.sam.transforms import Size

_COMMENT = b"\xff\xfe\x00\x12"  # JPEG's marker of a comment and its length: 2 + 16 bytes
COMMENT_AT = 2 + len(_COMMENT)


class Workbench:
    """Resources of a run; a context manager that ends all processes.

    Args:
        effort: Amount of measurement.
        folder: Empty folder for models.
        provider: EDGESAM_PROVIDER of our service.
        precision: EDGESAM_PRECISION of our service.
    """

    def __init__(self, effort: Effort, folder: Path, *, provider: str, precision: str) -> None:
        self.effort = effort
        self.provider = provider
        self._precision = precision
        self.cpus = available_cpus()
        self.folder = folder
        self._stack = ExitStack()
        self._runtimes: dict[int, Runtime] = {}
        self._images_made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def files(self) -> dict[Size, bytes]:
        """The disc as JPEG, by the image's size."""
        return {size: as_jpeg(disc_image(size)) for size in self.effort.sizes}

    @cached_property
    def models(self) -> Models:
        """The disc model in both layouts."""
        return make_models(self.folder, self.image)

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The decoded medium image, (H, W, 3)."""
        with Image.open(io.BytesIO(self.files[self.effort.medium])) as image:
            return np.asarray(image.convert("RGB"))

    @cached_property
    def frame(self) -> NDArray[np.float32]:
        """The medium image as the encoder's input."""
        return frame_of(self.image)

    @cached_property
    def embedding(self) -> ImageEmbedding:
        """The medium image's embedding, float16."""
        return embedding_of(self.runtime(self.cpus), self.frame, self.effort.medium)

    @property
    def thread_counts(self) -> list[int]:
        """One thread, and as many as processors."""
        return sorted({1, self.cpus})

    def runtime(self, threads: int) -> Runtime:
        """Return our sessions with this number of threads each."""
        if threads not in self._runtimes:
            self._runtimes[threads] = open_runtime(
                self.models.served, threads=threads, provider=self.provider, precision=self._precision
            )
        return self._runtimes[threads]

    def clicks(self, threads: int, *, images: int = 1) -> Clicks:
        """Return prompts on the medium image with our runtime."""
        return Clicks(self.runtime(threads), self.embedding, images=images)

    def start_service(self, **settings: str) -> ServiceProcess:
        """Start another process of our service, with the disc model."""
        own = {**self.service_settings, "EDGESAM_MODEL_DIR": str(self.models.served)}
        return self._stack.enter_context(ServiceProcess({**own, **settings}))

    @property
    def service_settings(self) -> dict[str, str]:
        """Settings of each process of our service."""
        return {"EDGESAM_PROVIDER": self.provider, "EDGESAM_PRECISION": self._precision}

    def described(self) -> dict[str, Any]:
        """Return the model of GET /models, and the decoder of the runtime."""
        with Connection(self.service.url) as connection:
            (model,) = connection.ask(request("GET", "/models")).json()["models"]
        return {**model, "decoder": self.runtime(self.cpus).decoder}

    @cached_property
    def service(self) -> ServiceProcess:
        """Our service with default settings, without Redis."""
        return self.start_service()

    @cached_property
    def peer(self) -> PeerProcess:
        """The typical server."""
        return self._stack.enter_context(PeerProcess(self.models.official_encoder, self.models.official_decoder))

    @cached_property
    def redis(self) -> RedisServer:
        """A real Redis."""
        return self._stack.enter_context(RedisServer())

    @cached_property
    def generator(self) -> LoadGenerator:
        """The load generator."""
        return self._stack.enter_context(LoadGenerator())

    def connect(self, url: str) -> Connection:
        """Open a connection that is closed at the end of the run."""
        return self._stack.enter_context(Connection(url))

    def new_image(self, size: Size) -> bytes:
        """Return the disc as a new file, which differs in a comment."""
        self._images_made += 1
        return commented(self.files[size], f"{self._images_made:016d}".encode())

    def embed(self, connection: Connection, size: Size) -> str:
        """Upload a new image to our service and return its hash."""
        answer = connection.post("/embed", self.new_image(size), {"Content-Type": "image/jpeg"})
        return str(answer.json()["image_hash"])


def commented(jpeg: bytes, comment: bytes) -> bytes:
    """Return the same image with a comment of 16 bytes at `COMMENT_AT`, which changes its hash."""
    assert len(comment) == 16
    return jpeg[:2] + _COMMENT + comment + jpeg[2:]


def click_request(image_hash: str, size: Size, *, png_file: bool = False, **fields: Any) -> bytes:
    """Return a request with a point on the disc, for one mask. `fields` are additional fields of the body."""
    body = {"image_hash": image_hash, "multimask": 1, "prompts": [disc_prompt(size)], **fields}
    headers = {"Accept": "image/png"} if png_file else {}
    return request("POST", "/segment", json.dumps(body).encode(), headers)


def disc_prompt(size: Size) -> dict[str, Any]:
    """Return a prompt with a positive point in the middle of the disc."""
    x, y = disc_centre(size)
    return {"points": [{"x": x, "y": y, "label": 1}]}


def megapixels(size: Size) -> str:
    """Return a size as text, in megapixels."""
    count = size[0] * size[1] / 1e6
    return f"{count:.0f} MP" if count >= 1 else f"{count:.1g} MP"


def check_disc(connection: Connection, image_hash: str, size: Size) -> None:
    """Check that a prompt gives the disc. Otherwise measurements would be about other masks.

    Raises:
        RuntimeError: The mask has another area.
    """
    answer = connection.ask(click_request(image_hash, size)).json()
    share = answer["results"][0]["masks"][0]["area"] / (size[0] * size[1])
    if not 0.7 * SHARE < share < 1.3 * SHARE:
        raise RuntimeError(f"the mask covers {share:.1%} of the image instead of {SHARE:.0%}")


def spread_points(size: Size, count: int) -> list[tuple[float, float]]:
    """Return points inside the image, the same in every run."""
    height, width = size
    return [(float(x * width), float(y * height)) for x, y in np.random.default_rng(0).uniform(0.1, 0.9, (count, 2))]
