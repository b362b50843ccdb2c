"""What a step asks on annotated masks, and what it calls right."""

import pytest
import torch

from model_store.training.data.augmentation import Batch
from model_store.training.initial import initial_model
from model_store.training.objectives.annotated import AnnotatedLoop, Asked, annotated_step, ask, mask_boxes, score
from model_store.training.objectives.clicks import correction, depths, middle_cells, random_cells
from model_store.training.objectives.losses import bce, dice
from model_store.training.objectives.prompt_sets import prompt_set

SIDE = 32


def disc(x, y, radius):
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).float()


def a_batch(*masks):
    stacked = torch.stack(masks)[None]
    frames = torch.randn(1, 3, 4 * SIDE, 4 * SIDE, generator=torch.Generator().manual_seed(0))
    return Batch(frames, torch.ones(1, 1, SIDE, SIDE), stacked, torch.ones(1, len(masks)))


def generator():
    return torch.Generator().manual_seed(0)


def test_clicks_lie_in_their_masks_and_boxes_around_them():
    batch = a_batch(disc(8, 20, 5), disc(24, 9, 3))

    asked = ask(batch, AnnotatedLoop(prompts=20, box_noise=0.0), generator())

    boxes = asked.prompts.boxes
    for row, box in enumerate(boxes.tolist()):
        covered = torch.nonzero(asked.targets[row, 0])
        y0, x0 = covered.amin(0).tolist()
        y1, x1 = covered.amax(0).tolist()
        assert box == [4 * x0, 4 * y0, 4 * (x1 + 1), 4 * (y1 + 1)]
    for row, (x, y) in enumerate((asked.prompts.points[:, 0] / 4).long().tolist()):
        assert asked.targets[len(boxes) + row, 0, y, x] == 1.0
    assert asked.prompts.labels.eq(1).all()
    assert asked.weights.eq(1).all()


def test_masks_that_nest_under_a_click_are_all_right_for_it():
    whole, part, elsewhere = disc(16, 16, 12), disc(16, 16, 5), disc(3, 3, 2)

    asked = ask(a_batch(whole, part, elsewhere), AnnotatedLoop(prompts=40, middle=1.0), generator())

    clicked = asked.targets[20:, 0].sum((1, 2))
    for row in range(20):
        areas = sorted(asked.targets[20 + row][asked.has_target[20 + row]].sum((1, 2)).tolist())
        expected = [elsewhere.sum()] if clicked[row] == elsewhere.sum() else [part.sum(), whole.sum()]
        assert areas == [float(area) for area in expected]
    assert not bool(asked.has_target[:20, 1:].any()), "a box is not ambiguous"


def test_a_picture_without_masks_counts_nothing():
    batch = a_batch(disc(8, 8, 3))
    empty = Batch(batch.frames, batch.valid, batch.masks * 0, batch.weights * 0)

    with torch.no_grad():
        losses = annotated_step(initial_model(0), empty, AnnotatedLoop(prompts=2, passes=1), generator())

    assert float(losses.total) == 0.0


def by_hand(logits, asked, loop):
    """Best assignment of targets to outputs, tried one by one, with the losses of `losses`."""

    def cost(output, target):
        one, wanted = logits[:, output : output + 1], asked.targets[:, target : target + 1]
        return (
            loop.pixel_weight * bce(one, wanted, asked.valid) + loop.dice_weight * dice(one, wanted, asked.valid)[:, 0]
        )

    assert asked.has_target.all()
    best = min(
        sum(float(cost(1 + output, target)) for target, output in enumerate(order)) / 3
        for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    )
    return float(cost(0, 0)), best


