"""The models that a command line names, opened in each process that measures them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from model_store.errors import ModelStoreError
from model_store.evaluation.segmenters.segmenter import Segmenter
from model_store.extras import require_model_extra
from service.mask_rules import Ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.sam.number_format import EmbeddingDtype

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Methods:
    """Models to measure, as plain values, so that each process can open its own.

    Args:
        checkpoints: Checkpoint files, which torch runs.
        models: Folders of artifacts, whose graphs ONNX Runtime runs.
        dtypes: Number formats of embeddings. Each artifact is measured in each of them.
        urls: Addresses of running services.
        api_key: API key for services that require one.
        ranking: Rule that orders the masks of checkpoints; None for that of their architecture.
        device: Device of torch, ``cpu`` or ``cuda``.
        threads: Number of threads of a process; 0 leaves it to the libraries.
    """

    checkpoints: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    dtypes: "tuple[EmbeddingDtype, ...]" = ("float32",)
    urls: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    ranking: Ranking | None = None
    device: str = "cpu"
    threads: int = 0

    @contextmanager
    def open(self) -> Iterator[list[Segmenter]]:
        """Open all models, and close them at the end.

        Raises:
            ModelStoreError: A checkpoint or an artifact cannot be opened, or torch is missing.
        """
        if self.threads:
            cv2.setNumThreads(self.threads)
        with ExitStack() as stack:
            yield [*self._checkpoint_segmenters(), *self._artifact_segmenters(), *self._service_segmenters(stack)]

    def _checkpoint_segmenters(self) -> "Sequence[Segmenter]":
        if not self.checkpoints:
            return []
        require_model_extra()
        import torch  # noqa: PLC0415 - graphs and services are measured without torch

        from model_store.checkpoint import CheckpointError, load_checkpoint  # noqa: PLC0415 - the same
        from model_store.evaluation.segmenters.torch_segmenter import TorchSegmenter  # noqa: PLC0415 - the same

        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            return [
                TorchSegmenter(load_checkpoint(path), device=self.device, name=str(path), ranking=self.ranking)
                for path in self.checkpoints
            ]
        except CheckpointError as error:
            raise ModelStoreError(str(error)) from error

    def _artifact_segmenters(self) -> "Sequence[Segmenter]":
        if not self.models:
            return []
        from model_store.evaluation.segmenters.onnx_segmenter import (  # noqa: PLC0415 - only graphs need ONNX Runtime
            OnnxSegmenter,
        )

        return [
            OnnxSegmenter(directory, threads=self.threads, dtype=dtype)
            for directory in self.models
            for dtype in self.dtypes
        ]

    def _service_segmenters(self, stack: ExitStack) -> "Sequence[Segmenter]":
        if not self.urls:
            return []
        import httpx  # noqa: PLC0415 - only services need it

        from model_store.evaluation.segmenters.service_segmenter import ServiceSegmenter  # noqa: PLC0415 - the same

        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        clients = [
            stack.enter_context(httpx.Client(base_url=url, timeout=_TIMEOUT_S, headers=headers)) for url in self.urls
        ]
        return [ServiceSegmenter(url, client) for url, client in zip(self.urls, clients, strict=True)]
