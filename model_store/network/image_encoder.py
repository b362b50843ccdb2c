"""What every image encoder offers to the rest of the model store."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

UpsampleMode = Literal["bicubic", "bilinear"]

EMBEDDING_CHANNELS = 256


class EncoderLacksError(ValueError):
    """The encoder has no such part or option; the message names both."""


class ImageEncoder(nn.Module, ABC):
    """Frames (B, 3, S, S), normalised and zero-padded, to image embeddings (B, 256, S/16, S/16).

    What only some encoders have is refused by this class, with a message that names the encoder.

    Attributes:
        name: Name of the encoder as its authors write it, for manifests and messages.
        frame_multiple: The frame's side S is a multiple of it, in pixels.
        granularity_channels: Channels of the three stages that the granularity module reads, of strides 8, 16 and
            32; None where the encoder has no such stages.
    """

    name: str
    frame_multiple: int = 32
    granularity_channels: tuple[int, int, int] | None = None

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Embed frames (B, 3, S, S) float32 as (B, 256, S/16, S/16)."""

    @property
    def upsample_mode(self) -> UpsampleMode | None:
        """How a coarse stage is enlarged, where that is a choice beside the weights; else None."""
        return None

    def set_upsample_mode(self, mode: UpsampleMode) -> None:
        """Choose how a coarse stage is enlarged.

        Raises:
            EncoderLacksError: The encoder has no such choice.
        """
        raise EncoderLacksError(f"{self.name} has no upsample mode; leave out {mode!r}.")

    def stages(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002 - for encoders that have them
        """Return what the granularity module reads: maps of strides 8, 16 and 32 of `granularity_channels`.

        Raises:
            EncoderLacksError: The encoder has no such stages.
        """
        raise EncoderLacksError(f"{self.name} has no stages of strides 8, 16 and 32 for the granularity module.")

    def fuse(self, stage2: Tensor, stage3: Tensor) -> Tensor:  # noqa: ARG002 - for encoders that have them
        """Return the embedding of the last two `stages`.

        Raises:
            EncoderLacksError: The encoder has no such stages.
        """
        raise EncoderLacksError(f"{self.name} cannot embed from stages.")

    def parameter_groups(self) -> Sequence[tuple[float, list[nn.Parameter]]]:
        """Return (factor on the learning rate, parameters) of all that is trained; frozen parameters are absent."""
        return [(1.0, [parameter for parameter in self.parameters() if parameter.requires_grad])]
