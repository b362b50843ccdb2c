"""The interface of image encoders."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

UpsampleMode = Literal["bicubic", "bilinear"]

EMBEDDING_CHANNELS = 256


class HighResTensors(NamedTuple):
    """The high-resolution maps of B images, which SAM 2's decoder adds while it enlarges its own.

    Attributes:
        s1: Map of stride 8, (B, 64, 2G, 2G).
        s0: Map of stride 4, (B, 32, 4G, 4G).
    """

    s1: Tensor
    s0: Tensor


class EncodedImage(NamedTuple):
    """Everything that a decoder reads of B images.

    Attributes:
        embedding: Image embeddings, (B, 256, G, G).
        high_res: High-resolution maps; None for the encoders of SAM's family, whose decoder reads none.
    """

    embedding: Tensor
    high_res: HighResTensors | None = None


class UnsupportedByEncoderError(ValueError):
    """The encoder lacks a part or option; the message names both."""


class ImageEncoder(nn.Module, ABC):
    """Images (B, 3, S, S), normalised, to image embeddings (B, 256, G, G).

    Images fill the square or are padded with zeros, as the architecture's ``resize`` says.

    G is 64 at the architecture's own side S, which is 1024 or 512. So G is S/16 or S/8.

    Parts that only some encoders have raise UnsupportedByEncoderError here, with the name of the encoder.

    Attributes:
        name: Name of the encoder as its authors write it, for manifests and messages.
        frame_multiple: Number of pixels of which the side S is a multiple.
        granularity_channels: Channels of the three stages that the granularity module reads, of strides 8, 16 and
            32; None where the encoder has no such stages.
        opset: ONNX opset of the exported encoder.
    """

    name: str
    frame_multiple: int = 32
    granularity_channels: tuple[int, int, int] | None = None
    opset: int = 17

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) float32 as (B, 256, G, G)."""

    def encode(self, image: Tensor) -> EncodedImage:
        """Return all maps of images (B, 3, S, S) that the decoder reads. `forward` returns the embedding alone."""
        return EncodedImage(self(image))

    @property
    def upsample_mode(self) -> UpsampleMode | None:
        """Interpolation that enlarges a coarse stage; None for encoders without this choice."""
        return None

    def set_upsample_mode(self, mode: UpsampleMode) -> None:
        """Choose the interpolation that enlarges a coarse stage.

        Raises:
            UnsupportedByEncoderError: The encoder has no such choice.
        """
        raise UnsupportedByEncoderError(f"{self.name} has no upsample mode; leave {mode!r} out.")

    def stages(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002 - for encoders that have them
        """Return the input of the granularity module: maps of strides 8, 16 and 32 with `granularity_channels`.

        Raises:
            UnsupportedByEncoderError: The encoder has no such stages.
        """
        raise UnsupportedByEncoderError(
            f"{self.name} has no stages of strides 8, 16 and 32 for the granularity module."
        )

    def fuse(self, stage2: Tensor, stage3: Tensor) -> Tensor:  # noqa: ARG002 - for encoders that have them
        """Return the embedding, (B, 256, G, G), of the last two `stages`.

        Raises:
            UnsupportedByEncoderError: The encoder has no such stages.
        """
        raise UnsupportedByEncoderError(f"{self.name} cannot embed from stages.")

    def parameter_groups(self) -> Sequence[tuple[float, list[nn.Parameter]]]:
        """Return pairs of a learning-rate factor and the parameters trained with it; frozen ones are absent."""
        return [(1.0, [parameter for parameter in self.parameters() if parameter.requires_grad])]
