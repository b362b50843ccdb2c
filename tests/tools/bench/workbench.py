"""What sections share: images, models, and processes that start when first asked for and end with the bench."""

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
from tools.bench.ours import Clicks, open_runtime
from tools.bench.peer_process import PeerProcess

from service.inference.backends.runtime import Runtime
from service.process import available_cpus
from service.sam.transforms import Size

_COMMENT = b"\xff\xfe\x00\x12"  # JPEG's marker of a comment and its length: 2 + 16 bytes
COMMENT_AT = 2 + len(_COMMENT)


class Workbench:
    """A context: whatever was started in it has ended when it is left.

    Args:
        effort: how much to measure.
        folder: for models, empty.
        provider: of our service, EDGESAM_PROVIDER.
        precision: of our service, EDGESAM_PRECISION.
    """

    def __init__(self, effort: Effort, folder: Path, *, provider: str, precision: str) -> None:
        self.effort = effort
        self.provider = provider
        self._precision = precision
        self.cpus = available_cpus()
        self._folder = folder
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
        return make_models(self._folder, self.image)

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The medium image as everybody decodes it, (H, W, 3)."""
        with Image.open(io.BytesIO(self.files[self.effort.medium])) as image:
            return np.asarray(image.convert("RGB"))

    @cached_property
    def frame(self) -> NDArray[np.float32]:
        """What the encoder sees of it."""
        return frame_of(self.image)

    @cached_property
    def tokens(self) -> NDArray[np.float16]:
        """The medium image's embedding, (4096, 256)."""
        return self.runtime(self.cpus).encode(self.frame).tokens[0].astype(np.float16)

    @property
    def thread_counts(self) -> list[int]:
        """One, and all."""
        return sorted({1, self.cpus})

    def runtime(self, threads: int) -> Runtime:
        """Our sessions with so many threads each."""
        if threads not in self._runtimes:
            self._runtimes[threads] = open_runtime(
                self.models.served, threads=threads, provider=self.provider, precision=self._precision
            )
        return self._runtimes[threads]

    def clicks(self, threads: int, *, images: int = 1) -> Clicks:
        """Clicks on the medium image through our runtime."""
        return Clicks(self.runtime(threads), self.tokens, self.effort.medium, images=images)

    def start_service(self, **settings: str) -> ServiceProcess:
        """Another process of ours, with the disc model."""
        own = {**self.service_settings, "EDGESAM_MODEL_DIR": str(self.models.served)}
        return self._stack.enter_context(ServiceProcess({**own, **settings}))

    @property
    def service_settings(self) -> dict[str, str]:
        """What each process of ours is told."""
        return {"EDGESAM_PROVIDER": self.provider, "EDGESAM_PRECISION": self._precision}

    def described(self) -> dict[str, Any]:
        """What our service says of itself, and which decoder it has here."""
        with Connection(self.service.url) as connection:
            (model,) = connection.ask(request("GET", "/models")).json()["models"]
        return {**model, "decoder": self.runtime(self.cpus).decoder}

    @cached_property
    def service(self) -> ServiceProcess:
        """Our service as it comes, without Redis."""
        return self.start_service()

    @cached_property
    def peer(self) -> PeerProcess:
        """The typical peer."""
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
        """A client; closed with the bench."""
        return self._stack.enter_context(Connection(url))

    def new_image(self, size: Size) -> bytes:
        """The disc as a file that was never sent before: it differs in a comment."""
        self._images_made += 1
        return commented(self.files[size], f"{self._images_made:016d}".encode())

    def embed(self, connection: Connection, size: Size) -> str:
        """Upload a new image to our service; its hash."""
        answer = connection.post("/embed", self.new_image(size), {"Content-Type": "image/jpeg"})
        return str(answer.json()["image_hash"])


def commented(jpeg: bytes, comment: bytes) -> bytes:
    """The same image with 16 bytes of comment at `COMMENT_AT`: other bytes, another hash."""
    assert len(comment) == 16
    return jpeg[:2] + _COMMENT + comment + jpeg[2:]


def click_request(image_hash: str, size: Size, *, png_file: bool = False, **fields: Any) -> bytes:
    """A click on the disc, as one HTTP request; `fields` are further fields of the body. One mask unless they say."""
    body = {"image_hash": image_hash, "multimask": 1, "prompts": [disc_prompt(size)], **fields}
    headers = {"Accept": "image/png"} if png_file else {}
    return request("POST", "/segment", json.dumps(body).encode(), headers)


def disc_prompt(size: Size) -> dict[str, Any]:
    """A positive point in the middle of the disc."""
    x, y = disc_centre(size)
    return {"points": [{"x": x, "y": y, "label": 1}]}


def megapixels(size: Size) -> str:
    """A size for people."""
    count = size[0] * size[1] / 1e6
    return f"{count:.0f} MP" if count >= 1 else f"{count:.1g} MP"


def check_disc(connection: Connection, image_hash: str, size: Size) -> None:
    """A click answers with the disc; otherwise what follows would be measured on something else.

    Raises:
        RuntimeError: it does not.
    """
    answer = connection.ask(click_request(image_hash, size)).json()
    share = answer["results"][0]["masks"][0]["area"] / (size[0] * size[1])
    if not 0.7 * SHARE < share < 1.3 * SHARE:
        raise RuntimeError(f"the mask covers {share:.1%} of the image instead of {SHARE:.0%}")


def spread_points(size: Size, count: int) -> list[tuple[float, float]]:
    """So many places inside the image, the same in every run."""
    height, width = size
    return [(float(x * width), float(y * height)) for x, y in np.random.default_rng(0).uniform(0.1, 0.9, (count, 2))]
