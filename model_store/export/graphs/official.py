"""The two graphs that EdgeSAM publishes: for export in the official layout and for conformance tests.

Source: docs/explanation/model.md, section 5.3.
"""

import torch
from torch import Tensor, nn

from model_store.network.mask_decoder import stability_score
from model_store.network.model import PromptableModel
from service.sam.prompts import BOX_BOTTOM_RIGHT, NEGATIVE, PADDING


class OfficialEncoder(nn.Module):
    """``image`` (1, 3, S, S), normalised and padded, to ``image_embeddings`` (1, 256, 64, 64).

    The published files are made from a model with ``upsample_mode="bilinear"``.
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        embeddings: Tensor = self.image_encoder(image)
        return embeddings


class OfficialDecoder(nn.Module):
    """The published decoder: points only, a box is two points with labels 2 and 3, no padding point is added.

    Args:
        model: Model whose prompt encoder and mask decoder are used, not copied.
        use_stability_score: Whether scores are stability scores, as in the published files, or predicted IoUs.
    """

    def __init__(self, model: PromptableModel, use_stability_score: bool = True) -> None:  # noqa: FBT001, FBT002 - official name
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.use_stability_score = use_stability_score

    def forward(self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one prompt.

        Args:
            image_embeddings: Embedding of the image, (1, 256, 64, 64).
            point_coords: Points as (x, y) in the 1024 frame, (1, N, 2).
            point_labels: Labels of the points, (1, N) float32: -1 padding, 0 negative, 1 positive, 2 and 3 box corners.
                Any other label leaves the bare positional code: -2 is *not* the zero token of the prompt encoder.

        Returns:
            Scores (1, 4), then mask logits (1, 4, 256, 256).
        """
        prompt_encoder = self.prompt_encoder
        masks, iou_predictions = self.mask_decoder(
            image_embeddings,
            prompt_encoder.dense_positional_code(),
            self.tokens(point_coords, point_labels),
            prompt_encoder.dense(None, point_coords.shape[0]),
        )
        return (stability_score(masks) if self.use_stability_score else iou_predictions), masks

    def tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Return the prompt tokens (1, N, 256) of points (1, N, 2) with labels (1, N)."""
        label = labels.unsqueeze(-1)
        code = self.prompt_encoder.point_code(coords)
        tokens = torch.where(label == PADDING, self.prompt_encoder.not_a_point_embed.weight, code)
        for index in range(NEGATIVE, BOX_BOTTOM_RIGHT + 1):
            tokens = torch.where(label == index, code + self.prompt_encoder.type_embedding(index), tokens)
        return tokens
