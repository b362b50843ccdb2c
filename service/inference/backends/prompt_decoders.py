"""Prompt decoders: the graphs on ONNX Runtime, and the native decoder in C for CPUs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from service.inference.backends.image_state import ImageState, StateArrays
from service.inference.backends.onnx_graph import Array, Floats, Graph, Resources
from service.inference.backends.providers import CPU, Backend, Selection, select_fastest
from service.inference.backends.state_memory import StateMemory
from service.manifest import HIGH_RES_NAMES, STATE_NAMES, ManifestError
from service.native.decoder import NativeDecoder, NativeError
from service.sam.embedding import S0_SHAPE, S1_SHAPE, TOKENS_SHAPE, HighResMaps, ImageEmbedding
from service.sam.everything.selection import MaskSelection, SelectedMasks, selected_masks
from service.sam.float16 import as_float32
from service.sam.prompts import PADDING, POSITIVE

_DECODER_OUTPUTS: Final = ("mask_logits", "iou_predictions", "stability")
_NARROW: Final = "narrow_stability"


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoder's answer for P prompts."""

    mask_logits: Floats  # (P, 4, 256, 256)
    iou_predictions: Floats  # (P, 4)
    stability: Floats  # (P, 4), 0..1
    narrow_stability: Floats | None = None  # (P,), of output 0 at ±0.05, 0..1; None for SAM's mask decoder

    def rows(self, start: int, end: int) -> "Decoded":
        """Return the answers for some of the prompts, as views."""
        some = slice(start, end)
        narrow = None if self.narrow_stability is None else self.narrow_stability[some]
        return Decoded(self.mask_logits[some], self.iou_predictions[some], self.stability[some], narrow)


class PromptDecoder(Protocol):
    """Prepares image states and decodes prompts on them. State arrays stay on the device of the decoder. Blocking."""

    decoder: str
    """Name of the decoder, for /models and the log."""

    def prepare(self, embedding: ImageEmbedding) -> StateArrays:
        """Return the state of an image without mask prompt, S = 1."""
        ...

    def prepare_masks(self, state: ImageState, mask_logits: Floats) -> StateArrays:
        """Return the state of an image under each of S mask prompts (S, 256, 256), with the maps of `state`."""
        ...

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64], threads: int) -> Decoded:
        """Decode points (P, N, 2) in the frame and labels (P, N) on a state of S = 1 or S = P.

        Args:
            state: State of one image.
            points: Coordinates of the tokens, in pixels of the frame.
            labels: Labels of the tokens.
            threads: Largest number of computing threads. ONNX Runtime uses those of its session instead.
        """
        ...

    def decode_selected(
        self, state: StateArrays, points: Floats, labels: NDArray[np.int64], selection: MaskSelection, threads: int
    ) -> SelectedMasks:
        """Decode points (P, N, 2) in the frame and labels (P, N) to the masks whose quality is above a threshold.

        Args:
            state: State of one image, S = 1.
            points: Coordinates of the tokens, in pixels of the frame.
            labels: Labels of the tokens.
            selection: Outputs and threshold.
            threads: Largest number of computing threads. ONNX Runtime uses those of its session instead.
        """
        ...


class OnnxPromptDecoder:
    """Both graphs on one backend.

    Args:
        prepare: File of the graph that prepares image states.
        decoder: File of the graph that decodes prompts.
        backend: Execution provider and precision.
        resources: Threads and limits of the sessions.
    """

    decoder = "onnx"

    def __init__(self, prepare: Path, decoder: Path, backend: Backend, resources: Resources) -> None:
        self._prepare = _PrepareGraph(prepare, backend, resources)
        self._decoder = Graph(decoder, backend, resources)

    def check_names(self, *, has_high_res: bool) -> None:
        """Raise ManifestError where the decoder's graph is not that of a model with or without maps."""
        maps, stability = (HIGH_RES_NAMES, (_NARROW,)) if has_high_res else ((), ())
        self._decoder.check_names(["points", "labels", *STATE_NAMES, *maps], [*_DECODER_OUTPUTS, *stability])

    def prepare(self, embedding: ImageEmbedding) -> StateArrays:
        """See `PromptDecoder`."""
        return StateArrays(*self._prepare.run_without_mask(embedding), *self._maps(embedding))

    def prepare_masks(self, state: ImageState, mask_logits: Floats) -> StateArrays:
        """See `PromptDecoder`."""
        return self._prepare.run_with_masks(state, mask_logits)

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64], threads: int) -> Decoded:  # noqa: ARG002 - a session has threads of its own
        """See `PromptDecoder`."""
        feeds = {"points": points, "labels": labels, **{name: getattr(state, name) for name in STATE_NAMES}}
        outputs = [*_DECODER_OUTPUTS]
        if state.high_res_s1 is not None:
            feeds |= {name: getattr(state, name) for name in HIGH_RES_NAMES}
            outputs.append(_NARROW)
        return Decoded(*self._decoder.run(outputs, feeds))

    def decode_selected(
        self, state: StateArrays, points: Floats, labels: NDArray[np.int64], selection: MaskSelection, threads: int
    ) -> SelectedMasks:
        """See `PromptDecoder`. The graph computes all masks."""
        decoded = self.decode(state, points, labels, threads)
        return selected_masks(selection, decoded.mask_logits, decoded.iou_predictions, decoded.stability)

    def _maps(self, embedding: ImageEmbedding) -> tuple[Array, Array] | tuple[None, None]:
        """Return the maps of high resolution as inputs of the graph, with a batch axis."""
        if (maps := embedding.high_res) is None:
            return None, None
        return self._decoder.resident(as_float32(maps.s1)[None]), self._decoder.resident(as_float32(maps.s0)[None])


