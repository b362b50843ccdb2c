"""The sample images of the playground: files, credits, licences, and a prompt for each image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parent.parent.parent / "service" / "web" / "samples"
LIST = FOLDER / "samples.json"


@dataclass(frozen=True, slots=True)
class SampleImage:
    """One image of `LIST`.

    Args:
        file: Name of the JPEG file in `FOLDER`.
        title: Motif, in one or two words.
        credit: Author or institution, as the licence requires.
        licence: Short name of the licence.
        licence_url: Address of the licence's text.
        source: Address of the original.
        changes: Changes of the original.
        prompt: A prompt of `/segment` for one object, in pixels of the image.
    """

    file: str
    title: str
    credit: str
    licence: str
    licence_url: str
    source: str
    changes: str
    prompt: dict[str, Any]

    @property
    def path(self) -> Path:
        """Path of the file."""
        return FOLDER / self.file

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        with Image.open(self.path) as image:
            return image.size


def sample_images() -> tuple[SampleImage, ...]:
    """Return all sample images, in the order of the page."""
    return tuple(SampleImage(**entry) for entry in json.loads(LIST.read_text()))


def sample_image(file: str) -> SampleImage:
    """Return the sample image with this file name."""
    return next(sample for sample in sample_images() if sample.file == file)
