"""Cache of a teacher's image embeddings on disk: they are computed once, since a teacher's encoder is slow.

Source: docs/explanation/model.md, section 7.1.

One flat file of float16 has 2 MiB a photo at a frame of 1024. A small file marks the rows that are done, so that an
interrupted pass is resumed.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.errors import ModelStoreError
from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS
from model_store.training.data.annotations import PhotoRecord
from model_store.training.data.letterboxed import letterboxed

FEATURES_NAME, DONE_NAME, INDEX_NAME = "features.f16", "done.npy", "features.json"


class FeatureCacheError(ModelStoreError):
    """The folder contains features of other photos or of another teacher."""


class FeatureCache:
    """Features of N photos, by their index in the list.

    Args:
        folder: Folder of the cache, which is made if it does not exist.
        names: Names of the photos, which must be those for which the folder was made.
        teacher: Hash or name of the teacher.
        frame_size: Side of the frame, in pixels.

    Raises:
        FeatureCacheError: The folder was made for other photos or another teacher.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, teacher: str, frame_size: int) -> None:
        side = frame_size // 16
        index = {"teacher": teacher, "frame_size": frame_size, "names": list(names)}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / INDEX_NAME).is_file():
            if json.loads((folder / INDEX_NAME).read_text()) != index:
                raise FeatureCacheError(f"{folder} contains features of other photos or of another teacher")
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
        """Return the indices of photos without features."""
        return [int(index) for index in np.flatnonzero(~self._done)]

    def put(self, index: int, features: Tensor) -> None:
        """Store the features (256, g, g) of a photo."""
        self._features[index] = features.half().cpu().numpy()
        self._done[index] = True

    def get(self, indices: Sequence[int]) -> Tensor:
        """Return features, (B, 256, g, g) float32.

        Raises:
            FeatureCacheError: Some features are missing.
        """
        if not self._done[list(indices)].all():
            raise FeatureCacheError("the teacher's features are not complete; run 'features' first")
        return torch.from_numpy(self._features[list(indices)].astype(np.float32))


@torch.no_grad()
def fill(
    cache: FeatureCache,
    records: Sequence[PhotoRecord],
    encoder: nn.Module,
    *,
    image_size: int,
    device: torch.device,
    bf16: bool = True,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> None:
    """Compute the missing features.

    Args:
        cache: Cache to fill.
        records: Photos, in the order of the cache.
        encoder: Image encoder of the teacher.
        image_size: Side of the encoder's square input, in pixels.
        device: Device that computes.
        bf16: Whether to compute in bfloat16 where autocast allows.
        on_progress: Callback that receives (photos done, photos in all).
    """
    missing = cache.missing()
    encoder = encoder.to(device).eval()
    for done, index in enumerate(missing):
        on_progress(done, len(missing))
        frame = letterboxed(records[index], image_size).frame.unsqueeze(0).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            cache.put(index, encoder(frame)[0])
    on_progress(len(missing), len(missing))
