"""The whole network: an image encoder, SAM's prompt encoder and SAM's mask decoder.

Numbers: docs/explanation/model.md, sections 0 and 4.
"""

import copy

from torch import Tensor, nn

from model_store.network.architectures import DEFAULT_ARCHITECTURE, architecture
from model_store.network.folding import fold_in_place
from model_store.network.mask_decoder import MASKS, MaskDecoder
from model_store.network.prompt_encoder import PromptEncoder

# Mean and standard deviation of pixel values, 0..255, RGB. They are no buffers: official checkpoints lack them.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class PromptableModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder.

    ``state_dict()`` of a built `edgesam` has exactly the 821 keys and shapes of an official checkpoint; that of a
    deployed model has fewer and is not interchangeable.

    Args:
        architecture_name: Name of the architecture, see `architectures`.
        frame_size: Side of the frame, in pixels.

    Attributes:
        architecture: The architecture's entry in the registry.
        is_deployed: Whether batch norms are folded.
    """

    def __init__(self, architecture_name: str = DEFAULT_ARCHITECTURE, *, frame_size: int = 1024) -> None:
        super().__init__()
        self.architecture = architecture(architecture_name)
        self.image_encoder = self.architecture.encoder()
        self.prompt_encoder = PromptEncoder(frame_size=frame_size)
        self.mask_decoder = MaskDecoder()
        self.is_deployed = False

    def forward(
        self,
        image: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        mask_logits: Tensor | None = None,
        num_multimask_outputs: int = MASKS,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts on one frame (1, 3, S, S) to mask logits (P, n, S/4, S/4) and predicted IoU (P, n).

        The arguments are those of ``PromptEncoder.forward`` and ``MaskDecoder.forward``.
        """
        sparse, dense = self.prompt_encoder(points, boxes, mask_logits)
        decoded: tuple[Tensor, Tensor] = self.mask_decoder(
            self.image_encoder(image),
            self.prompt_encoder.dense_positional_code(),
            sparse,
            dense,
            num_multimask_outputs,
        )
        return decoded

    def deploy(self) -> "PromptableModel":
        """Return a copy for inference: batch norms folded, depthwise branches merged, eval mode.

        Source: docs/explanation/model.md, section 2.5.
        """
        deployed = copy.deepcopy(self).eval()
        fold_in_place(deployed.image_encoder)
        deployed.is_deployed = True
        return deployed


def build_model(name: str = DEFAULT_ARCHITECTURE, *, frame_size: int = 1024) -> PromptableModel:
    """Return a model in train form and train mode, with initial weights from torch's global random state.

    Args:
        name: Name of the architecture.
        frame_size: Side of the frame, in pixels; sizes other than 1024 are for training at low resolution.

    Raises:
        UnknownArchitectureError: No architecture has this name.
        ValueError: The encoder does not accept a frame of this size.
    """
    multiple = architecture(name).encoder.frame_multiple
    if frame_size <= 0 or frame_size % multiple:
        raise ValueError(f"frame_size is a positive multiple of {multiple}, not {frame_size}.")
    return PromptableModel(name, frame_size=frame_size)