def test_the_three_outputs_learn_the_targets_that_fit_them_best():
    targets = torch.stack([disc(16, 16, 12), disc(16, 16, 6), disc(16, 16, 2)])[None]
    logits = torch.stack([targets[0, 1], targets[0, 2], targets[0, 0], targets[0, 1]])[None] * 6 - 3
    valid = torch.ones(1, 1, SIDE, SIDE)
    valid[..., 28:, :] = 0.0
    prompts = prompt_set(torch.zeros(1, dtype=torch.int64), torch.zeros(0, 4), torch.tensor([[64.0, 64.0]]))
    asked = Asked(prompts, targets, torch.ones(1, 3, dtype=torch.bool), valid, torch.ones(1))
    loop = AnnotatedLoop()

    scored = score(logits, torch.zeros(1, 4), asked, loop)

    mask, ambiguous = by_hand(logits, asked, loop)
    assert float(scored.mask) == pytest.approx(mask, rel=1e-5)
    assert float(scored.ambiguous) == pytest.approx(ambiguous, rel=1e-5)
    # Outputs 1 to 3 are drawn as targets 2, 0 and 1: a perfect match. Output 0 was asked for target 0 and shows 1.
    assert scored.true_iou[0, 1:].tolist() == [1.0, 1.0, 1.0]
    assert float(scored.true_iou[0, 0]) == pytest.approx(float(targets[0, 1].sum() / targets[0, 0][:28].sum()))
    assert float(scored.iou_error) == pytest.approx(float(scored.true_iou.square().mean()))


def test_every_trained_part_gets_a_gradient():
    model = initial_model(0)
    batch = a_batch(disc(16, 16, 12), disc(16, 16, 5))

    annotated_step(model, batch, AnnotatedLoop(mask_prompt=1.0), generator()).total.backward()

    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == []


def test_a_box_of_a_soft_mask_ends_within_its_cells():
    mask = torch.zeros(1, SIDE, SIDE)
    mask[0, 10:20, 8:16] = 1.0
    mask[0, 10:20, 7] = 0.25  # a quarter of the cell to the left
    mask[0, 20, 8:16] = 0.75

    assert mask_boxes(mask).tolist() == [[31.0, 40.0, 64.0, 83.0]]


def test_the_middle_of_a_mask_is_its_deepest_cell():
    ring = disc(16, 16, 12) - disc(16, 16, 4)
    at_border = torch.zeros(SIDE, SIDE)
    at_border[:9, :9] = 1.0

    (x, y), corner = middle_cells(torch.stack([ring, at_border]).bool()).tolist()

    assert 7 <= ((x - 16) ** 2 + (y - 16) ** 2) ** 0.5 <= 9
    assert corner == [4, 4], "outside the frame is outside the mask"
    assert depths(at_border[None].bool())[0, 4, 4] == 5


def test_random_cells_are_drawn_from_the_whole_set_alone():
    candidates = torch.zeros(400, 4, 4, dtype=torch.bool)
    candidates[:, 1, 2] = candidates[:, 3, 0] = True

    cells = random_cells(candidates, generator())

    drawn = {tuple(cell) for cell in cells.tolist()}
    assert drawn == {(2, 1), (0, 3)}
    assert random_cells(torch.zeros(1, 4, 4, dtype=torch.bool)).tolist() == [[0, 0]]


def test_corrections_add_what_lacks_and_take_what_is_too_much():
    truth = disc(16, 16, 6).bool()
    empty, full = torch.full((SIDE, SIDE), -5.0), torch.full((SIDE, SIDE), 5.0)
    right = torch.where(truth, 5.0, -5.0)

    points, labels = correction(
        torch.stack([empty, full, right]), truth.expand(3, -1, -1), torch.ones(3, SIDE, SIDE), generator()
    )

    assert labels[:, 0].tolist() == [1, 0, -2]
    lacking, too_much = (points[:2, 0] / 4).long().tolist()
    assert truth[lacking[1], lacking[0]]
    assert not truth[too_much[1], too_much[0]]
    assert points[2].tolist() == [[0.0, 0.0]]


def test_an_odd_number_of_prompts_is_refused():
    with pytest.raises(ValueError, match="even"):
        AnnotatedLoop(prompts=3)