class NativePromptDecoder:
    """The decoder in C. The graph prepares mask prompts, which are rare, and embeddings in float32.

    Args:
        prepare: File of the graph that prepares image states.
        parameters: File of the decoder's parameters, a NumPy archive.
        norm_epsilon: Epsilon of the layer norms in the decoder's transformer.
        resources: Threads and limits of the decoder.
        has_high_res: Whether the model has maps of high resolution, which the parameters have to need.

    Raises:
        ManifestError: The parameters cannot be used.
    """

    def __init__(
        self, prepare: Path, parameters: Path, norm_epsilon: float, resources: Resources, *, has_high_res: bool
    ) -> None:
        try:
            with np.load(parameters, allow_pickle=False) as arrays:
                self._native = NativeDecoder(arrays, norm_epsilon=norm_epsilon, threads=resources.threads)
        except (NativeError, OSError, ValueError) as error:
            raise ManifestError(f"{parameters}: the decoder cannot use these parameters: {error}") from error
        if self._native.needs_maps != has_high_res:
            needed = "sam2" if self._native.needs_maps else "sam"
            raise ManifestError(f"{parameters}: these are parameters of mask_decoder {needed}, unlike the manifest's")
        self.decoder = f"native {self._native.level}"
        self._prepare = _PrepareGraph(prepare, CPU, resources)
        self._memory = StateMemory()

    def prepare(self, embedding: ImageEmbedding) -> StateArrays:
        """See `PromptDecoder`. Tokens in float32 get a state in float32, since such a cache is meant to be exact."""
        if embedding.tokens.dtype == np.float32:
            return StateArrays(*self._prepare.run_without_mask(embedding), *_own_maps(embedding))
        arrays = self._native.prepare(embedding.tokens, threads=self._native.threads, out=self._memory.take())
        return StateArrays(*arrays, *_own_maps(embedding))

    def prepare_masks(self, state: ImageState, mask_logits: Floats) -> StateArrays:
        """See `PromptDecoder`."""
        return self._prepare.run_with_masks(state, mask_logits)

    def decode(self, state: StateArrays, points: Floats, labels: NDArray[np.int64], threads: int) -> Decoded:
        """See `PromptDecoder`."""
        arrays = (state.keys, state.keys0, state.queries0)
        return Decoded(*self._native.decode(*arrays, points, labels, threads=threads, high_res=_maps_of(state)))

    def decode_selected(
        self, state: StateArrays, points: Floats, labels: NDArray[np.int64], selection: MaskSelection, threads: int
    ) -> SelectedMasks:
        """See `PromptDecoder`. A point whose predicted IoUs are too low is decoded about half."""
        by_iou = selection.quality == "predicted_iou" and selection.threshold > 0.0
        mask_logits, iou_predictions, stability = self._native.decode_selected(
            *(state.keys, state.keys0, state.queries0),
            points,
            labels,
            outputs=selection.outputs,
            least_iou=selection.threshold if by_iou else None,
            cells=selection.cells,
            threads=threads,
            high_res=_maps_of(state),
        )
        return selected_masks(selection, mask_logits, iou_predictions, stability)


