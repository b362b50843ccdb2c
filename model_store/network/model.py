"""EdgeSAM as a whole: its three parts under the names of the official checkpoint (SPEC 0 and 4)."""

import copy

from torch import Tensor, nn

from model_store.network.mask_decoder import MASKS, MaskDecoder
from model_store.network.prompt_encoder import PromptEncoder
from model_store.network.repvit import fold_in_place
from model_store.network.repvit_encoder import ImageEncoder, UpsampleMode

# Mean and standard deviation of pixel values, 0..255, RGB. Not buffers: the checkpoint has no place for them.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class EdgeSAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder.

    ``state_dict()`` of a built model has exactly the 821 keys and shapes of an official checkpoint; that of a deployed
    one has fewer and is not interchangeable.
    """

    def __init__(self, *, upsample_mode: UpsampleMode = "bicubic", frame_size: int = 1024) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(upsample_mode=upsample_mode)
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
        """One frame (1, 3, S, S) and P prompts to mask logits (P, n, S/4, S/4) and predicted IoU (P, n).

        Arguments as in ``PromptEncoder.forward`` and ``MaskDecoder.forward``.
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

    def deploy(self) -> "EdgeSAM":
        """A copy for inference: batch norms folded, depthwise branches merged, eval mode (SPEC 2.5)."""
        deployed = copy.deepcopy(self).eval()
        fold_in_place(deployed.image_encoder)
        deployed.is_deployed = True
        return deployed


def build_edge_sam(upsample_mode: UpsampleMode = "bicubic", *, frame_size: int = 1024) -> EdgeSAM:
    """A model in train form and train mode, with initial weights from torch's global random state.

    Args:
        upsample_mode: see ``ImageEncoder``.
        frame_size: side of the frame, pixels, a multiple of 32; anything but 1024 is for training at low resolution.
    """
    if frame_size <= 0 or frame_size % 32:
        raise ValueError(f"frame_size is a positive multiple of 32, not {frame_size}.")
    return EdgeSAM(upsample_mode=upsample_mode, frame_size=frame_size)
