"""SAM 2's mask decoder: SAM's with a sixth token of its own and two high-resolution maps of the image.

Source: docs/explanation/sam2.md, section "Decoder".
"""

import torch
from torch import Tensor, nn

from model_store.network.encoders.image_encoder import HighResTensors
from model_store.network.mask_decoder import CHANNELS, MLP, MaskDecoder


class SAM2MaskDecoder(MaskDecoder):
    """`MaskDecoder` of SAM 2's family: predicted IoUs are bounded to 0..1, and an object score stands beside them.

    The object score is a logit: above 0 there is an object at the prompt. The single-image mode of the official code
    computes it and leaves the masks as they are.
    """

    def __init__(self, *, norm_epsilon: float = 1e-5) -> None:
        super().__init__(norm_epsilon=norm_epsilon)
        self.obj_score_token = nn.Embedding(1, CHANNELS)
        self.pred_obj_score_head = MLP(CHANNELS, 1)

    def own_tokens(self) -> Tensor:
        return torch.cat([self.obj_score_token.weight, super().own_tokens()])  # (6, 256)

    def split_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return super().split_tokens(tokens[:, 1:])

    def upscale(self, image: Tensor, high_res: HighResTensors | None) -> Tensor:
        if high_res is None:
            raise ValueError("This decoder needs the two high-resolution maps of the image, see ImageEncoder.encode.")
        first, norm, activation, second, last_activation = self.output_upscaling
        coarse = activation(norm(first(image) + high_res.s1))  # (P, 64, 2G, 2G)
        fine: Tensor = last_activation(second(coarse) + high_res.s0)  # (P, 32, 4G, 4G)
        return fine

    def predict_iou(self, token: Tensor) -> Tensor:
        return super().predict_iou(token).sigmoid()

    def object_scores(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.pred_obj_score_head(tokens[:, 0])
        return scores
