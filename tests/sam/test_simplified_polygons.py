"""Simplified polygons are valid geometry, near the exact outline, with about as few corners as Douglas-Peucker's.

The masks in `cases` are answers of the bundled model to clicks on the sample images. Simplifying each of their rings
alone gives rings that cross.
"""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sam.sample_values import masks, pixels_of, placed

from service.sam.masks import BinaryMask
from service.sam.polygons import encode_outlines, encode_polygons

TOLERANCES = [1, 2, 3, 5, 10, 20, 50, 100]
CASES = sorted((Path(__file__).parent / "cases").glob("mask_*.png"))
SIDE = 80


def noise(share, seed):
    return np.random.default_rng(seed).random((SIDE, SIDE)) < share


def blobs(scale, seed):
    smooth = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
    return cv2.GaussianBlur(smooth, (0, 0), scale) > 0


def spiral(step, width):
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return (np.hypot(y, x) - np.arctan2(y, x) * step / 6.2832) % step < width


def rings(step, width):
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return np.hypot(y, x) % step < width


def frames(step):
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.maximum(abs(x - SIDE // 2), abs(y - SIDE // 2)) // step % 2 == 0


def chequers(step):
    y, x = np.mgrid[:SIDE, :SIDE]
    return (x // step + y // step) % 2 == 0


def comb(step):
    y, x = np.mgrid[:SIDE, :SIDE]
    return (y < 3) | ((x % step == 0) & (y < SIDE - x % 17))


def lines(count, seed):
    rng = np.random.default_rng(seed)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    for x0, y0, x1, y1 in rng.integers(0, SIDE, (count, 4)).tolist():
        cv2.line(pixels, (x0, y0), (x1, y1), 1, 2)
    return pixels > 0


FAMILIES = {
    "noise": [noise(share, 1) for share in (0.05, 0.3, 0.5, 0.6, 0.7, 0.9)],
    "blobs": [blobs(scale, 2) for scale in (0.7, 1.5, 4.0)],
    "spirals": [spiral(4, 2), spiral(7, 3), spiral(12, 10)],
    "rings": [rings(3, 1.5), rings(6, 2), rings(20, 15)],
    "frames": [frames(1), frames(2), frames(5)],
    "chequers": [chequers(1), chequers(2), chequers(5)],
    "combs": [comb(2), comb(5)],
    "thin lines": [lines(3, 4), lines(30, 5)],
}


def mask_of(pixels):
    return BinaryMask.cut(pixels.shape, 0, 0, pixels)


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("1"))


def geometry_of(polygons):
    return shapely.MultiPolygon([(polygon["exterior"], polygon["holes"]) for polygon in polygons])


def rings_of(polygons):
    return [(ring, index > 0) for part in polygons for index, ring in enumerate([part["exterior"], *part["holes"]])]


def corners(polygons):
    return sum(len(ring) for ring, _ in rings_of(polygons))


def corners_of_douglas_peucker(polygons, tolerance):
    """Return the corners that remain of each ring alone. Holes without area vanish, and exteriors then stay exact."""
    count = 0
    for ring, is_hole in rings_of(polygons):
        simple = cv2.approxPolyDP(np.array(ring, np.int32), tolerance, closed=True)
        has_area = len(simple) > 2 and cv2.contourArea(simple) > 0
        count += len(simple) if has_area else 0 if is_hole else len(ring)
    return count


def assert_valid_and_near(polygons, exact, tolerance):
    """Assert that the polygons are valid, and that rings and left out parts are near: twice the tolerance at most."""
    geometry = geometry_of(polygons)
    assert geometry.is_valid, shapely.is_valid_reason(geometry)
    sources = sources_of(polygons, exact)
    simple = np.array([shapely.LinearRing(ring) for ring, _ in rings_of(polygons)])
    outlines = np.array([shapely.LinearRing(source) for source in sources])
    assert (shapely.is_ccw(simple) != [is_hole for _, is_hole in rings_of(polygons)]).all()  # the y axis points down
    assert (shapely.hausdorff_distance(simple, outlines) <= 2 * tolerance).all()
    drawn = set(map(id, sources))
    left_out = [part["exterior"] for part in exact if id(part["exterior"]) not in drawn]
    if left_out:
        shapely.prepare(geometry)
        assert shapely.dwithin(geometry, shapely.points(np.concatenate(left_out)), 2 * tolerance).all()


def sources_of(polygons, exact):
    """Return for each ring the exact ring of its kind that has all its corners, the shortest of several."""
    by_corner = {}
    for ring, is_hole in rings_of(exact):
        for x, y in ring:
            by_corner.setdefault((x, y, is_hole), {})[id(ring)] = ring
    sources = []
    for ring, is_hole in rings_of(polygons):
        owners = [by_corner[x, y, is_hole] for x, y in ring]
        sources.append(min((owners[0][common] for common in set.intersection(*map(set, owners))), key=len))
    return sources


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_masks_of_the_model_give_valid_polygons_with_few_corners_near_the_outline(path, tolerance):
    mask = mask_of(opened(path))
    exact = encode_polygons(mask)

    polygons = encode_polygons(mask, tolerance_pixels=tolerance)

    assert_valid_and_near(polygons, exact, tolerance)
    assert corners(polygons) <= 1.2 * corners_of_douglas_peucker(exact, tolerance)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_drawn_masks_give_valid_polygons_with_few_corners_near_the_outline(family, tolerance):
    count = expected = 0
    for pixels in FAMILIES[family]:
        exact = encode_polygons(mask_of(pixels))

        polygons = encode_polygons(mask_of(pixels), tolerance_pixels=tolerance)

        assert_valid_and_near(polygons, exact, tolerance)
        count += corners(polygons)
        expected += corners_of_douglas_peucker(exact, tolerance)
    assert count <= 1.2 * expected


@settings(max_examples=300, deadline=None)
@given(masks(), st.floats(0.1, 100.0) | st.sampled_from([0.5, 0.7072, 1.0, 1.5, 2.0, 3.0, 5.0]))
def test_any_mask_gives_valid_polygons_at_any_tolerance(pixels, tolerance):
    exact = encode_polygons(mask_of(pixels))

    polygons = encode_polygons(mask_of(pixels), tolerance_pixels=tolerance)

    assert_valid_and_near(polygons, exact, tolerance)


def test_exact_polygons_are_valid():
    for family in FAMILIES.values():
        for pixels in family:
            geometry = geometry_of(encode_polygons(mask_of(pixels)))

            assert geometry.is_valid
            assert geometry.area == pixels.sum()


def test_a_hole_that_vanishes_takes_the_parts_in_it_along():
    pixels = np.ones((60, 60), bool)
    pixels[20:25, 20:25] = False
    pixels[22, 22] = True

    polygons = encode_polygons(mask_of(pixels), tolerance_pixels=10)

    assert polygons == [{"exterior": [[0, 0], [60, 0], [60, 60], [0, 60]], "holes": []}]


def test_a_part_between_the_arms_of_another_stays_outside():
    full, mask = placed(
        pixels_of(["#..............#", "#......##......#", "#..............#", "################"]), (3, 3, 3, 3)
    )

    polygons = encode_polygons(mask, tolerance_pixels=4)

    geometry = geometry_of(polygons)
    assert geometry.is_valid
    assert len(geometry.geoms) == 2
    assert geometry.contains(shapely.Point(11, 4.5))
    assert full[4, 10]


def test_an_exterior_that_would_vanish_keeps_some_area():
    polygons = encode_polygons(mask_of(lines(1, 6)), tolerance_pixels=100)

    assert len(polygons) == 1
    assert 3 <= len(polygons[0]["exterior"]) < 30
    assert geometry_of(polygons).area > 0


def test_simplified_outlines_are_the_exteriors_of_the_simplified_polygons():
    mask = mask_of(opened(CASES[0]))

    outlines = encode_outlines(mask, tolerance_pixels=3)

    exteriors = [polygon["exterior"] for polygon in encode_polygons(mask, tolerance_pixels=3)]
    assert sorted(outline.ring for outline in outlines) == sorted(exteriors)
    assert [outline.area for outline in outlines] == sorted((outline.area for outline in outlines), reverse=True)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_time_for_noise_grows_with_the_number_of_rings(share):
    def seconds(side):
        mask = mask_of(np.random.default_rng(7).random((side, side)) < share)
        started = time.thread_time()
        encode_polygons(mask, tolerance_pixels=5)
        return time.thread_time() - started

    small = min(seconds(100) for _ in range(3))

    assert seconds(400) < 4 * 16 * small  # 16 times as many rings; a quadratic method takes 256 times as long
