"""`cleanup` of /segment: masks that agree with their points and have no islands, in every format."""

import numpy as np
import pytest
from skimage.measure import label
from support.answered_masks import as_mask_logits, full_mask, logits_of, png_mask
from support.noise_images import noise_file
from support.service_client import embed, point, segment

from service.sam.cleanup import MaskCleaner
from service.sam.frame import Frame
from service.sam.mask_pieces import SMALL_SHARE, filter_pieces
from service.sam.prompts import Prompt
from service.sam.refinement import with_box_of_mask

SIZE = (60, 90)
POINTS = [(20, 20, 1), (70, 12, 0), (45, 50, 1), (11, 48, 0)]
PROMPT = {"points": [{"x": x, "y": y, "label": kind} for x, y, kind in POINTS]}
BOX_AND_POINTS = {**PROMPT, "box": [5, 5, 60, 55]}


@pytest.fixture(scope="module")
def image_hash(client) -> str:
    return embed(client, noise_file(SIZE, seed=31))


def prompt_of(sent):
    """Return a prompt as the service reads it."""
    points = [(each["x"], each["y"]) for each in sent.get("points", [])]
    labels = [each["label"] for each in sent.get("points", [])]
    box = np.array(sent["box"], np.float64) if "box" in sent else None
    return Prompt(np.array(points, np.float64).reshape(-1, 2), np.array(labels, np.int64), box)


def test_without_cleanup_the_masks_stay_the_model_s(client, image_hash):
    by_default, none, auto = (
        segment(client, image_hash, PROMPT, **options) for options in ({}, {"cleanup": "none"}, {"cleanup": "auto"})
    )

    assert by_default == none
    assert none != auto


@pytest.mark.parametrize("sent", [PROMPT, BOX_AND_POINTS, point(30, 30), {"box": [5, 5, 60, 55]}])
def test_the_logits_are_those_of_the_cleaned_mask(client, image_hash, sent):
    (none,), (auto,) = (
        segment(client, image_hash, sent, format="logits", multimask=4, cleanup=cleanup) for cleanup in ("none", "auto")
    )

    cleaner = MaskCleaner(prompt_of(sent), Frame(SIZE), filter_pieces)
    for before, after in zip(none, auto, strict=True):
        expected = cleaner.clean(logits_of(before))
        # The service cleans before it rounds to float16.
        assert np.mean((logits_of(after) > 0) != (expected > 0)) < 1e-3
        assert [before[name] for name in ("score", "stability", "predicted_iou")] == [
            after[name] for name in ("score", "stability", "predicted_iou")
        ]


@pytest.mark.parametrize("sent", [PROMPT, BOX_AND_POINTS])
def test_all_formats_have_the_same_mask_that_agrees_with_the_points(client, image_hash, sent):
    answers = [
        segment(client, image_hash, sent, format=kind, cleanup="auto")[0][0]
        for kind in ("rle", "png", "polygon", "logits", "none")
    ]
    png = client.post(
        "/segment",
        json={"image_hash": image_hash, "prompts": [sent], "cleanup": "auto"},
        headers={"Accept": "image/png"},
    )

    rle, *_ = masks = [*(full_mask(answer, SIZE) for answer in answers[:3]), png_mask(png.content)]
    assert all(np.array_equal(rle, mask) for mask in masks)
    assert rle.sum() == answers[0]["area"]
    assert len({answer["mask_id"] for answer in answers} | {png.headers["X-Mask-Id"]}) == 1
    for x, y, kind in POINTS:
        assert rle[y, x] == bool(kind)


def test_a_click_on_noise_gives_few_pieces(client, image_hash):
    none, auto = (
        [
            full_mask(mask, SIZE)
            for masks in segment(client, image_hash, point(30, 30), cleanup=cleanup)
            for mask in masks
        ]
        for cleanup in ("none", "auto")
    )

    pieces = [sum(label(mask, connectivity=1).max() for mask in masks) for masks in (none, auto)]
    assert pieces[1] < pieces[0]


def test_cleaned_masks_have_no_small_pieces_and_holes_after_enlarging(client):
    size = (300, 450)
    image = embed(client, noise_file(size, seed=32))
    prompts = [point(x, y) for x in (40, 130, 220, 310, 400) for y in (50, 150, 250)]

    answers = segment(client, image, *prompts, cleanup="auto")

    for sent, masks in zip(prompts, answers, strict=True):
        (held,) = ((each["y"], each["x"]) for each in sent["points"])
        for mask in (full_mask(each, size) for each in masks):
            pieces, holes = label(mask, connectivity=1), label(~mask, connectivity=1)
            areas, hole_areas = np.bincount(pieces.ravel())[1:], np.bincount(holes.ravel())
            at_border = {*holes[0].tolist(), *holes[-1].tolist(), *holes[:, 0].tolist(), *holes[:, -1].tolist()}
            # The share is one of the largest piece before its holes were filled.
            least = SMALL_SHARE / 2 * areas.max()
            assert all(area >= least for piece, area in enumerate(areas, 1) if piece != pieces[held])
            assert all(hole_areas[hole] >= least for hole in range(1, len(hole_areas)) if hole not in at_border)


def test_a_cleaned_mask_can_be_refined(client, image_hash):
    (first,) = segment(client, image_hash, point(30, 30), format="logits", cleanup="auto")
    best = first[0]
    more = {"points": [{"x": 30, "y": 30}, {"x": 60, "y": 20, "label": 0}]}

    by_id = segment(client, image_hash, {**more, "mask_id": best["mask_id"]})
    by_logits = segment(client, image_hash, {**more, "mask_logits": as_mask_logits(logits_of(best))})

    assert by_id == by_logits


def test_negative_points_alone_refine_inside_the_box_of_the_earlier_mask(client, image_hash):
    (first,) = segment(client, image_hash, BOX_AND_POINTS, format="logits")
    mask_id, mask = first[0]["mask_id"], logits_of(first[0])
    negative = {**point(20, 20, label=0), "mask_id": mask_id}
    prompt = Prompt(np.array([[20.0, 20.0]]), np.array([0]), mask_logits=mask)
    box = with_box_of_mask(prompt, Frame(SIZE), filter_pieces).box

    alone = segment(client, image_hash, negative)
    with_box = segment(client, image_hash, {**negative, "box": box.tolist()})

    assert alone == with_box
    assert len(alone[0]) == 1


@pytest.mark.parametrize("cleanup", ["none", "auto"])
@pytest.mark.parametrize(
    ("overhanging", "inside"),
    [([-50, -50, 60, 40], [0, 0, 60, 40]), ([10, 20, 190, 1e6], [10, 20, 90, 60]), ([-9, 5, 99, 50], [0, 5, 90, 50])],
)
def test_an_overhanging_box_means_its_part_inside(client, image_hash, overhanging, inside, cleanup):
    far, near = segment(client, image_hash, {"box": overhanging}, {"box": inside}, cleanup=cleanup)

    assert far == near


@pytest.mark.parametrize("cleanup", ["always", True, None, 1])
def test_another_cleanup_is_refused(client, image_hash, cleanup):
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": [PROMPT], "cleanup": cleanup})

    assert response.status_code == 422
    assert "cleanup" in response.text
