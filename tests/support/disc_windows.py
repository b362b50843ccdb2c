"""Training windows with bright discs on a dark background, with exact masks."""

import torch
from torch.nn import functional

from model_store.training.data.windows.dataset import WindowBatch

WINDOW = 64
CELLS = WINDOW // 4
DISCS = ((5.0, 5.0, 3.0), (10.0, 11.0, 3.5))  # x, y and radius in cells


def disc(x, y, radius, *, side=CELLS):
    """Return a disc as a mask, (side, side) float, 0 or 1."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).float()


def disc_windows(*origins):
    """Return a window at each origin, with two discs that have a box and a point prompt each."""
    windows = len(origins)
    masks = torch.stack([disc(*one) for one in DISCS])
    bright = functional.interpolate(masks.amax(0)[None, None], (WINDOW, WINDOW))[0]  # (1, W, W)
    frame = 40 + bright * torch.tensor([150.0, 120.0, 45.0])[:, None, None]
    targets = torch.zeros(windows, 4, 3, CELLS, CELLS, dtype=torch.uint8)
    targets[:, :, 0] = (masks * 255).repeat(2, 1, 1).to(torch.uint8)
    has_target = torch.zeros(windows, 4, 3, dtype=torch.bool)
    has_target[..., 0] = True
    boxes = torch.tensor([[4 * (x - r), 4 * (y - r), 4 * (x + r + 1), 4 * (y + r + 1)] for x, y, r in DISCS])
    points = torch.tensor([[4 * x + 1.5, 4 * y + 1.5] for x, y, _ in DISCS])
    return WindowBatch(
        frames=frame.to(torch.uint8).repeat(windows, 1, 1, 1),
        inside=torch.full((windows, WINDOW // 2, WINDOW // 2), 255, dtype=torch.uint8),
        targets=targets,
        has_target=has_target,
        boxes=boxes.repeat(windows, 1, 1),
        points=points.repeat(windows, 1, 1),
        origins=torch.tensor(origins),
    )
