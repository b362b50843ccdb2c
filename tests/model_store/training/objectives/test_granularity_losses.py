"""The granularity module has EdgeSAM's keys, and its losses teach it boxes."""

import json

import torch
from support.official_reference import COMMITTED

from model_store.network.anchors import ANCHORS, anchor_boxes, anchor_positions, anchor_shapes, anchors_of, decode_boxes
from model_store.network.encoders.repvit.encoder import RepViTEncoder
from model_store.network.granularity_module import granularity_module
from model_store.training.initial import initial_model
from model_store.training.objectives.granularity_losses import assign, box_iou, box_losses

SHAPES = COMMITTED / "edgesam_rpn_shapes.json"


def test_keys_and_shapes_are_those_of_edgesam():
    found = {key: list(value.shape) for key, value in granularity_module(RepViTEncoder()).state_dict().items()}

    assert found == json.loads(SHAPES.read_text())


def test_the_module_reads_stages_and_scores_every_anchor():
    encoder = initial_model(0).eval().image_encoder

    stages = encoder.stages(torch.randn(2, 3, 256, 256))
    logits, deltas = granularity_module(RepViTEncoder()).eval()(stages)

    anchors = anchor_boxes(256)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(96, 32, 32), (192, 16, 16), (384, 8, 8)]
    assert logits.shape == (2, len(anchors))
    assert deltas.shape == (2, len(anchors), 4)


def test_anchors_have_the_sizes_and_ratios_of_their_level():
    anchors = anchor_boxes(1024)

    first = anchors[:9]
    sizes = first[:, 2:] - first[:, :2]
    assert len(anchors) == 9 * (128**2 + 64**2 + 32**2 + 16**2 + 8**2)
    torch.testing.assert_close((first[:, :2] + first[:, 2:]) / 2, torch.full((9, 2), 4.0))
    areas = torch.tensor([2.0 ** (2 * octave / 3) for octave in range(3)]).repeat(3) * 32**2
    torch.testing.assert_close(sizes.prod(1), areas)
    torch.testing.assert_close(sizes[:, 1] / sizes[:, 0], torch.tensor([1.0, 0.5, 2.0]).repeat_interleave(3))


def test_an_anchor_is_its_position_and_its_shape():
    every = anchor_boxes(512)
    some = torch.tensor([0, 8, 9, 4000, len(every) - 10, len(every) - 1])

    found = anchors_of(anchor_positions(512)[some // ANCHORS], anchor_shapes()[some % ANCHORS])

    assert torch.equal(found, every[some])


def test_every_box_gets_an_anchor_and_far_anchors_get_none():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 19, 20], [0, 0, 3, 3]])

    match = assign(anchors, boxes, 0.5)

    assert match.tolist() == [1, 0, -1]


def test_decoded_deltas_equal_the_boxes():
    """A few hundred steps of plain descent on the losses alone find the boxes."""
    boxes = [torch.tensor([[30.0, 40, 90, 100], [100, 20, 120, 110]])]
    anchors = anchor_boxes(128)
    logits = torch.full((1, len(anchors)), -4.6, requires_grad=True)
    deltas = torch.zeros(1, len(anchors), 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits, deltas], lr=0.1)

    for _ in range(200):
        optimiser.zero_grad()
        box_losses(logits, deltas, boxes, 128).total.backward()
        optimiser.step()

    found = decode_boxes(anchors, deltas.detach()[0], 128)[logits[0] > 0]
    assert len(found) >= 2
    assert float(box_iou(boxes[0], found).amax(1).min()) > 0.95
    assert float(box_iou(found, boxes[0]).amax(1).min()) > 0.95


def test_an_image_without_boxes_only_lowers_scores():
    logits, deltas = (torch.zeros(shape, requires_grad=True) for shape in ((1, 3069), (1, 3069, 4)))

    losses = box_losses(logits, deltas, [torch.zeros(0, 4)], 128)
    losses.total.backward()

    assert float(losses.parts["huber"]) == 0.0
    assert bool((logits.grad > 0).all())
