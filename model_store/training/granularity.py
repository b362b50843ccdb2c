"""The granularity module (SPEC 6): proposes boxes on the frozen encoder, so that a click knows how large its object is.

A BiFPN over three of the encoder's stages and a head with one class, under the keys of EdgeSAM's `efficient_det`
variant.

Letters: B pictures, A = 9 anchors a place, N anchors in all, F = 64 channels; levels 3 to 7 have strides 8 to 128.
Source: EfficientDet (arXiv 1911.09070); focal loss (arXiv 1708.02002).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.edge_sam.image_encoder import STAGE2_END, STAGE3_END, STAGES, ImageEncoder
from model_store.training.losses import StepLosses

STRIDES = (8, 16, 32, 64, 128)
CHANNELS = 64
ANCHORS = 9
STAGE1_END = 7
IN_CHANNELS = (STAGES[1][0], STAGES[2][0], STAGES[3][0])

Merge = Literal["weighted", "best"]


class GranularityModule(nn.Module):
    """Features of the encoder's last three stages to scores and boxes of all anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.fpn = Pyramid()
        self.rpn_head = BoxHead()

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Stages (B, 96, S/8, S/8), (B, 192, S/16, …), (B, 384, S/32, …) to logits (B, N) and deltas (B, N, 4)."""
        scored: tuple[Tensor, Tensor] = self.rpn_head(self.fpn(stages))
        return scored


class Pyramid(nn.Module):
    """Three rounds of fusion, top-down and back, over five levels."""

    def __init__(self) -> None:
        super().__init__()
        self.bifpn = nn.Sequential(*[Fusion(is_first=index == 0) for index in range(3)])

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        fused: list[Tensor] = self.bifpn(list(stages))
        return fused


class Fusion(nn.Module):
    """One round. The first one makes five levels of three stages, and takes stages 4 and 5 twice, each time anew."""

    def __init__(self, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        for level, inputs in (("6", 2), ("5", 2), ("4", 2), ("3", 2)):
            self.register_parameter(f"p{level}_w1", nn.Parameter(torch.ones(inputs)))
        for level, inputs in (("4", 3), ("5", 3), ("6", 3), ("7", 2)):
            self.register_parameter(f"p{level}_w2", nn.Parameter(torch.ones(inputs)))
        if is_first:
            for level, channels in zip("345", IN_CHANNELS, strict=True):
                self.add_module(f"p{level}_down_channel", Projection(channels))
            self.p5_to_p6 = nn.Sequential(Projection(IN_CHANNELS[2]), SamePool())
            self.p4_level_connection = Projection(IN_CHANNELS[1])
            self.p5_level_connection = Projection(IN_CHANNELS[2])
        for level in "6543":
            self.add_module(f"conv{level}_up", SeparableConv(CHANNELS, has_norm=True))
        for level in "4567":
            self.add_module(f"conv{level}_down", SeparableConv(CHANNELS, has_norm=True))
        self.pool = SamePool()

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        again: dict[int, Tensor] = {}
        if self.is_first:
            p3, p4, p5 = levels
            p6 = self.p5_to_p6(p5)
            given = {3: self._of("p3_down_channel", p3), 4: self._of("p4_down_channel", p4)}
            given |= {5: self._of("p5_down_channel", p5), 6: p6, 7: self.pool(p6)}
            again = {4: self.p4_level_connection(p4), 5: self.p5_level_connection(p5)}
        else:
            given = dict(zip(range(3, 8), levels, strict=True))
        down = {7: given[7]}  # from coarse to fine
        for level in (6, 5, 4, 3):
            coarse = functional.interpolate(down[level + 1], size=given[level].shape[2:], mode="nearest")
            down[level] = self._of(f"conv{level}_up", self._mix(f"p{level}_w1", given[level], coarse))
        up = {3: down[3]}  # and back
        for level in (4, 5, 6):
            inputs = (again.get(level, given[level]), down[level], self.pool(up[level - 1]))
            up[level] = self._of(f"conv{level}_down", self._mix(f"p{level}_w2", *inputs))
        up[7] = self._of("conv7_down", self._mix("p7_w2", given[7], self.pool(up[6])))
        return [up[level] for level in range(3, 8)]

    def _mix(self, weights: str, *inputs: Tensor) -> Tensor:
        positive = functional.relu(self.get_parameter(weights))
        shares = positive / (positive.sum() + 1e-4)
        return functional.silu(sum((share * x for share, x in zip(shares, inputs, strict=True)), start=torch.zeros(())))

    def _of(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(name)(x)
        return y


class Projection(nn.Module):
    """1x1 convolution to F channels, then batch norm."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.down_conv = nn.Conv2d(in_channels, CHANNELS, 1)
        self.bn = _norm()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.down_conv(x))
        return y


