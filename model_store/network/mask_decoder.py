"""The mask decoder: from image embedding and prompt to four masks and their scores.

Source: docs/explanation/model.md, sections 3.2 to 3.4.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.image_encoder import HighResTensors
from model_store.network.layer_norm import LayerNorm2d
from model_store.network.transformer import TwoWayTransformer

CHANNELS = 256
MASKS = 4
STABILITY_OFFSET = 1.0

# Outputs by number of masks: a single mask is output 0, three masks are those for ambiguous prompts.
_SELECTION = {1: slice(0, 1), 3: slice(1, 4), 4: slice(0, 4)}


class DecodedPrompts(NamedTuple):
    """Everything that the decoder predicts for P prompts.

    Attributes:
        mask_logits: Mask logits, (P, n, 4G, 4G).
        iou_predictions: Predicted IoUs of the masks, (P, n).
        object_scores: Logits that there is an object at the prompt, (P, 1); None for SAM's decoder, which has none.
    """

    mask_logits: Tensor
    iou_predictions: Tensor
    object_scores: Tensor | None


class MaskDecoder(nn.Module):
    """SAM's mask decoder. Letters: P prompts, T prompt tokens each, G = side of the image embedding (64).

    Args:
        norm_epsilon: Epsilon of the transformer's layer norms. That of the upscaling's norm is 1e-6 always.
    """

    def __init__(self, *, norm_epsilon: float = 1e-5) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(CHANNELS, norm_epsilon=norm_epsilon)
        self.iou_token = nn.Embedding(1, CHANNELS)
        self.mask_tokens = nn.Embedding(MASKS, CHANNELS)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, CHANNELS // 4, 2, stride=2),
            LayerNorm2d(CHANNELS // 4),
            nn.GELU(),
            nn.ConvTranspose2d(CHANNELS // 4, CHANNELS // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(CHANNELS, CHANNELS // 8) for _ in range(MASKS)])
        self.iou_prediction_head = MLP(CHANNELS, MASKS)

    def forward(
        self,
        image_embedding: Tensor,
        positional_code: Tensor,
        sparse: Tensor,
        dense: Tensor,
        num_multimask_outputs: int = MASKS,
        high_res: HighResTensors | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts.

        Args:
            image_embedding: Image embedding, (1, 256, G, G) when the prompts share an image, else (P, 256, G, G).
            positional_code: Positional code of the prompt encoder, (1, 256, G, G).
            sparse: Prompt tokens, (P, T, 256).
            dense: Mask prompts or their substitute, (P, 256, G, G).
            num_multimask_outputs: Number of masks: 1 for mask 0, 3 for masks 1 to 3, 4 for all.
            high_res: High-resolution maps of the image; only SAM 2's decoder reads them.

        Returns:
            Mask logits (P, n, 4G, 4G) and predicted IoU (P, n), which no sigmoid bounds in SAM's decoder.

        Raises:
            ValueError: ``num_multimask_outputs`` is another number, or SAM 2's decoder gets no maps.
        """
        decoded = self.decode(image_embedding, positional_code, sparse, dense, num_multimask_outputs, high_res=high_res)
        return decoded.mask_logits, decoded.iou_predictions

    def decode(
        self,
        image_embedding: Tensor,
        positional_code: Tensor,
        sparse: Tensor,
        dense: Tensor,
        num_multimask_outputs: int = MASKS,
        *,
        high_res: HighResTensors | None = None,
    ) -> DecodedPrompts:
        """Decode P prompts to everything that the decoder predicts; see `forward` for arguments and errors."""
        selected = selected_masks(num_multimask_outputs)
        prompts = sparse.shape[0]
        own_tokens = self.own_tokens().unsqueeze(0).expand(prompts, -1, -1)
        image = image_embedding + dense  # (P, 256, G, G)
        tokens, image_tokens = self.transformer(
            image.flatten(2).transpose(1, 2),
            positional_code.flatten(2).transpose(1, 2),
            torch.cat([own_tokens, sparse], dim=1),
        )
        upscaled = self.upscale(image_tokens.transpose(1, 2).reshape(image.shape), high_res)  # (P, 32, 4G, 4G)
        iou_token, mask_tokens = self.split_tokens(tokens)  # (P, 256), (P, 4, 256)
        weights = torch.stack(
            [mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # (P, 4, 32)
        planes = weights[:, selected] @ upscaled.flatten(2)  # (P, n, 16·G·G)
        mask_logits: Tensor = planes.unflatten(2, upscaled.shape[2:])  # type: ignore[no-untyped-call]
        return DecodedPrompts(mask_logits, self.predict_iou(iou_token)[:, selected], self.object_scores(tokens))

    def own_tokens(self) -> Tensor:
        """Return the tokens in front of every prompt's, (5, 256): IoU, then masks."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def split_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the IoU token (P, 256) and the mask tokens (P, 4, 256) of all tokens, (P, 5+T, 256)."""
        return tokens[:, 0], tokens[:, 1 : 1 + MASKS]

    def upscale(self, image: Tensor, high_res: HighResTensors | None) -> Tensor:  # noqa: ARG002 - for SAM 2
        """Enlarge the image's tokens (P, 256, G, G) to (P, 32, 4G, 4G)."""
        upscaled: Tensor = self.output_upscaling(image)
        return upscaled

    def predict_iou(self, token: Tensor) -> Tensor:
        """Return the predicted IoU of all four masks, (P, 4), of the IoU token (P, 256)."""
        predicted: Tensor = self.iou_prediction_head(token)
        return predicted

    def object_scores(self, tokens: Tensor) -> Tensor | None:  # noqa: ARG002 - for decoders that predict it
        """Return the object scores (P, 1) of all tokens, see `DecodedPrompts`."""
        return None


class MLP(nn.Module):
    """Three linear layers with ReLU between and nothing after the last."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(channels, channels), nn.Linear(channels, channels), nn.Linear(channels, out_channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


def selected_masks(num_multimask_outputs: int) -> slice:
    """Return which outputs a number of masks means: 1 for mask 0, 3 for masks 1 to 3, 4 for all.

    Raises:
        ValueError: It is another number.
    """
    if num_multimask_outputs not in _SELECTION:
        raise ValueError(f"num_multimask_outputs is 1, 3 or 4, not {num_multimask_outputs}.")
    return _SELECTION[num_multimask_outputs]


def stability_score(mask_logits: Tensor) -> Tensor:
    """Return the stability of masks when their threshold moves from +1 to -1, 0..1 (docs/explanation/model.md 3.4).

    Args:
        mask_logits: Logits of masks, (..., H, W).

    Returns:
        (...) float32. 0 where no pixel is above -1: the quotient 0/0 would be NaN, and argmax would return it.
    """
    inner = (mask_logits > STABILITY_OFFSET).float().sum((-2, -1))
    outer = (mask_logits > -STABILITY_OFFSET).float().sum((-2, -1))
    return inner / outer.clamp(min=1.0)
