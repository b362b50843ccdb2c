"""Modules of the page's export menu in Node: `exports.test.mjs`, whose files are read here by Shapely and Pillow."""

import ast
import json
import os
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from shapely import LinearRing, MultiPoint, STRtree, hausdorff_distance
from support.browser import needed_program
from support.mask_cases import mask_cases

TESTS = Path(__file__).parent / "exports.test.mjs"
TIMEOUT_S = 120
STEPS_OF_A_CURVE = 8
PALETTE = [[0, 0, 0], [255, 111, 31], [47, 123, 255]]
LABELS = '{"1":"花","2":"a \\"b\\""}'


def drawn(*boxes, size=(60, 80)):
    """A mask of rectangles as the session has it: x0, y0, x1, y1 each."""
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"area": int(mask.sum()), "rle": {"size": rle["size"], "counts": rle["counts"].decode()}}


DETAIL, PART, OBJECT, WHOLE = (drawn((5, 5, 5 + side, 5 + side)) for side in (8, 16, 30, 50))
NEARLY_OBJECT = drawn((5, 5, 35, 36))
APART = drawn((60, 5, 75, 20))
EMPTY = drawn()
CANDIDATES = [
    ([OBJECT, WHOLE, PART], ["Object", "Whole", "Part"]),
    ([WHOLE, PART], ["Object", "Part"]),
    ([OBJECT, DETAIL, WHOLE, PART], ["Object", "Detail", "Whole", "Part"]),
    ([OBJECT, NEARLY_OBJECT, WHOLE, PART], ["Object", "Object 2", "Whole", "Part"]),
    ([OBJECT, NEARLY_OBJECT], ["Mask 1", "Mask 2"]),
    ([OBJECT, APART, WHOLE], ["Mask 1", "Mask 2", "Mask 3"]),
    ([OBJECT, EMPTY, WHOLE], ["Mask 1", "Mask 2", "Mask 3"]),
]


HASH = "0f" * 32
HOSTILE = 'it\'s "a" $(photo) `x` \\.png'
REQUESTS = [
    {
        "url": "https://masks.example/sam/",
        "imageId": f"{HASH}~levels=full~bands=3,2,1~region=10,20,300,200",
        "fileName": HOSTILE,
        "body": {
            "prompts": [
                {
                    "points": [{"x": 12.5, "y": 30, "label": 1}, {"x": 14, "y": 31, "label": 0}],
                    "box": [11, 21, 90.5, 80],
                    "mask_id": "ab" * 16,
                }
            ],
            "model": "some-model",
            "multimask": "auto",
            "cleanup": "auto",
            "granularity": "auto",
        },
        "hasKey": True,
    },
    {
        "url": "http://127.0.0.1:8000/",
        "imageId": HASH,
        "fileName": "photo.jpg",
        "body": {"prompts": [{"mask": PART["rle"]}], "multimask": "auto", "cleanup": "auto"},
        "hasKey": False,
    },
]


