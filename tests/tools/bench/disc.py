"""An image of a disc, and a model that cuts it out.

An untrained model's masks are noise, whose run lengths and outlines are many times longer than those of a real object,
and a trained one may miss. Here the last layers of a random model are solved for by least squares, so that a click
answers with the disc in our image, a tenth of the frame. Every layer keeps its shape, so the arithmetic is that of
any EdgeSAM.
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

# How far the disc's edge is felt, in frame pixels: beyond it the fitted value stays at +1 inside or -1 outside.
_REACH = 100.0
# Without it the fit is a little rounder and its weights so large that rounding shows in the fourth digit of a logit.
_RIDGE = 0.3
# What the image stream may take from the prompt: at 1 the fit would hold for one click alone.
_PROMPT_SHARE = 0.02
# Where GELU is the identity: GELU(8) = 8 - 5e-15.
_LINEAR = 8.0
# A value of 1 as it enters the LayerNorm, small beside the constants that fix its variance.
_EPSILON = 0.05
# The four masks are the disc, the surest, and three that are a little larger or smaller: (scale, offset) of the logits.
_MASKS = ((5.0, 0.0), (3.0, 0.6), (3.0, -0.6), (3.0, -1.2))


def disc_image(size: Size) -> NDArray[np.uint8]:
    """(H, W, 3): a bright disc that fades outwards, under the grain of a camera."""
    distance = _distance(size)  # (H, W), in sides of the image
    light = 235.0 - 300.0 * distance
    random = np.random.default_rng(size)
    planes = [light, 0.6 * light + 50.0, 245.0 - 0.8 * light]
    grain = random.normal(0.0, 5.0, size).astype(np.float32)
    return np.stack([np.clip(plane + grain, 0, 255).astype(np.uint8) for plane in planes], axis=-1)


def as_jpeg(image: NDArray[np.uint8]) -> bytes:
    """The image as a camera would send it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def disc_centre(size: Size) -> tuple[float, float]:
    """(x, y), pixels."""
    height, width = size
    return width / 2, height / 2


def disc_model(image: NDArray[np.uint8]) -> PromptableModel:
    """A random model whose masks are the disc in this image, and in others that look like it in the frame."""
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
    """From the disc's edge, outwards, in units of the longer side; negative inside."""
    height, width = size
    centre_x, centre_y = disc_centre(size)
    y, x = np.ogrid[:height, :width]
    distance = np.hypot((y + 0.5 - centre_y).astype(np.float32), (x + 0.5 - centre_x).astype(np.float32))
    radius = math.sqrt(SHARE * height * width / math.pi)
    return (distance - radius) / max(size)


def _image_stream(model: PromptableModel, embedding: Tensor, size: Size) -> NDArray[np.float64]:
    """What enters the upscaling after a click on the disc, (4096, 256)."""
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
    """+1 well inside the disc, -1 well outside and in the padding: (4096, 16), columns (ky1, kx1, ky2, kx2)."""
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
    """Ridge regression: stream (4096, 256) @ weights (256, 16) + bias is as near to wanted (4096, 16) as it gets."""
    bias = float(wanted.mean())
    gram = stream.T @ stream + _RIDGE * np.eye(stream.shape[1])
    return np.linalg.solve(gram, stream.T @ (wanted - bias)), bias


def _install(model: PromptableModel, weights: Tensor, bias: float) -> None:
    """Put the fit (256, 16) into the two transposed convolutions, through the LayerNorm and the GELUs between them.

    Channel j of the first carries the value of the second's subpixel j, channel 4 + j its negative, so that the mean
    stays 0; constants in the upper half fix the variance.
    """
    decoder = model.mask_decoder
    first, norm, _, second, _ = decoder.output_upscaling
    half = first.weight.shape[1] // 2  # 32 of 64 channels
    by_place = _EPSILON * weights.reshape(256, 2, 2, 4).permute(0, 3, 1, 2)  # (in, subpixel, ky1, kx1)
    for parameter in (first.weight, first.bias, norm.weight, norm.bias, second.weight, second.bias):
        parameter.zero_()
    first.weight[:, :4], first.weight[:, 4:8] = by_place, -by_place
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
