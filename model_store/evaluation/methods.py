"""The models that a command line names, opened in whichever process measures them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from model_store.catalog import ModelStoreError
from model_store.evaluation.segmenters import GraphSegmenter, Segmenter, ServiceSegmenter
from model_store.importing import require_extra
from service.manifest import Ranking

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Methods:
    """What is measured: plain values, so that each process can open its own.

    Args:
        checkpoints: Files that torch runs.
        models: Folders of artifacts, whose graphs ONNX Runtime runs.
        urls: Addresses of running services.
        api_key: Key for services that ask for one.
        ranking: Rule that orders the masks of checkpoints.
        device: Device of torch, ``cpu`` or ``cuda``.
        threads: Threads of a process; 0 leaves it to the libraries.
    """

    checkpoints: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    urls: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    ranking: Ranking = field(default_factory=Ranking)
    device: str = "cpu"
    threads: int = 0

    @contextmanager
    def open(self) -> Iterator[list[Segmenter]]:
        """All of them, closed at the end.

        Raises:
            ModelStoreError: A checkpoint or an artifact cannot be opened, or torch is missing.
        """
        if self.threads:
            cv2.setNumThreads(self.threads)
        with ExitStack() as stack:
            graphs = [GraphSegmenter(directory, threads=self.threads) for directory in self.models]
            yield [*self._of_torch(), *graphs, *self._of_services(stack)]

    def _of_torch(self) -> list[Segmenter]:
        if not self.checkpoints:
            return []
        require_extra()
        import torch  # noqa: PLC0415 - graphs and services are measured without torch

        from model_store.checkpoint import CheckpointError, load_checkpoint  # noqa: PLC0415 - the same
        from model_store.evaluation.segmenters import TorchSegmenter  # noqa: PLC0415 - the same

        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            return [
                TorchSegmenter(load_checkpoint(path), device=self.device, name=str(path), ranking=self.ranking)
                for path in self.checkpoints
            ]
        except CheckpointError as error:
            raise ModelStoreError(str(error)) from error

    def _of_services(self, stack: ExitStack) -> list[Segmenter]:
        if not self.urls:
            return []
        import httpx  # noqa: PLC0415 - everything else is measured without it

        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        clients = [
            stack.enter_context(httpx.Client(base_url=url, timeout=_TIMEOUT_S, headers=headers)) for url in self.urls
        ]
        return [ServiceSegmenter(url, client) for url, client in zip(self.urls, clients, strict=True)]
