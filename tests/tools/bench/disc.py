"""An image of a disc, and a model that segments it.

Masks of an untrained model are noise, whose run lengths and outlines are many times longer than those of real objects.
A trained model may fail. So the last layers of a random model are fitted by least squares, such that a prompt gives the
disc in this image, a tenth of the frame. The layers keep their shapes, so the amount of computation is that of any
EdgeSAM.
"""

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from support.random_model import random_model
from torch import Tensor

from model_store.network.frames import frame
from model_store.network.model import PromptableModel
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size

SHARE = 0.1  # of the image's area
JPEG_QUALITY = 90

# Distance from the disc's edge, in frame pixels, at which the fitted value reaches +1 inside or -1 outside.
_REACH = 100.0
# Without a ridge the weights become so large that rounding changes the fourth digit of a logit.
_RIDGE = 0.3
# Influence of the prompt on the image stream. With 1 the fit would be valid for a single point only.
_PROMPT_SHARE = 0.02
# An input for which GELU is the identity: GELU(8) = 8 - 5e-15.
_LINEAR = 8.0
# Scale of the fitted values at the input of the LayerNorm, small compared with the constants that fix its variance.
_EPSILON = 0.05
# (scale, offset) of the logits of the four masks: the disc, which is the most stable, and three of other sizes.
_MASKS = ((5.0, 0.0), (3.0, 0.6), (3.0, -0.6), (3.0, -1.2))


def disc_image(size: Size) -> NDArray[np.uint8]:
    """Return an image (H, W, 3), uint8, of a bright disc that fades outwards, with the noise of a camera."""
    distance = _distance(size)  # (H, W), in sides of the image
    light = 235.0 - 300.0 * distance
    random = np.random.default_rng(size)
    planes = [light, 0.6 * light + 50.0, 245.0 - 0.8 * light]
    grain = random.normal(0.0, 5.0, size).astype(np.float32)
    return np.stack([np.clip(plane + grain, 0, 255).astype(np.uint8) for plane in planes], axis=-1)


def as_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Return the image as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def disc_centre(size: Size) -> tuple[float, float]:
    """Return the centre (x, y) of the disc, in pixels."""
    height, width = size
    return width / 2, height / 2


def disc_model(image: NDArray[np.uint8]) -> PromptableModel:
    """Return a random model whose masks are the disc in this image, and in images that are equal in the frame."""
    model = random_model()
    encoder = model.deploy().image_encoder  # the same numbers in a third of the time
    size = image.shape[:2]
    with torch.no_grad():
        for layer in model.mask_decoder.transformer.layers:
            layer.cross_attn_image_to_token.out_proj.weight *= _PROMPT_SHARE
            layer.cross_attn_image_to_token.out_proj.bias *= _PROMPT_SHARE
        weights, bias = _fit(_image_stream(model, encoder(frame(image)), size), _wanted(size))
        _install(model, torch.from_numpy(weights).float(), bias)
    return model


def _distance(size: Size) -> NDArray[np.float32]:
    """Return the distance (H, W) from the disc's edge, in units of the longer side; negative inside."""
    height, width = size
    centre_x, centre_y = disc_centre(size)
    y, x = np.ogrid[:height, :width]
    distance = np.hypot((y + 0.5 - centre_y).astype(np.float32), (x + 0.5 - centre_x).astype(np.float32))
    radius = math.sqrt(SHARE * height * width / math.pi)
    return (distance - radius) / max(size)


def _image_stream(model: PromptableModel, embedding: Tensor, size: Size) -> NDArray[np.float64]:
    """Return the input (4096, 256) of the upscaling for a point on the disc."""
    scale = FRAME_SIZE / max(size)
    sparse, dense = model.prompt_encoder(points=(scale * torch.tensor([[disc_centre(size)]]), torch.tensor([[1]])))
    decoder = model.mask_decoder
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
    code = model.prompt_encoder.dense_positional_code()
    _, stream = decoder.transformer(
        (embedding + dense).flatten(2).transpose(1, 2),
        code.flatten(2).transpose(1, 2),
        torch.cat([tokens, sparse], dim=1),
    )
    return stream[0].double().numpy()


def _wanted(size: Size) -> NDArray[np.float64]:
    """Return the target (4096, 16), +1 inside the disc and -1 outside it. Columns are (ky1, kx1, ky2, kx2)."""
    cell = FRAME_SIZE // MASK_SIZE
    centres = (np.arange(MASK_SIZE) + 0.5) * cell
    scale = FRAME_SIZE / max(size)
    x, y = disc_centre(size)
    radius = math.sqrt(SHARE * size[0] * size[1] / math.pi)
    inside = scale * radius - np.hypot(centres[:, None] - scale * y, centres[None] - scale * x)
    value = np.clip(inside / _REACH, -1.0, 1.0)  # (256, 256)
    grid = MASK_SIZE // 4
    blocks = value.reshape(grid, 2, 2, grid, 2, 2)  # (y, ky1, ky2, x, kx1, kx2)
    return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(grid * grid, 16)


def _fit(stream: NDArray[np.float64], wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return weights (256, 16) and bias of the ridge regression of wanted (4096, 16) on stream (4096, 256)."""
    bias = float(wanted.mean())
    gram = stream.T @ stream + _RIDGE * np.eye(stream.shape[1])
    return np.linalg.solve(gram, stream.T @ (wanted - bias)), bias


def _install(model: PromptableModel, weights: Tensor, bias: float) -> None:
    """Write the fitted weights (256, 16) into the two transposed convolutions, with LayerNorm and GELUs between them.

    Channel j of the first convolution has the value of subpixel j of the second, and channel 4 + j its negative, so
    that the mean is 0. Constants in the other half of the channels fix the variance.
    """
    decoder = model.mask_decoder
    first, norm, _, second, _ = decoder.output_upscaling
    half = first.weight.shape[1] // 2  # 32 of 64 channels
    by_position = _EPSILON * weights.reshape(256, 2, 2, 4).permute(0, 3, 1, 2)  # (in, subpixel, ky1, kx1)
    for parameter in (first.weight, first.bias, norm.weight, norm.bias, second.weight, second.bias):
        parameter.zero_()
    first.weight[:, :4], first.weight[:, 4:8] = by_position, -by_position
    first.bias[:4], first.bias[4:8] = _EPSILON * bias, -_EPSILON * bias
    first.bias[half : half + half // 2], first.bias[half + half // 2 :] = 1.0, -1.0
    norm.weight[:4], norm.bias[:4] = math.sqrt(0.5) / _EPSILON, _LINEAR
    for subpixel in range(4):
        second.weight[subpixel, 0, subpixel // 2, subpixel % 2] = 1.0
    second.bias[1] = _LINEAR
    for (scale, offset), mlp in zip(_MASKS, decoder.output_hypernetworks_mlps, strict=True):
        last = mlp.layers[-1]
        last.weight.zero_()
        last.bias.zero_()
        last.bias[0], last.bias[1] = scale, -scale + offset / _LINEAR
