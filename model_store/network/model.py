"""The whole network: an image encoder, SAM's prompt encoder, and SAM's or SAM 2's mask decoder.

Numbers: docs/explanation/model.md, sections 0 and 4.
"""

import copy

from torch import Tensor, nn

from model_store.architectures import DEFAULT_ARCHITECTURE, architecture
from model_store.network.architectures import build_encoder
from model_store.network.folding import fold_in_place
from model_store.network.mask_decoder import MASKS, MaskDecoder
from model_store.network.prompt_encoder import PromptEncoder
from model_store.network.sam2_mask_decoder import SAM2MaskDecoder
from service.sam.transforms import FRAME_SIZE


class PromptableModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder.

    ``state_dict()`` of a built `edgesam` has exactly the 821 keys and shapes of an official checkpoint; that of a
    deployed model has fewer and is not interchangeable.

    Args:
        architecture_name: Name of the architecture, see `architectures`.
        frame_size: Side of the frame of prompts and masks, in pixels.

    Attributes:
        architecture: The architecture's entry in the registry.
        image_size: Side of the encoder's input, S, in pixels.
        is_deployed: Whether batch norms are folded.

    Raises:
        UnknownArchitectureError: No architecture has this name.
        ValueError: The encoder does not accept an image of this size.
    """

    def __init__(self, architecture_name: str = DEFAULT_ARCHITECTURE, *, frame_size: int = 1024) -> None:
        super().__init__()
        self.architecture = architecture(architecture_name)
        self.image_encoder = build_encoder(architecture_name)
        self.image_size = frame_size * self.architecture.image_size // FRAME_SIZE
        multiple = self.image_encoder.frame_multiple
        if frame_size <= 0 or self.image_size % multiple:
            raise ValueError(f"The side of the image is a positive multiple of {multiple}, not {self.image_size}.")
        is_sam2 = self.architecture.mask_decoder == "sam2"
        self.prompt_encoder = PromptEncoder(frame_size=frame_size, pads_boxes=is_sam2)
        decoder = SAM2MaskDecoder if is_sam2 else MaskDecoder
        self.mask_decoder = decoder(norm_epsilon=self.architecture.norm_epsilon)
        self.is_deployed = False

    def forward(
        self,
        image: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        mask_logits: Tensor | None = None,
        num_multimask_outputs: int = MASKS,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts on one image (1, 3, S, S) to mask logits (P, n, F/4, F/4) and predicted IoU (P, n).

        F is the side of the frame of prompts and masks. It equals S, or is twice S.

        The arguments are those of ``PromptEncoder.forward`` and ``MaskDecoder.forward``.
        """
        encoded = self.image_encoder.encode(image)
        sparse, dense = self.prompt_encoder(points, boxes, mask_logits)
        decoded: tuple[Tensor, Tensor] = self.mask_decoder(
            encoded.embedding,
            self.prompt_encoder.dense_positional_code(),
            sparse,
            dense,
            num_multimask_outputs,
            encoded.high_res,
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
        ValueError: The encoder does not accept an image of this size.
    """
    return PromptableModel(name, frame_size=frame_size)