def select_prompt_decoder(
    paths: Mapping[str, Path],
    backends: Sequence[Backend],
    parameters: Path | None,
    resources: Resources,
    *,
    norm_epsilon: float,
    has_high_res: bool,
) -> Selection[PromptDecoder]:
    """Load the prompt decoder on the fastest of several backends.

    Args:
        paths: Files of the graphs `prepare` and `decoder`.
        backends: Candidates, the reference first.
        parameters: File of the native decoder's parameters; None where the graph decodes on the CPU, too.
        resources: Threads and limits of the decoder.
        norm_epsilon: Epsilon of the layer norms in the decoder's transformer. The graph contains its own.
        has_high_res: Whether the decoder reads maps of high resolution.
    """

    def load(backend: Backend) -> PromptDecoder:
        if parameters is not None and backend == CPU:
            return NativePromptDecoder(paths["prepare"], parameters, norm_epsilon, resources, has_high_res=has_high_res)
        loaded = OnnxPromptDecoder(paths["prepare"], paths["decoder"], backend, resources)
        loaded.check_names(has_high_res=has_high_res)
        return loaded

    embedding = _noise(has_high_res=has_high_res)
    return select_fastest("The decoder", backends, load, lambda loaded: _probe(loaded, embedding, resources.threads))


class _PrepareGraph:
    """The graph that prepares image states.

    Args:
        path: File of the graph.
        backend: Execution provider and precision.
        resources: Threads and limits of the session.
    """

    def __init__(self, path: Path, backend: Backend, resources: Resources) -> None:
        self._graph = Graph(path, backend, resources)

    def run(self, embedding: ImageEmbedding, mask_logits: Floats, *, has_mask: bool) -> list[Array]:
        """Return keys, keys0 and queries0 under each of S masks (S, 256, 256), or without where `has_mask` is False.

        Args:
            embedding: Embedding of the image.
            mask_logits: Logits of the masks; zeros where there is no mask.
            has_mask: Whether the masks are mask prompts.
        """
        feeds = {
            "tokens": as_float32(embedding.tokens),
            "mask_logits": mask_logits,
            "has_mask": np.full(len(mask_logits), has_mask),
        }
        return self._graph.run(STATE_NAMES, feeds, resident=True)

    def run_without_mask(self, embedding: ImageEmbedding) -> list[Array]:
        """Return keys, keys0 and queries0 without a mask prompt.

        Args:
            embedding: Embedding of the image.
        """
        return self.run(embedding, np.zeros((1, 256, 256), np.float32), has_mask=False)

    def run_with_masks(self, state: ImageState, mask_logits: Floats) -> StateArrays:
        """Return the state of an image under each of S masks (S, 256, 256), with the maps that the image has already.

        Args:
            state: State of the image without mask.
            mask_logits: Logits of the masks.
        """
        keys, keys0, queries0 = self.run(state.embedding, mask_logits, has_mask=True)
        return StateArrays(keys, keys0, queries0, state.arrays.high_res_s1, state.arrays.high_res_s0)


def _maps_of(state: StateArrays) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the maps of a state of the native decoder, which are NumPy arrays of the embedding's type."""
    if state.high_res_s1 is None:
        return None
    assert isinstance(state.high_res_s1, np.ndarray)
    assert isinstance(state.high_res_s0, np.ndarray)
    return state.high_res_s1, state.high_res_s0


def _own_maps(embedding: ImageEmbedding) -> tuple[Array, Array] | tuple[None, None]:
    return (None, None) if (maps := embedding.high_res) is None else (maps.s1, maps.s0)


def _noise(*, has_high_res: bool) -> ImageEmbedding:
    random = np.random.default_rng(0)
    shapes = (TOKENS_SHAPE, S1_SHAPE, S0_SHAPE) if has_high_res else (TOKENS_SHAPE,)
    tokens, *maps = (random.normal(0.0, 0.3, shape).astype(np.float32) for shape in shapes)
    return ImageEmbedding(tokens, (1024, 1024), high_res=HighResMaps(*maps) if maps else None)


def _probe(decoder: PromptDecoder, embedding: ImageEmbedding, threads: int) -> Callable[[], Floats]:
    """Return the run that is timed at start: one point on noise.

    The state is prepared before, as it is for all prompts on an image but the first.
    """
    state = decoder.prepare(embedding)
    points, labels = np.array([[[400, 300], [0, 0]]], np.float32), np.array([[POSITIVE, PADDING]], np.int64)
    return lambda: decoder.decode(state, points, labels, threads).mask_logits