class SeparableConv(nn.Module):
    """Depthwise 3x3, pointwise, and batch norm where the head does not bring its own."""

    def __init__(self, out_channels: int, *, has_norm: bool) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.pointwise_conv = nn.Conv2d(CHANNELS, out_channels, 1)
        if has_norm:
            self.bn = _norm()
        self.has_norm = has_norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return self.bn(y) if self.has_norm else y


class SamePool(nn.Module):
    """Maximum over 3x3 with stride 2; half the size, rounded up, with zeros where the map ends."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        bottom, right = (max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in (height, width))
        x = functional.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return functional.max_pool2d(x, 3, 2)


class BoxHead(nn.Module):
    """Convolutions shared by all levels, batch norms of each level's own."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.reg_conv_list = nn.ModuleList([SeparableConv(CHANNELS, has_norm=False) for _ in range(depth)])
        self.cls_conv_list = nn.ModuleList([SeparableConv(CHANNELS, has_norm=False) for _ in range(depth)])
        self.reg_bn_list = nn.ModuleList([nn.ModuleList([_norm() for _ in STRIDES]) for _ in range(depth)])
        self.cls_bn_list = nn.ModuleList([nn.ModuleList([_norm() for _ in STRIDES]) for _ in range(depth)])
        self.cls_header = SeparableConv(ANCHORS, has_norm=False)
        self.reg_header = SeparableConv(ANCHORS * 4, has_norm=False)
        # Nearly all anchors are background: start with a score of 0.01, or their number drowns everything else.
        assert self.cls_header.pointwise_conv.bias is not None
        nn.init.constant_(self.cls_header.pointwise_conv.bias, -4.6)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        scores, deltas = [], []
        for index, level in enumerate(levels):
            of_class, of_box = level, level
            for depth, (conv_class, conv_box) in enumerate(zip(self.cls_conv_list, self.reg_conv_list, strict=True)):
                norm_class = self.cls_bn_list.get_submodule(f"{depth}.{index}")
                norm_box = self.reg_bn_list.get_submodule(f"{depth}.{index}")
                of_class = functional.silu(norm_class(conv_class(of_class)))
                of_box = functional.silu(norm_box(conv_box(of_box)))
            scores.append(self.cls_header(of_class).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.reg_header(of_box).permute(0, 2, 3, 1).reshape(len(level), -1, 4))
        return torch.cat(scores, dim=1).float(), torch.cat(deltas, dim=1).float()


@dataclass(frozen=True, slots=True)
class BoxLoss:
    """Focal loss of scores and Huber loss of boxes; the defaults are those of EfficientDet.

    Args:
        gamma: of the focal loss.
        alpha: of the focal loss.
        beta: where the Huber loss turns from squares to magnitudes.
        box_weight: of the Huber loss.
        positive_iou: anchors from this IoU on with a box are to find it.
    """

    gamma: float = 1.5
    alpha: float = 0.25
    beta: float = 0.1
    box_weight: float = 50.0
    positive_iou: float = 0.5


@torch.no_grad()
def encoder_stages(encoder: ImageEncoder, frames: Tensor) -> list[Tensor]:
    """Outputs of the last block of stages 1, 2 and 3."""
    x, stages = frames, []
    for index, block in enumerate(encoder.features):
        x = block(x)
        if index in {STAGE1_END, STAGE2_END, STAGE3_END}:
            stages.append(x)
    return stages


