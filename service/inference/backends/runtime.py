"""What computes: the graphs as ONNX Runtime sessions, and on a CPU the decoder in C. Blocking calls: a lane or a worker
thread makes them, never the loop.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.providers import (
    CPU,
    Array,
    Chosen,
    Graph,
    Kind,
    Precision,
    Provider,
    ProviderUnavailable,
    Resources,
    choose,
    decoder_kinds,
    encoder_kinds,
    lone_decoder_kinds,
)
from service.inference.backends.state_memory import StateMemory
from service.inference.scheduling.thread_priority import lower_thread_priority
from service.manifest import STATE_NAMES, Manifest, ManifestError, load_manifest, verify_files
from service.native import NativeDecoder, NativeError, best_level
from service.sam.embedding import TOKENS_SHAPE, ImageEmbedding
from service.sam.granularity import Proposals
from service.sam.prompts import ABSENT, PADDING, POSITIVE

Floats = NDArray[np.float32]
Decoder = Literal["native", "onnx"]

_NOTHING: Final[Floats] = np.empty((0, 0, 0), np.float32)
_NO_CLICKS: Final = "A replica that only embeds was asked to segment. This is a bug."


@dataclass(frozen=True, slots=True)
class StateArrays:
    """What the decoder reads of a picture, for S = 1 (no mask prompt) or one mask prompt each.

    Shapes: docs/explanation/model.md, section 5.1.

    Of float32, in the memory of the device that decodes: NumPy arrays on a CPU, ONNX Runtime's own on a GPU.
    """

    keys: Array  # (S, 4096, 256)
    keys0: Array  # (S, 4096, 128), columns (channel, head)
    queries0: Array  # (S, 4096, 128), columns (channel, head)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageState:
    """An embedding and what was prepared of it, as the memory tier keeps it: 10 MiB a picture with float16 tokens."""

    embedding: ImageEmbedding
    arrays: StateArrays

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and of the arrays, wherever they are."""
        return self.embedding.nbytes + sum(_nbytes(getattr(self.arrays, name)) for name in STATE_NAMES)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's answer for B pictures."""

    tokens: Floats  # (B, 4096, 256)
    proposals: Sequence[Proposals | None]  # B; all None without the granularity module


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
    """The graphs of one artifact, the encoder on one provider and clicks on the same or another.

    Args:
        directory: the artifact; every file is compared with its manifest before anything is loaded.
        provider: `auto` takes what is fastest here among those installed, for the encoder and for clicks.
        threads: threads a session computes with.
        decoder: `native` is service/native, for providers that compute in the CPU; `onnx` is the graph; `auto` takes
            the native one where it was built.
        precision: what the encoder computes in, and clicks unless they are faster in float32. Without an encoder, what
            the replicas that embed compute in: it is part of the fingerprint.
        encodes, segments: whether the encoder is loaded, and what clicks need.
        max_encode_batch, engine_cache_dir: see `Resources`.

    Raises:
        ManifestError: the artifact is not what its manifest promises, or is not of the served layout.
        ProviderUnavailable: `provider` is not installed, does not work here, or does not compute in `precision`;
            or there is no `decoder` of that kind.
    """

    def __init__(
        self,
        directory: Path,
        *,
        provider: Provider | Literal["auto"],
        threads: int,
        decoder: Decoder | Literal["auto"] = "auto",
        precision: Precision = "float32",
        max_encode_batch: int = 1,
        engine_cache_dir: Path | None = None,
        encodes: bool = True,
        segments: bool = True,
    ) -> None:
        self.manifest: Manifest = load_manifest(directory)
        if self.manifest.layout != "served":
            raise ManifestError(f"{directory}: layout {self.manifest.layout!r} cannot be served; export with 'served'")
        verify_files(directory, self.manifest)
        self.threads = threads
        resources = Resources(threads, max_encode_batch, engine_cache_dir)
        paths = {name: directory / graph.file for name, graph in self.manifest.graphs.items()}
        clicks: Chosen[PromptDecoder] | None = None
        encoder: Chosen[_Encoder] | None = None
        # Clicks first: OpenVINO's threads serve all its sessions and are as urgent as the first that needs them.
        if segments:
            kinds = decoder_kinds(provider, precision) if encodes else lone_decoder_kinds(provider)
            clicks = _select_prompt_decoder(paths, kinds, self._parameters(directory, provider, decoder), resources)
        if encodes:
            proposes = self.manifest.granularity is not None
            encoder = _choose_encoder(
                paths["encoder"], encoder_kinds(provider, precision), resources, proposes=proposes
            )
        self._clicks = None if clicks is None else clicks.made
        self._encoder = None if encoder is None else encoder.made
        chosen = {name: one for name, one in (("encoder", encoder), ("decoder", clicks)) if one is not None}
        self.provider = _joined(one.kind.provider for one in chosen.values())
        self.decoder = "none" if self._clicks is None else self._clicks.decoder
        self.precision = _joined(one.kind.precision for one in chosen.values())
        self.provider_timings_ms = {name: one.timings_ms for name, one in chosen.items()}
        # Providers agree on float32 to some 1e-6 and share embeddings; another precision has embeddings of its own.
        self.fingerprint = self.manifest.fingerprint + ("" if precision == "float32" else f"-{precision}")

    def _parameters(
        self, directory: Path, provider: Provider | Literal["auto"], decoder: Decoder | Literal["auto"]
    ) -> Path | None:
        """The file the native decoder reads; None where the graph decodes."""
        obstacles = {
            "the artifact has no decoder_parameters; export it again": self.manifest.decoder_parameters is None,
            "it was not built for this machine: install the service where there is a C compiler": best_level() is None,
            f"EDGESAM_PROVIDER={provider} decodes elsewhere": provider not in {"auto", CPU.provider},
        }
        reasons = [reason for reason, is_met in obstacles.items() if is_met]
        if decoder == "native" and reasons:
            raise ProviderUnavailable(f"EDGESAM_DECODER=native cannot be had: {'; '.join(reasons)}")
        if decoder == "onnx" or reasons or self.manifest.decoder_parameters is None:
            return None
        return directory / self.manifest.decoder_parameters.file

    def encode(self, images: Floats) -> Encoded:
        """Frames (B, 3, 1024, 1024), normalised and padded → tokens, and proposals if the model makes them."""
        assert self._encoder is not None, "A replica without an encoder was asked to encode. This is a bug."
        return self._encoder.encode(images)

    def prepare(self, embedding: ImageEmbedding) -> ImageState:
        """Do what depends on the picture alone, once; nothing where no clicks are served."""
        if self._clicks is None:
            return ImageState(embedding, StateArrays(_NOTHING, _NOTHING, _NOTHING))
        return ImageState(embedding, self._clicks.prepare(embedding))

    def prepare_masks(self, embedding: ImageEmbedding, mask_logits: Floats) -> StateArrays:
        """The picture's state under each low-resolution mask prompt (S, 256, 256)."""
        assert self._clicks is not None, _NO_CLICKS
        return self._clicks.prepare_masks(embedding, mask_logits)

    def decode(
        self, state: StateArrays, points: Floats, labels: NDArray[np.int64], *, threads: int | None = None
    ) -> Decoded:
        """points (P, N, 2) in the frame and labels (P, N) → masks; `state` is of one picture, S = 1 or P.

        Args:
            threads: that compute at most, all by default; ONNX Runtime has those of its session in any case.
        """
        assert self._clicks is not None, _NO_CLICKS
        return self._clicks.decode(state, points, labels, threads or self.threads)

    def warm_up(self) -> None:
        """Run every graph once, so that the first request does not pay for lazy set-up."""
        tokens: Floats = np.zeros(TOKENS_SHAPE, np.float32)
        if self._encoder is not None:
            tokens = self.encode(np.zeros((1, 3, 1024, 1024), np.float32)).tokens[0]
        if self._clicks is None:
            return
        state = self.prepare(ImageEmbedding(tokens, (1024, 1024)))
        self.prepare_masks(state.embedding, np.zeros((1, 256, 256), np.float32))
        self.decode(state.arrays, np.zeros((1, 2, 2), np.float32), np.full((1, 2), ABSENT, np.int64))


