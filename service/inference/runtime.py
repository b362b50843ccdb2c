"""The three graphs as ONNX Runtime sessions. Blocking calls: a lane or a worker thread makes them, never the loop."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.inference.workers import give_way
from service.sam.embedding import ImageEmbedding
from service.sam.manifest import STATE_NAMES, Manifest, ManifestError, load_manifest, verify_files
from service.sam.prompts import ABSENT

Provider = Literal["auto", "cpu", "cuda"]
Floats = NDArray[np.float32]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ProviderUnavailable(RuntimeError):
    """The execution provider that was asked for is not in this installation; the service does not start."""


@dataclass(frozen=True, slots=True)
class StateArrays:
    """What the decoder reads of a picture, for S = 1 (no mask prompt) or one mask prompt each (DESIGN 3)."""

    keys: Floats  # (S, 4096, 256)
    keys0: Floats  # (S, 128, 4096)
    values0: Floats  # (S, 4096, 128)
    queries0: Floats  # (S, 4096, 128)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageState:
    """An embedding and what was prepared of it, as the memory tier keeps it: 12 MiB a picture with float16 tokens."""

    embedding: ImageEmbedding
    arrays: StateArrays

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and of the arrays."""
        a = self.arrays
        return self.embedding.nbytes + a.keys.nbytes + a.keys0.nbytes + a.values0.nbytes + a.queries0.nbytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoder's answer for P prompts."""

    mask_logits: Floats  # (P, 4, 256, 256)
    iou_predictions: Floats  # (P, 4)
    stability: Floats  # (P, 4), 0..1

    def rows(self, start: int, end: int) -> "Decoded":
        """The answers for some of the prompts, as views."""
        some = slice(start, end)
        return Decoded(self.mask_logits[some], self.iou_predictions[some], self.stability[some])


class Runtime:
    """Sessions of one artifact.

    Args:
        directory: the artifact; every file is compared with its manifest before anything is loaded.
        provider: `auto` takes CUDA where it is installed, else the CPU.
        threads: threads a session computes with.

    Raises:
        ManifestError: the artifact is not what its manifest promises, or is not of the served layout.
        ProviderUnavailable: `provider` names one that is not installed.
    """

    def __init__(self, directory: Path, *, provider: Provider, threads: int) -> None:
        self.manifest: Manifest = load_manifest(directory)
        if self.manifest.layout != "served":
            raise ManifestError(f"{directory}: layout {self.manifest.layout!r} cannot be served; export with 'served'")
        verify_files(directory, self.manifest)
        self.provider = _choose(provider)
        self.threads = threads
        paths = {name: directory / graph.file for name, graph in self.manifest.graphs.items()}
        # A session's threads inherit the urgency of the thread that makes it: encoding gives way to clicks.
        with ThreadPoolExecutor(1, initializer=give_way) as yielding:
            self._encoder = yielding.submit(self._session, paths["encoder"]).result()
        self._prepare, self._decoder = self._session(paths["prepare"]), self._session(paths["decoder"])

    def encode(self, images: Floats) -> Floats:
        """Frames (B, 3, 1024, 1024), normalised and padded → tokens (B, 4096, 256)."""
        tokens: Floats = self._encoder.run(["tokens"], {"image": images})[0]
        return tokens

    def prepare(self, embedding: ImageEmbedding) -> ImageState:
        """Do what depends on the picture alone, once."""
        nothing = np.zeros((1, 256, 256), np.float32)
        return ImageState(embedding, self._prepared(embedding, nothing, has_mask=False))

    def prepare_masks(self, embedding: ImageEmbedding, mask_logits: Floats) -> StateArrays:
        """The picture's state under each low-resolution mask prompt (S, 256, 256)."""
        return self._prepared(embedding, mask_logits, has_mask=True)

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64]) -> Decoded:
        """points (P, N, 2) in the frame and labels (P, N) → masks; `state` is of one picture, S = 1 or P."""
        feeds = {"points": points, "labels": labels, **{name: getattr(state, name) for name in STATE_NAMES}}
        return Decoded(*self._decoder.run(["mask_logits", "iou_predictions", "stability"], feeds))

    def warm_up(self) -> None:
        """Run every graph once, so that the first request does not pay for lazy set-up."""
        tokens = self.encode(np.zeros((1, 3, 1024, 1024), np.float32))[0]
        state = self.prepare(ImageEmbedding(tokens, (1024, 1024)))
        self.prepare_masks(state.embedding, np.zeros((1, 256, 256), np.float32))
        self.decode(state.arrays, np.zeros((1, 2, 2), np.float32), np.full((1, 2), ABSENT, np.int64))

    def _prepared(self, embedding: ImageEmbedding, mask_logits: Floats, *, has_mask: bool) -> StateArrays:
        feeds = {
            "tokens": embedding.tokens.astype(np.float32, copy=False),
            "mask_logits": mask_logits,
            "has_mask": np.full(len(mask_logits), has_mask),
        }
        return StateArrays(*self._prepare.run(list(STATE_NAMES), feeds))

    def _session(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Spinning threads burn the quota that the other lane needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers: list[str | tuple[str, dict[str, str]]] = [_PROVIDERS[self.provider]]
        if self.provider == "cuda":
            # The default arena doubles at each growth until the device is full.
            providers = [(_PROVIDERS["cuda"], {"arena_extend_strategy": "kSameAsRequested"}), _PROVIDERS["cpu"]]
        try:
            return ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a type of its own for each way a file can be unusable
            raise ManifestError(f"{path}: ONNX Runtime cannot load this graph: {error}") from error


def _choose(provider: Provider) -> Literal["cpu", "cuda"]:
    available = ort.get_available_providers()
    if provider == "auto":
        return "cuda" if _PROVIDERS["cuda"] in available else "cpu"
    if _PROVIDERS[provider] not in available:
        raise ProviderUnavailable(
            f"provider {provider!r} is not in this ONNX Runtime, which has {', '.join(available)}; "
            "install onnxruntime-gpu for CUDA, or set EDGESAM_PROVIDER=auto"
        )
    return provider