def anchor_boxes(frame_size: int, device: torch.device | None = None) -> Tensor:
    """All anchors (N, 4) as x0, y0, x1, y1 in the frame: level by level, row by row, ratio by ratio, scale by scale."""
    levels = []
    for stride in STRIDES:
        side = -(-frame_size // stride)
        centres = (torch.arange(side, device=device) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        sizes = torch.tensor(
            [
                (4 * stride * 2 ** (octave / 3) / ratio**0.5, 4 * stride * 2 ** (octave / 3) * ratio**0.5)
                for ratio, octave in itertools.product((1.0, 0.5, 2.0), range(3))
            ],
            device=device,
        )  # (A, 2) as (w, h)
        places = torch.stack([x, y], dim=-1)[:, :, None]  # (side, side, 1, 2)
        levels.append(torch.cat([places - sizes / 2, places + sizes / 2], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def decode_boxes(anchors: Tensor, deltas: Tensor, frame_size: int) -> Tensor:
    """Boxes (..., N, 4) of deltas (..., N, 4), clipped to the frame."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, 2:] + anchors[:, :2]) / 2 + deltas[..., :2] * sizes
    # Limit of the usual coders: sixteen thousandths of a frame and a thousand frames are no boxes.
    half = sizes * deltas[..., 2:].clamp(-4.135, 4.135).exp() / 2
    return torch.cat([centres - half, centres + half], dim=-1).clamp(0, frame_size)


def box_losses(
    logits: Tensor, deltas: Tensor, boxes: Sequence[Tensor], frame_size: int, loss: BoxLoss | None = None
) -> StepLosses:
    """Losses of all anchors.

    Args:
        logits: (B, N).
        deltas: (B, N, 4).
        boxes: of each picture, (n, 4) in the frame; n may be 0.
        frame_size: pixels.
        loss: weights and thresholds.
    """
    loss = loss or BoxLoss()
    anchors = anchor_boxes(frame_size, logits.device)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, 2:] + anchors[:, :2]) / 2
    wanted = torch.zeros_like(logits)
    distances = []
    for row, own in enumerate(boxes):
        if not len(own):
            continue
        match = assign(anchors, own, loss.positive_iou)
        positive = match >= 0
        wanted[row] = positive.float()
        target = own[match[positive]]
        middle, size = (target[:, :2] + target[:, 2:]) / 2, (target[:, 2:] - target[:, :2]).clamp(min=1.0)
        expected = torch.cat([(middle - centres[positive]) / sizes[positive], (size / sizes[positive]).log()], dim=1)
        distances.append(functional.huber_loss(deltas[row, positive], expected, reduction="none", delta=loss.beta))
    count = wanted.sum().clamp(min=1.0)
    probability = logits.sigmoid()
    missed = probability * (1 - wanted) + (1 - probability) * wanted
    weight = (loss.alpha * wanted + (1 - loss.alpha) * (1 - wanted)) * missed**loss.gamma
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = (weight * entropy).sum() / count
    huber = torch.cat(distances).sum() / (4 * count) if distances else deltas.sum() * 0
    huber = loss.box_weight * huber
    return StepLosses(focal + huber, {"focal": focal.detach(), "huber": huber.detach()})


def assign(anchors: Tensor, boxes: Tensor, positive_iou: float) -> Tensor:
    """The box that each anchor is to find, (N,) int64, -1 for none; every box gets at least its best anchor."""
    ious = box_iou(anchors, boxes)  # (N, n)
    best, match = ious.max(1)
    match = torch.where(best >= positive_iou, match, -1)
    favourite = ious.argmax(0)
    found = ious[favourite, torch.arange(len(boxes), device=boxes.device)] > 0
    match[favourite[found]] = torch.arange(len(boxes), device=boxes.device)[found]
    return match


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """(N, 4) and (n, 4) → (N, n)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (first, second)]
    return both / (areas[0][:, None] + areas[1][None] - both).clamp(min=1e-6)


def box_around(
    click: tuple[float, float],
    scores: Tensor,
    boxes: Tensor,
    *,
    nearest: int = 5,
    least_score: float = 0.1,
    merge: Merge = "weighted",
) -> Tensor | None:
    """The box that goes with a click, (4,) in the frame, or None where no proposal holds the click.

    Args:
        click: (x, y) in the frame.
        scores: (N,) in [0, 1].
        boxes: (N, 4) in the frame.
        nearest: of the proposals that hold the click, those so many whose middle is nearest count.
        least_score: proposals below do not count.
        merge: their mean, weighted by score, as the paper says; or the one of highest score, as the code does.
    """
    x, y = click
    holds = (boxes[:, 0] < x) & (boxes[:, 1] < y) & (x < boxes[:, 2]) & (y < boxes[:, 3])
    places = torch.nonzero(holds & (scores > least_score))[:, 0]
    if not len(places):
        return None
    middles = (boxes[places, :2] + boxes[places, 2:]) / 2
    distances = (middles - torch.tensor([x, y], device=boxes.device)).norm(dim=1)
    chosen = places[distances.topk(min(nearest, len(places)), largest=False).indices]
    if merge == "best":
        return boxes[chosen[scores[chosen].argmax()]]
    weights = scores[chosen] / scores[chosen].sum()
    return (boxes[chosen] * weights[:, None]).sum(0)


def _norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.01)
