"""Losses of masks, recomputed cell by cell."""

import math

import pytest
import torch
from support.disc_windows import disc

from model_store.training.objectives.mask_losses import LossWeights, Targets, click_weights, mask_losses

SIDE = 3
WEIGHTS = LossWeights(ambiguous=0.5, later_ambiguous=0.25, iou=2.0, click=0.3)


def tiny(*, exists=(True, True, True)):
    """One prompt with four outputs of 3 × 3 cells; some cells lie half or wholly outside the photo."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 4, SIDE, SIDE, generator=generator) * 2
    masks = torch.rand(1, 3, SIDE * SIDE, generator=generator)
    valid = torch.tensor([1.0, 1, 1, 1, 1, 0.5, 0, 0.25, 1])[None, None]
    return logits, Targets(masks, torch.tensor([exists]), valid)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def entropy(x, y):
    return -(y * math.log(sigmoid(x)) + (1 - y) * math.log(1 - sigmoid(x)))


def by_hand(logits, targets):
    """Cost of an output as a target."""
    flat_logits, masks, valid = (part[0].tolist() for part in (logits.flatten(2), targets.masks, targets.valid))
    area = sum(v * y for v, y in zip(valid[0], masks[0], strict=True))
    divisor = min(sum(valid[0]), 5 * area + 150)

    def cost(output, target):
        cells = list(zip(flat_logits[output], masks[target], valid[0], strict=True))
        pixel = sum(v * entropy(x, y) for x, y, v in cells) / divisor
        both = sum(v * sigmoid(x) * y for x, y, v in cells)
        sizes = sum(v * sigmoid(x) for x, _, v in cells) + sum(v * y for _, y, v in cells)
        return pixel + 1 - (2 * both + 1) / (sizes + 1)

    return cost


def test_output_0_is_trained_on_the_mask_that_is_meant():
    logits, targets = tiny()

    found = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS)

    assert float(found.mask) == pytest.approx(by_hand(logits, targets)(0, 0), rel=1e-5)


def test_the_other_outputs_are_trained_on_their_best_targets():
    logits, targets = tiny()
    cost = by_hand(logits, targets)

    found = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS)

    orders = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    best = min(sum(cost(output, target) for target, output in enumerate(order)) / 3 for order in orders)
    assert float(found.ambiguous) == pytest.approx(best, rel=1e-5)


def test_targets_that_do_not_exist_cost_nothing():
    logits, targets = tiny(exists=(True, False, True))
    cost = by_hand(logits, targets)

    two = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS)
    one = mask_losses(logits, torch.zeros(1, 4), targets.meant_only(), WEIGHTS)

    pairs = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b]
    assert float(two.ambiguous) == pytest.approx(min(cost(a, 0) + cost(b, 2) for a, b in pairs) / 2, rel=1e-5)
    assert float(one.ambiguous) == pytest.approx(min(cost(output, 0) for output in (1, 2, 3)), rel=1e-5)


def test_the_predicted_iou_is_trained_on_the_true_one():
    masks = torch.stack([disc(8, 8, 6), disc(8, 8, 3), disc(3, 3, 2)])[None]
    # Output 0 has to show target 0 and shows target 1; output 1 shows target 0, output 2 nothing, output 3 target 2.
    shown = torch.stack([masks[0, 1], masks[0, 0], torch.zeros(16, 16), masks[0, 2]])[None]
    valid = torch.ones(1, 16, 16)
    valid[:, 12:] = 0.0
    exists = torch.tensor([[True, True, False]])
    targets = Targets(masks.flatten(2), exists, valid.flatten(1)[:, None])
    predicted = torch.tensor([[0.5, 0.9, 0.25, 0.0]])

    found = mask_losses(shown * 8 - 4, predicted, targets, WEIGHTS)

    seen = masks * valid
    small = float(seen[0, 1].sum() / seen[0, 0].sum())
    corner = float((seen[0, 2] * seen[0, 0]).sum() / (seen[0, 2] + seen[0, 0]).clamp(max=1).sum())
    expected = [small, 1.0, 0.0, corner]  # target 2 does not exist, so output 3 is as good as its best other one
    assert found.true_iou[0].tolist() == pytest.approx(expected)
    differences = [(a - b) ** 2 for a, b in zip(expected, predicted[0].tolist(), strict=True)]
    assert float(found.iou) == pytest.approx(sum(differences) / 4)


def test_the_parts_are_weighed():
    logits, targets = tiny()
    near = click_weights(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[1]]), SIDE, radius=1.0)

    first = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS)
    later = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS, near)

    assert float(first.loss) == pytest.approx(float(first.mask + 0.5 * first.ambiguous + 2.0 * first.iou))
    assert float(first.click) == 0.0
    parts = later.mask + 0.25 * later.ambiguous + 2.0 * later.iou + 0.3 * later.click
    assert float(later.loss) == pytest.approx(float(parts))


def test_cells_near_a_click_count_in_the_click_loss():
    logits, targets = tiny()
    near = click_weights(torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[1, -2]]), SIDE, radius=1.5)

    found = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS, near)

    total = weight = 0.0
    for row in range(SIDE):
        for column in range(SIDE):
            index = row * SIDE + column
            near = math.exp(-((column - 2) ** 2 + row**2) / (2 * 1.5**2)) * float(targets.valid[0, 0, index])
            total += near * entropy(float(logits[0, 0, row, column]), float(targets.masks[0, 0, index]))
            weight += near
    assert float(found.click) == pytest.approx(total / weight, rel=1e-5)


def test_of_several_clicks_the_nearest_counts_and_ignored_ones_do_not():
    cells = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[0.0, 0.0], [4.0, 0.0]]])
    labels = torch.tensor([[1, 0], [-2, -2]])

    near = click_weights(cells, labels, 5, radius=1.0)

    assert near[0, 0].tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-2), math.exp(-0.5), 1])
    assert near[1].eq(0).all()
    logits, targets = (
        torch.zeros(2, 4, 5, 5),
        Targets(torch.ones(2, 3, 25), torch.ones(2, 3).bool(), torch.ones(2, 1, 25)),
    )
    click = mask_losses(logits, torch.zeros(2, 4), targets, WEIGHTS, near).click
    assert click.tolist() == pytest.approx([math.log(2), 0.0])


def test_small_things_are_not_drowned_by_their_surroundings():
    """A missed thing costs more than its share of the cells."""
    side = 64
    masks = torch.stack([disc(32, 32, radius, side=side) for radius in (2, 20)])[:, None].repeat(1, 3, 1, 1)
    targets = Targets(masks.flatten(2), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, side * side))
    missed = torch.full((2, 4, side, side), -6.0)

    found = mask_losses(missed, torch.zeros(2, 4), targets, WEIGHTS)

    area = masks[:, 0].sum((1, 2))
    assert area[0] * 50 < area[1]
    assert found.mask[0] * 3 > found.mask[1]


def test_half_precision_around_it_does_not_reach_the_sums():
    logits, targets = tiny()

    with torch.autocast("cpu", torch.bfloat16):
        found = mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS)

    assert torch.equal(found.loss, mask_losses(logits, torch.zeros(1, 4), targets, WEIGHTS).loss)
