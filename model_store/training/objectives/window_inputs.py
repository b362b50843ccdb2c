"""The network's inputs for windows of the served frame: pixels, positional code, and prompts with corrections.

Prompts are in coordinates of the frame, and the positional code is that of the window's position in the frame. So the
network computes as it does for the whole frame.

Letters: B windows, W side of a window in frame pixels, g = W/16, s = W/4, n = boxes + points, P = B·n prompts in the
order window by window, K corrections so far.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from model_store.network.prompt_encoder import PromptEncoder
from model_store.training.data.windows.dataset import WindowBatch
from model_store.training.data.windows.geometry import TOKEN_STRIDE
from service.sam.prompts import POSITIVE


def normalised_frames(batch: WindowBatch) -> Tensor:
    """Return the windows as the encoder's input: (B, 3, W, W) float32, normalised, 0 outside the photo."""
    mean, deviation = (
        torch.tensor(values, device=batch.frames.device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD)
    )
    is_inside = (batch.inside > 127)[:, None]  # (B, 1, W/2, W/2)
    is_inside = functional.interpolate(is_inside.to(torch.uint8), scale_factor=2.0, mode="nearest")  # (B, 1, W, W)
    frames = (batch.frames.float() - mean) / deviation * is_inside
    return frames.contiguous(memory_format=torch.channels_last)


def valid_cells(batch: WindowBatch) -> Tensor:
    """Return the share of each cell that lies in the photo, (B, s, s) float32 in 0..1."""
    return functional.avg_pool2d(batch.inside.float() / 255, 2)


def window_code(prompt_encoder: PromptEncoder, batch: WindowBatch) -> Tensor:
    """Return the positional code of the image tokens at their positions in the frame, (B, g·g, 256).

    Raises:
        ValueError: The prompt encoder's frame is smaller than the window.
    """
    side, grid = batch.frames.shape[-1], prompt_encoder.grid_size
    if side > prompt_encoder.frame_size:
        raise ValueError(f"A window of {side} pixels does not fit into a frame of {prompt_encoder.frame_size}.")
    with _full_precision(batch.frames.device), torch.no_grad():
        code = prompt_encoder.dense_positional_code()[0].flatten(1).t()  # (grid·grid, 256)
    offsets = torch.arange(side // TOKEN_STRIDE, device=batch.origins.device)
    columns, rows = (batch.origins[:, axis, None] + offsets for axis in (0, 1))  # (B, g)
    return code[(rows[:, :, None] * grid + columns[:, None]).flatten(1)]


@dataclass(frozen=True, slots=True)
class FramePrompts:
    """First prompts and their corrections; in each window boxes come before points.

    A box has two tokens. A point has one and a padding token. So all prompts are equally long and are decoded together.

    Attributes:
        boxes: Boxes in the frame, (B, boxes, 4) float32.
        points: First points in the frame, (B, points, 2) float32.
        clicks: Correction clicks in the frame, (B, n, K, 2) float32.
        labels: Labels of the correction clicks, (B, n, K) int64.
    """

    boxes: Tensor
    points: Tensor
    clicks: Tensor
    labels: Tensor

    @classmethod
    def of(cls, batch: WindowBatch) -> "FramePrompts":
        """Return the first prompts of a batch."""
        count = batch.boxes.shape[1] + batch.points.shape[1]
        origins = (batch.origins * TOKEN_STRIDE).float()[:, None]  # (B, 1, 2)
        return cls(
            batch.boxes + origins.repeat(1, 1, 2),
            batch.points + origins,
            batch.boxes.new_zeros(len(batch.boxes), count, 0, 2),
            batch.origins.new_zeros(len(batch.boxes), count, 0),
        )

    @property
    def count(self) -> int:
        """Number of prompts of a window, n."""
        return self.clicks.shape[1]

    def with_correction(self, clicks: Tensor, labels: Tensor) -> "FramePrompts":
        """Return the prompts with one more correction click each: (P, 2) in the frame, and labels (P,)."""
        windows, count, _ = self.labels.shape
        return replace(
            self,
            clicks=torch.cat([self.clicks, clicks.reshape(windows, count, 1, 2)], dim=2),
            labels=torch.cat([self.labels, labels.reshape(windows, count, 1)], dim=2),
        )

    def tokens(self, prompt_encoder: PromptEncoder) -> Tensor:
        """Return the sparse tokens of all prompts, (P, K + 2, 256) float32."""
        windows, boxes, _ = self.boxes.shape
        points = self.points.shape[1]
        first_labels = self.labels.new_full((windows, points, 1), POSITIVE)
        clicks = torch.cat([self.points[:, :, None], self.clicks[:, boxes:]], dim=2)  # (B, points, 1 + K, 2)
        labels = torch.cat([first_labels, self.labels[:, boxes:]], dim=2)
        # In bfloat16, positions in the frame would be wrong by whole cells.
        with _full_precision(self.boxes.device):
            of_boxes, _ = prompt_encoder(
                (self.clicks[:, :boxes].flatten(0, 1), self.labels[:, :boxes].flatten(0, 1)), self.boxes.flatten(0, 1)
            )
            of_points, _ = prompt_encoder((clicks.flatten(0, 1), labels.flatten(0, 1)))
        shape = of_boxes.shape[1:]  # (K + 2, 256)
        parts = [of_boxes.reshape(windows, boxes, *shape), of_points.reshape(windows, points, *shape)]
        return torch.cat(parts, dim=1).flatten(0, 1)


def _full_precision(device: torch.device) -> torch.autocast:
    """Return a context that computes in float32 at least."""
    return torch.autocast(device.type, enabled=False)
