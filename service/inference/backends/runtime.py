"""The runtime: encoder and prompt decoder of one artifact, each on its fastest backend.

All calls block. Threads of a batcher or an executor make them, never the event loop.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.artifact_files import verify_files
from service.inference.backends.image_encoder import Encoded, ImageEncoder, select_image_encoder
from service.inference.backends.image_state import ImageState, StateArrays
from service.inference.backends.onnx_graph import Floats, Resources
from service.inference.backends.prompt_decoders import Decoded, PromptDecoder, select_prompt_decoder
from service.inference.backends.providers import (
    Precision,
    Provider,
    ProviderUnavailable,
    Selection,
    decoder_backends,
    decoder_only_backends,
    encoder_backends,
)
from service.inference.scheduling.thread_priority import run_at_low_priority
from service.manifest import Manifest, ManifestError, load_manifest
from service.native import best_level
from service.sam.embedding import S0_SHAPE, S1_SHAPE, TOKENS_SHAPE, HighResMaps, ImageEmbedding
from service.sam.everything.selection import MaskSelection, SelectedMasks
from service.sam.prompts import ABSENT

Decoder = Literal["native", "onnx"]

_EMPTY: Final[Floats] = np.empty((0, 0, 0), np.float32)
_NO_ENCODER: Final = "A replica without an encoder was asked to encode. This is a bug."
_NO_DECODER: Final = "A replica that only embeds was asked to segment. This is a bug."


class Runtime:
    """The graphs of one artifact. Encoder and decoder may run on different backends.

    Args:
        directory: Folder of the artifact. Every file is compared with its manifest before anything is loaded.
        provider: Execution provider; `auto` takes the fastest of those installed, for encoder and decoder each.
        threads: Computing threads of a session.
        decoder: Prompt decoder: `native` is the decoder in C, for the CPU; `onnx` is the graph; `auto` takes the native
            one where it was built.
        precision: Precision of the encoder, and of the decoder unless float32 is faster. Without an encoder it is the
            precision of the replicas that embed: it is part of the fingerprint.
        max_encode_batch: Largest number of images in one encoder call.
        engine_cache_dir: Folder in which OpenVINO and TensorRT keep compiled graphs; None compiles at each start.
        encodes: Whether the encoder is loaded.
        segments: Whether the prompt decoder is loaded.

    Raises:
        ManifestError: The artifact differs from its manifest, or is not of the served layout.
        ProviderUnavailable: `provider` is not installed, does not work here or does not compute in `precision`, or
            `decoder` is not available.
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
        run_at_low_priority(verify_files, directory, self.manifest)
        self.threads = threads
        resources = Resources(threads, max_encode_batch, engine_cache_dir, self.manifest.image_size)
        paths = {name: directory / graph.file for name, graph in self.manifest.graphs.items()}
        prompt_decoder: Selection[PromptDecoder] | None = None
        encoder: Selection[ImageEncoder] | None = None
        if segments:
            backends = decoder_backends(provider, precision) if encodes else decoder_only_backends(provider)
            parameters = self._native_parameters(directory, provider, decoder)
            prompt_decoder = select_prompt_decoder(
                paths,
                backends,
                parameters,
                resources,
                norm_epsilon=self.manifest.norm_epsilon,
                has_high_res=self.manifest.has_high_res,
            )
        if encodes:
            encoder = select_image_encoder(
                paths["encoder"],
                encoder_backends(provider, precision),
                resources,
                has_granularity=self.manifest.granularity is not None,
                has_high_res=self.manifest.has_high_res,
            )
        self._decoder = None if prompt_decoder is None else prompt_decoder.loaded
        self._encoder = None if encoder is None else encoder.loaded
        selected = {name: one for name, one in (("encoder", encoder), ("decoder", prompt_decoder)) if one is not None}
        self.provider = _joined(one.backend.provider for one in selected.values())
        self.decoder = "none" if self._decoder is None else self._decoder.decoder
        self.is_native = self.decoder.startswith("native")
        self.precision = _joined(one.backend.precision for one in selected.values())
        self.provider_timings_ms = {name: one.timings_ms for name, one in selected.items()}
        # Embeddings of all providers agree in float32 within about 1e-6 and are shared. Another precision has its own.
        self.fingerprint = self.manifest.fingerprint + ("" if precision == "float32" else f"-{precision}")

    def _native_parameters(
        self, directory: Path, provider: Provider | Literal["auto"], decoder: Decoder | Literal["auto"]
    ) -> Path | None:
        """Return the file of the native decoder's parameters; None where the graph decodes."""
        obstacles = {
            "the artifact has no decoder_parameters; export it again": self.manifest.decoder_parameters is None,
            "it was not built for this machine: install the service where there is a C compiler": best_level() is None,
            f"EDGESAM_PROVIDER={provider} decodes elsewhere": provider not in {"auto", "cpu", "openvino"},
        }
        reasons = [reason for reason, is_met in obstacles.items() if is_met]
        if decoder == "native" and reasons:
            raise ProviderUnavailable(f"EDGESAM_DECODER=native is not available: {'; '.join(reasons)}")
        if decoder == "onnx" or reasons or self.manifest.decoder_parameters is None:
            return None
        return directory / self.manifest.decoder_parameters.file

    def encode(self, images: Floats) -> Encoded:
        """Encode images (B, 3, S, S), normalised and padded, where S is the manifest's `image_size`."""
        assert self._encoder is not None, _NO_ENCODER
        return self._encoder.encode(images)

    def prepare(self, embedding: ImageEmbedding) -> ImageState:
        """Compute the arrays that all prompts on an image share. A replica without decoder prepares nothing."""
        if self._decoder is None:
            return ImageState(embedding, StateArrays(_EMPTY, _EMPTY, _EMPTY))
        return ImageState(embedding, self._decoder.prepare(embedding))

    def prepare_masks(self, state: ImageState, mask_logits: Floats) -> StateArrays:
        """Return the state of an image under each of S low-resolution mask prompts (S, 256, 256)."""
        assert self._decoder is not None, _NO_DECODER
        return self._decoder.prepare_masks(state, mask_logits)

    def decode(
        self, state: StateArrays, points: Floats, labels: NDArray[np.int64], *, threads: int | None = None
    ) -> Decoded:
        """Decode points (P, N, 2) in the frame and labels (P, N) to masks.

        Args:
            state: State of one image, S = 1 or S = P.
            points: Coordinates of the tokens, in pixels of the frame.
            labels: Labels of the tokens.
            threads: Largest number of computing threads; None for all. ONNX Runtime uses those of its session.
        """
        assert self._decoder is not None, _NO_DECODER
        return self._decoder.decode(state, points, labels, threads or self.threads)

    def decode_selected(
        self, state: StateArrays, points: Floats, labels: NDArray[np.int64], selection: MaskSelection, *, threads: int
    ) -> SelectedMasks:
        """Decode points (P, N, 2) in the frame and labels (P, N) to the masks whose quality is above a threshold.

        Args:
            state: State of one image, S = 1.
            points: Coordinates of the tokens, in pixels of the frame.
            labels: Labels of the tokens.
            selection: Outputs and threshold.
            threads: Largest number of computing threads. ONNX Runtime uses those of its session.
        """
        assert self._decoder is not None, _NO_DECODER
        return self._decoder.decode_selected(state, points, labels, selection, threads)

    def warm_up(self) -> None:
        """Run every graph once. The first run of a graph takes longer, because it sets parts up.

        The encoder runs with low priority, because OpenVINO may start threads in its first run.
        """
        embedding = self._first_embedding()
        if self._decoder is None:
            return
        state = self.prepare(embedding)
        self.prepare_masks(state, np.zeros((1, 256, 256), np.float32))
        self.decode(state.arrays, np.zeros((1, 2, 2), np.float32), np.full((1, 2), ABSENT, np.int64))

    def _first_embedding(self) -> ImageEmbedding:
        if self._encoder is not None:
            side = self.manifest.image_size
            encoded = run_at_low_priority(self.encode, np.zeros((1, 3, side, side), np.float32))
            return ImageEmbedding(encoded.tokens[0], (1024, 1024), high_res=encoded.high_res[0])
        tokens, s1, s0 = (np.zeros(shape, np.float32) for shape in (TOKENS_SHAPE, S1_SHAPE, S0_SHAPE))
        return ImageEmbedding(
            tokens, (1024, 1024), high_res=HighResMaps(s1, s0) if self.manifest.has_high_res else None
        )


def _joined(words: Iterable[str]) -> str:
    """Join the words of encoder and decoder by a plus sign; equal words stand once."""
    return "+".join(dict.fromkeys(words))
