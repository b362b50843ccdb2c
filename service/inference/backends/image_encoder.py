"""The image encoder on ONNX Runtime or OpenVINO."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from service.inference.backends.onnx_graph import Floats, Graph, Resources
from service.inference.backends.openvino_graph import OpenVinoGraph
from service.inference.backends.providers import Backend, Selection, select_fastest
from service.inference.scheduling.thread_priority import run_at_low_priority
from service.manifest import ENCODER_OUTPUTS
from service.sam.embedding import HighResMaps
from service.sam.granularity import Proposals

_TOKENS: Final = ENCODER_OUTPUTS[0]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's answer for B images."""

    tokens: Floats  # (B, 4096, 256)
    proposals: Sequence[Proposals | None]  # B; all None without the granularity module
    high_res: Sequence[HighResMaps | None]  # B; all None for a model with SAM's mask decoder


class _EncoderGraph(Protocol):
    """The graph of an encoder; see `Graph` for the methods."""

    def check_names(self, inputs: Sequence[str], outputs: Sequence[str]) -> None: ...

    def takes_one_row(self, name: str) -> bool: ...

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Floats]) -> Sequence[Floats]: ...


class ImageEncoder:
    """The encoder on one backend.

    Args:
        path: File of the graph.
        backend: Execution provider and precision.
        resources: Threads and limits of the session.
        has_granularity: Whether the graph has the granularity module, which proposes boxes.
        has_high_res: Whether the graph has the maps of high resolution as outputs.
    """

    def __init__(
        self, path: Path, backend: Backend, resources: Resources, *, has_granularity: bool, has_high_res: bool
    ) -> None:
        load = OpenVinoGraph if backend.provider == "openvino" else Graph
        self._graph: _EncoderGraph = load(path, backend, resources)
        self._outputs = (
            ENCODER_OUTPUTS if has_high_res else (_TOKENS, "boxes", "scores") if has_granularity else (_TOKENS,)
        )
        self._graph.check_names(["image"], self._outputs)
        self._has_granularity = has_granularity
        self._has_high_res = has_high_res
        # OpenVINO's graphs do, and encoders of other authors that are imported as ONNX.
        self._takes_one_image = self._graph.takes_one_row("image")
        self._image_size = resources.image_size

    def encode(self, images: Floats) -> Encoded:
        """Encode images (B, 3, S, S), normalised and padded, where S is the model's `image_size`. Blocking."""
        if self._takes_one_image and len(images) > 1:
            encoded = [self.encode(images[row : row + 1]) for row in range(len(images))]
            return Encoded(
                np.concatenate([one.tokens for one in encoded]),
                [proposals for one in encoded for proposals in one.proposals],
                [maps for one in encoded for maps in one.high_res],
            )
        nothing = [None] * len(images)
        if self._has_high_res:
            tokens, s1, s0 = self._graph.run(self._outputs, {"image": images})
            return Encoded(tokens, nothing, [HighResMaps(*maps) for maps in zip(s1, s0, strict=True)])
        if not self._has_granularity:
            (tokens,) = self._graph.run(self._outputs, {"image": images})
            return Encoded(tokens, nothing, nothing)
        tokens, boxes, scores = self._graph.run(self._outputs, {"image": images})
        rows = zip(boxes, scores, strict=True)
        proposals = [Proposals(row_boxes.copy(), row_scores.copy()) for row_boxes, row_scores in rows]
        return Encoded(tokens, proposals, nothing)

    def probe(self) -> Callable[[], Floats]:
        """Return the run that is timed at start: one image of noise."""
        shape = (1, 3, self._image_size, self._image_size)
        image = np.random.default_rng(0).normal(0.0, 1.0, shape).astype(np.float32)
        return lambda: self.encode(image).tokens


def select_image_encoder(
    path: Path, backends: Sequence[Backend], resources: Resources, *, has_granularity: bool, has_high_res: bool
) -> Selection[ImageEncoder]:
    """Load the encoder on the fastest of several backends; see `ImageEncoder` for the arguments."""
    # The threads of a session inherit the priority of the thread that makes it. Prompts have priority over encoding.
    return run_at_low_priority(
        select_fastest,
        "The encoder",
        backends,
        lambda backend: ImageEncoder(
            path, backend, resources, has_granularity=has_granularity, has_high_res=has_high_res
        ),
        ImageEncoder.probe,
    )