class _Encoder:
    """The encoder on one provider."""

    def __init__(self, path: Path, kind: Kind, resources: Resources, *, proposes: bool) -> None:
        self._graph = Graph(path, kind, resources)
        self._proposes = proposes

    def encode(self, images: Floats) -> Encoded:
        if not self._proposes:
            (tokens,) = self._graph.run(["tokens"], {"image": images})
            return Encoded(tokens, [None] * len(images))
        tokens, boxes, scores = self._graph.run(["tokens", "boxes", "scores"], {"image": images})
        rows = zip(boxes, scores, strict=True)
        return Encoded(tokens, [Proposals(row_boxes.copy(), row_scores.copy()) for row_boxes, row_scores in rows])

    def rehearsal(self) -> Callable[[], Floats]:
        """One frame of noise."""
        frame = np.random.default_rng(0).normal(0.0, 1.0, (1, 3, 1024, 1024)).astype(np.float32)
        return lambda: self.encode(frame).tokens


class PromptDecoder(Protocol):
    """What a click needs: `prepare` and the decoder. What the one leaves on a device the other reads there."""

    decoder: str

    def prepare(self, embedding: ImageEmbedding) -> StateArrays: ...

    def prepare_masks(self, embedding: ImageEmbedding, mask_logits: Floats) -> StateArrays: ...

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64], threads: int) -> Decoded: ...