def outline_cases():
    """Masks (H, W) of many kinds, each with a tolerance in pixels."""
    random = np.random.default_rng(3)
    masks = list(mask_cases().values())
    for i in range(40):
        height, width = random.integers(1, 40, 2)
        masks.append(random.random((height, width)) < random.random())
        masks.append(cv2.GaussianBlur(random.normal(size=(3 * height, 3 * width)), (0, 0), 2 + i % 3) > 0)
    masks.append(cv2.GaussianBlur(random.normal(size=(300, 400)), (0, 0), 4) > 0)
    return [(mask, (0.5, 1, 2, 5)[i % 4]) for i, mask in enumerate(masks)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the modules make: a function from a file's name to its path."""
    folder = tmp_path_factory.mktemp("exports")
    indices = np.random.default_rng(4).integers(0, 3, (37, 53))
    cases = {
        "outlines": [
            {"width": mask.shape[1], "height": mask.shape[0], "data": mask.astype(int).ravel().tolist(), "tolerance": t}
            for mask, t in outline_cases()
        ],
        "requests": REQUESTS,
        "candidates": [{"masks": masks, "names": names} for masks, names in CANDIDATES],
        "indexed": {
            "width": 53,
            "height": 37,
            "data": indices.ravel().tolist(),
            "palette": PALETTE,
            "texts": {"Labels": LABELS},
        },
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "indices.json").write_text(json.dumps(indices.tolist()))
    environment = {
        "EDGESAM_TEST_CASES": "cases.json",
        "EDGESAM_TEST_OUTLINES": "outlines.json",
        "EDGESAM_TEST_PNG": "indexed.png",
        "EDGESAM_TEST_PROGRAMS": "programs.json",
    }
    ran = subprocess.run(
        [needed_program("node", "nodejs"), "--test", str(TESTS)],
        env={**os.environ, **{name: str(folder / file) for name, file in environment.items()}},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    return lambda name: folder / name


def rings_of(path):
    """The rings of an SVG path of lines and quadratic curves, as points along them."""
    rings = []
    for part in path.split("M")[1:]:
        points = []
        for text in part.removesuffix("Z").split("L"):
            start, *curve = (np.array(numbers.split(), float) for numbers in text.split("Q"))
            points.append(start)
            if curve:
                control, end = curve[0][:2], curve[0][2:]
                shares = np.linspace(0, 1, STEPS_OF_A_CURVE)[1:, None]
                points += list((1 - shares) ** 2 * start + 2 * shares * (1 - shares) * control + shares**2 * end)
        rings.append(points)
    return [LinearRing(ring) for ring in rings]


def assert_valid(rings):
    """No ring crosses or touches itself or another one."""
    assert all(ring.is_simple for ring in rings)
    if not rings:  # of an empty mask
        return
    one, other = STRtree(rings).query(rings, "intersects")
    assert np.array_equal(one, other)


def test_outlines_are_valid_geometry_with_every_part_and_hole(written):
    for (mask, _), found in zip(outline_cases(), json.loads(written("outlines.json").read_text()), strict=True):
        exact = [LinearRing(np.reshape(ring, (-1, 2))) for ring in found["exact"]]
        smooth = rings_of(found["path"])

        assert_valid(exact)
        assert_valid([LinearRing(ring) for ring in found["simple"]])
        assert_valid(smooth)
        assert [ring.is_ccw for ring in smooth] == [ring.is_ccw for ring in exact]
        assert bool(exact) == mask.any()


def test_outlines_are_near_the_border_and_have_fewer_corners_with_more_tolerance(written):
    fewer = 0
    for (_, tolerance), found in zip(outline_cases(), json.loads(written("outlines.json").read_text()), strict=True):
        for ring, smooth in zip(found["exact"], rings_of(found["path"]), strict=True):
            corners = MultiPoint(np.reshape(ring, (-1, 2)))
            assert max(corner.distance(smooth) for corner in corners.geoms) <= 2 * tolerance + 0.01
            assert hausdorff_distance(smooth, LinearRing(np.reshape(ring, (-1, 2)))) <= 2 * tolerance + 0.01
        exact = sum(len(ring) // 2 for ring in found["exact"])
        assert found["corners"] == sum(map(len, found["simple"])) <= exact
        fewer += tolerance >= 1 and found["corners"] < exact
    assert fewer > 20


def test_an_image_of_indices_has_its_palette_and_labels(written):
    with Image.open(written("indexed.png")) as image:
        image.load()
        assert image.mode == "P"
        assert image.text == {"Labels": LABELS}
        assert np.array_equal(np.reshape(image.getpalette(), (-1, 3)), PALETTE)
        assert np.array_equal(np.asarray(image), json.loads(written("indices.json").read_text()))


@pytest.fixture
def programs(written):
    """The programs of each request, by language."""
    return json.loads(written("programs.json").read_text())


def calls_of(program):
    """The calls of a Python program: name of the function, positional and keyword arguments as text."""
    found = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    return {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id: (
            [ast.unparse(argument) for argument in node.args],
            {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
        )
        for node in found
    }


def test_python_programs_have_the_whole_request(programs):
    first, second = (calls_of(each["python"]) for each in programs)

    assert first["Client"] == (
        ["'https://masks.example/sam'"],
        {"api_key": "os.environ['EDGESAM_KEY']", "model": "'some-model'"},
    )
    assert first["embed"] == ([repr(HOSTILE)], {"levels": "'full'", "bands": "(3, 2, 1)"})
    assert first["region"] == (["image", "(10, 20, 300, 200)"], {})
    assert first["segment"] == (
        ["image"],
        {
            "points": "[(12.5, 30), (14, 31)]",
            "labels": "[1, 0]",
            "box": "(11, 21, 90.5, 80)",
            "multimask": "'auto'",
            "cleanup": "'auto'",
        },
    )
    assert second["decode_rle"] == ([repr(PART["rle"]["counts"]), "60", "80"], {})
    assert second["segment"][1]["mask"].startswith("decode_rle(")


def test_curl_commands_have_the_whole_request(programs):
    (_, embed, *form), (_, segment, *arguments) = (
        shlex.split(line.replace("curl -s", "curl", 1)) for line in programs[0]["curl"].splitlines()
    )

    assert (
        embed
        == "https://masks.example/sam/embed?model=some-model&levels=full&bands=3%2C2%2C1&region=10%2C20%2C300%2C200"
    )
    assert form == ["-H", "X-API-Key: $EDGESAM_KEY", "-F", 'image=@"' + HOSTILE.replace('"', "") + '"']
    assert segment == "https://masks.example/sam/segment"
    assert arguments[:4] == ["-H", "X-API-Key: $EDGESAM_KEY", "-H", f"X-Image-Hash: {HASH}"]
    assert json.loads(arguments[5]) == {"image_hash": REQUESTS[0]["imageId"], **REQUESTS[0]["body"]}


def test_javascript_programs_have_the_whole_request(programs, tmp_path):
    text = programs[0]["javascript"]
    for each in programs:
        (tmp_path / "program.mjs").write_text(each["javascript"])
        node = needed_program("node", "nodejs")
        subprocess.run([node, "--check", str(tmp_path / "program.mjs")], check=True, timeout=TIMEOUT_S)

    assert '{ apiKey: "", model: "some-model" }' in text
    assert '{"levels":"full","bands":[3,2,1],"region":[10,20,300,200]}' in text
    assert '"granularity":"auto"' in text
    assert "mask_id" not in text
    assert json.dumps(PART["rle"]["counts"]) in programs[1]["javascript"]
