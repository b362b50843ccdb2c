"""Image embeddings of a teacher on disk: computed once, since a teacher's encoder is the costly part.

Source: docs/explanation/model.md, section 7.1.

One flat file of float16, 2 MiB a photo at a frame of 1024, and a small file that says which rows are done: a pass that
was interrupted goes on where it stopped.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.catalog import ModelStoreError
from model_store.network.image_encoder import EMBEDDING_CHANNELS
from model_store.training.data.annotations import PhotoRecord
from model_store.training.data.letterboxed import letterboxed

FEATURES_NAME, DONE_NAME, INDEX_NAME = "features.f16", "done.npy", "features.json"


class FeatureCacheError(ModelStoreError):
    """The folder holds features of other photos or of another teacher."""


class FeatureCache:
    """Features of N photos, by their place in the list.

    Args:
        folder: made when it is not there.
        names: of the photos, which must be those that the folder was made for.
        teacher: what computes the features, by hash or name.
        frame_size: pixels.

    Raises:
        FeatureCacheError: the folder was made for something else.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, teacher: str, frame_size: int) -> None:
        side = frame_size // 16
        index = {"teacher": teacher, "frame_size": frame_size, "names": list(names)}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / INDEX_NAME).is_file():
            if json.loads((folder / INDEX_NAME).read_text()) != index:
                raise FeatureCacheError(f"{folder} holds features of other photos or of another teacher")
            mode = "r+"
        else:
            mode = "w+"
            np.save(folder / DONE_NAME, np.zeros(len(names), np.bool_))
        self._done: NDArray[np.bool_] = np.lib.format.open_memmap(folder / DONE_NAME, mode="r+")
        shape = (len(names), EMBEDDING_CHANNELS, side, side)
        self._features: NDArray[np.float16] = np.memmap(
            folder / FEATURES_NAME,
            np.float16,
            mode=mode,
            shape=shape,  # type: ignore[call-overload]  # mode is a str
        )
        if mode == "w+":
            (folder / INDEX_NAME).write_text(json.dumps(index))

    def missing(self) -> list[int]:
        """Places without features."""
        return [int(place) for place in np.flatnonzero(~self._done)]

    def put(self, place: int, features: Tensor) -> None:
        """Keep the features (256, g, g) of a photo."""
        self._features[place] = features.half().cpu().numpy()
        self._done[place] = True

    def get(self, places: Sequence[int]) -> Tensor:
        """Features (B, 256, g, g) float32.

        Raises:
            FeatureCacheError: some are not there.
        """
        if not self._done[list(places)].all():
            raise FeatureCacheError("the teacher's features are not complete; run 'features' first")
        return torch.from_numpy(self._features[list(places)].astype(np.float32))


@torch.no_grad()
def fill(
    cache: FeatureCache,
    records: Sequence[PhotoRecord],
    encoder: nn.Module,
    *,
    frame_size: int,
    device: torch.device,
    bf16: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> None:
    """Compute what is missing."""
    missing = cache.missing()
    encoder = encoder.to(device).eval()
    for done, place in enumerate(missing):
        progress(done, len(missing))
        frame = letterboxed(records[place], frame_size).frame.unsqueeze(0).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            cache.put(place, encoder(frame)[0])
    progress(len(missing), len(missing))