def _select_prompt_decoder(
    paths: Mapping[str, Path], kinds: Sequence[Kind], parameters: Path | None, resources: Resources
) -> Chosen[PromptDecoder]:
    def make(kind: Kind) -> PromptDecoder:
        if parameters is not None and kind == CPU:
            return NativePromptDecoder(paths["prepare"], parameters, resources)
        return OnnxPromptDecoder(paths["prepare"], paths["decoder"], kind, resources)

    return choose("The decoder", kinds, make, lambda made: _rehearse_click(made, resources.threads))


def _choose_encoder(path: Path, kinds: Sequence[Kind], resources: Resources, *, proposes: bool) -> Chosen[_Encoder]:
    # A session's threads inherit the urgency of the thread that makes it: encoding gives way to clicks.
    with ThreadPoolExecutor(1, initializer=lower_thread_priority) as yielding:
        return yielding.submit(
            choose,
            "The encoder",
            kinds,
            lambda kind: _Encoder(path, kind, resources, proposes=proposes),
            _Encoder.rehearsal,
        ).result()


class _PrepareGraph:
    def __init__(self, path: Path, kind: Kind, resources: Resources) -> None:
        self._graph = Graph(path, kind, resources)

    def run(self, embedding: ImageEmbedding, mask_logits: Floats, *, has_mask: bool) -> StateArrays:
        feeds = {
            "tokens": embedding.tokens.astype(np.float32, copy=False),
            "mask_logits": mask_logits,
            "has_mask": np.full(len(mask_logits), has_mask),
        }
        return StateArrays(*self._graph.run(STATE_NAMES, feeds, resident=True))


class OnnxPromptDecoder:
    """Both graphs on one provider."""

    decoder = "onnx"

    def __init__(self, prepare: Path, decoder: Path, kind: Kind, resources: Resources) -> None:
        self._prepare = _PrepareGraph(prepare, kind, resources)
        self._decoder = Graph(decoder, kind, resources)

    def prepare(self, embedding: ImageEmbedding) -> StateArrays:
        return self._prepare.run(embedding, np.zeros((1, 256, 256), np.float32), has_mask=False)

    def prepare_masks(self, embedding: ImageEmbedding, mask_logits: Floats) -> StateArrays:
        return self._prepare.run(embedding, mask_logits, has_mask=True)

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64], threads: int) -> Decoded:  # noqa: ARG002 - a session has its own
        feeds = {"points": points, "labels": labels, **{name: getattr(state, name) for name in STATE_NAMES}}
        return Decoded(*self._decoder.run(["mask_logits", "iou_predictions", "stability"], feeds))


class NativePromptDecoder:
    """The decoder in C; mask prompts, which are rare, are prepared by the graph."""

    def __init__(self, prepare: Path, parameters: Path, resources: Resources) -> None:
        try:
            with np.load(parameters, allow_pickle=False) as arrays:
                self._native = NativeDecoder(arrays, threads=resources.threads)
        except (NativeError, OSError, ValueError) as error:
            raise ManifestError(f"{parameters}: the decoder cannot use these parameters: {error}") from error
        self.decoder = f"native {self._native.level}"
        self._prepare = _PrepareGraph(prepare, CPU, resources)
        self._memory = StateMemory()

    def prepare(self, embedding: ImageEmbedding) -> StateArrays:
        return StateArrays(
            *self._native.prepare(embedding.tokens, threads=self._native.threads, out=self._memory.take())
        )

    def prepare_masks(self, embedding: ImageEmbedding, mask_logits: Floats) -> StateArrays:
        return self._prepare.run(embedding, mask_logits, has_mask=True)

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64], threads: int) -> Decoded:
        return Decoded(*self._native.decode(state.keys, state.keys0, state.queries0, points, labels, threads=threads))


def _rehearse_click(clicks: PromptDecoder, threads: int) -> Callable[[], Floats]:
    """One click on noise; the state is there, as it is for all clicks on a picture but the first."""
    tokens = np.random.default_rng(0).normal(0.0, 0.3, TOKENS_SHAPE).astype(np.float32)
    state = clicks.prepare(ImageEmbedding(tokens, (1024, 1024)))
    points, labels = np.array([[[400, 300], [0, 0]]], np.float32), np.array([[POSITIVE, PADDING]], np.int64)
    return lambda: clicks.decode(state, points, labels, threads).mask_logits


def _nbytes(array: Array) -> int:
    return int(array.nbytes if isinstance(array, np.ndarray) else array.tensor_size_in_bytes())


def _joined(words: Iterable[str]) -> str:
    """What the graphs have, encoder first, in one word where it is the same."""
    return "+".join(dict.fromkeys(words))
