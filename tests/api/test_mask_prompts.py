"""Binary masks as mask prompts: PNG and run lengths, their bounds, and what comes back."""

import base64
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.noise_images import noise_file
from support.service_client import assert_problem, embed, open_client, point, segment
from support.service_process import ServiceProcess

from service.errors import InvalidRequest

HEIGHT, WIDTH = 60, 90
SAMPLES = Path(__file__).parents[2] / "service" / "web" / "samples"
OBJECTS = [
    ("dahlia.jpg", {"points": [[270, 210]]}),
    ("dahlia.jpg", {"box": [285, 370, 452, 427]}),
    ("drum.jpg", {"box": [5, 335, 305, 535]}),
    ("drum.jpg", {"points": [[235, 440]]}),
]


@pytest.fixture(scope="module")
def image_hash(client) -> str:
    return embed(client, noise_file((HEIGHT, WIDTH), seed=21))


@pytest.fixture(scope="module")
def trained():
    """A client of a process with the bundled model."""
    with ServiceProcess({}) as service, open_client(service.url) as client:
        yield client


def disc() -> np.ndarray:
    """A mask that touches two borders of the image."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 12) ** 2 + (columns - 15) ** 2 < 20**2


def png(pixels: np.ndarray | Image.Image) -> str:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def rle(pixels: np.ndarray) -> dict:
    packed = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def run_lengths(pixels: np.ndarray) -> dict:
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return {"size": list(pixels.shape), "counts": [0, *counts] if flat[0] else counts}


def in_grey(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint8)  # 0 and 1, as masks of classes are written


def in_colour(pixels: np.ndarray) -> np.ndarray:
    """Red on transparent, as a canvas of a page draws it."""
    image = np.zeros((*pixels.shape, 4), np.uint8)
    image[pixels] = (255, 0, 0, 255)
    return image


def in_palette(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


@pytest.mark.parametrize(
    "written",
    [
        rle,
        run_lengths,
        png,
        lambda pixels: "data:image/png;base64," + png(pixels),
        lambda pixels: png(in_grey(pixels)),
        lambda pixels: png(in_grey(pixels) * 255),
        lambda pixels: png(pixels.astype(np.uint16) * 65535),
        lambda pixels: png(in_colour(pixels)),
        lambda pixels: png(in_palette(pixels)),
    ],
    ids=["text", "numbers", "1-bit", "uri", "0-and-1", "8-bit", "16-bit", "transparent", "palette"],
)
def test_every_way_to_write_a_mask_gives_the_same_answer(client, image_hash, written):
    expected = segment(client, image_hash, {"mask": rle(disc())})

    assert segment(client, image_hash, {"mask": written(disc())}) == expected


def test_a_mask_changes_the_answer_to_points_and_a_box(client, image_hash):
    for prompt in (point(40, 30), {"box": [10, 10, 60, 50]}):
        (without,) = segment(client, image_hash, prompt, multimask=1)
        (given,) = segment(client, image_hash, {**prompt, "mask": rle(disc())}, multimask=1)

        assert given[0]["mask_id"] != without[0]["mask_id"]


@pytest.mark.parametrize(("name", "prompt"), OBJECTS)
@pytest.mark.parametrize("written", [rle, png])
def test_an_objects_own_mask_comes_back(trained, name, prompt, written):
    image_hash = embed(trained, (SAMPLES / name).read_bytes())
    own = segment(trained, image_hash, prompt)[0][0]["rle"]

    (back,) = segment(trained, image_hash, {"mask": written(coco.decode(own).astype(np.bool_))})

    assert len(back) == 1
    assert coco.iou([back[0]["rle"]], [own], [0])[0, 0] >= 0.9


def test_a_mask_of_another_tool_comes_back_and_can_be_refined_by_its_id(trained):
    image_hash = embed(trained, (SAMPLES / "dahlia.jpg").read_bytes())
    drawn = np.zeros(coco.decode(segment(trained, image_hash, point(270, 210))[0][0]["rle"]).shape, np.uint8)
    drawn[140:290, 190:350] = 1

    (back,) = segment(trained, image_hash, {"mask": png(drawn)})
    (refined,) = segment(trained, image_hash, {"mask_id": back[0]["mask_id"], **point(270, 210)})

    assert coco.iou([back[0]["rle"]], [rle(drawn)], [0])[0, 0] >= 0.9
    assert 0 < back[0]["stability"] <= 1
    assert refined[0]["area"] > 0


def test_a_thin_line_and_a_single_pixel_are_masks(client, image_hash):
    line, pixel = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    line[30, 5:80] = True
    pixel[20, 20] = True

    for mask in (line, pixel):
        (masks,) = segment(client, image_hash, {"mask": png(mask)})
        assert len(masks) == 1


def bomb() -> str:
    """A PNG of the image's size whose data have a thousand times its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    data = zlib.compress(bytes(HEIGHT * (WIDTH + 1) * 1000))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


TALL = np.ones((WIDTH, HEIGHT), np.bool_)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (rle(TALL), "60 x 90 pixels, and the upright image 90 x 60"),
        (png(TALL), "60 x 90 pixels, and the upright image 90 x 60"),
        (png(np.zeros((HEIGHT, WIDTH), np.bool_)), "empty"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "empty"),
        ({"size": [HEIGHT, WIDTH], "counts": []}, "sum"),
        ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, "sum"),
        ({"size": [HEIGHT, WIDTH], "counts": [2**40] * 4}, "sum"),
        ({"size": [HEIGHT, WIDTH], "counts": "o"}, "cut off"),
        ({"size": [HEIGHT, WIDTH], "counts": "é~"}, "character"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 40 + "0"}, "larger than any image"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}, "greater than or equal to 0"),
        ({"size": [2**30, 2**30], "counts": [2**60]}, "less than or equal to"),
        ({"size": [1 << 20, 1 << 20], "counts": [1 << 40]}, "pixels, and the upright image"),
        (bomb(), "empty"),  # decoding ends with the last row
        (base64.b64encode(b"GIF89a" + bytes(40)).decode(), "not a PNG"),
        (png(disc())[:80], "broken or cut off"),
        ("%%%%", "not base64"),
        ("", "empty"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused_with_its_place_and_the_reason(client, image_hash, mask, reason):
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1), {"mask": mask}]})

    document = assert_problem(response, InvalidRequest)
    assert reason in document["detail"]
    assert document["errors"][0]["where"].startswith("/prompts/1/mask")


@pytest.mark.parametrize("other", [{"mask_id": "0" * 32}, {"mask_logits": ""}])
def test_a_prompt_has_one_mask(client, image_hash, other):
    prompt = {"mask": rle(disc()), **other}
    response = client.post("/segment", json={"image_hash": image_hash, "prompts": [prompt]})

    assert "one of mask_id, mask_logits and mask" in assert_problem(response, InvalidRequest)["detail"]


def test_more_numbers_than_any_masks_have_are_refused_before_they_are_parsed(client, image_hash):
    body = b'{"image_hash":"' + image_hash.encode() + b'","prompts":[{"mask":{"size":[1,1],"counts":['
    body += b"0," * 600_000 + b"0]}}]}"

    response = client.post("/segment", content=body)

    assert "more numbers" in assert_problem(response, InvalidRequest)["detail"]
