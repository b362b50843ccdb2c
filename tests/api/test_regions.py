"""Regions over HTTP: the masks of a region are those of the cropped file, in pixels of the whole image."""

import base64
import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.noise_images import as_file, noise_file, noise_image
from support.service_client import assert_problem, open_client
from support.service_process import ServiceProcess

from service.errors import (
    EmbeddingNotFound,
    ImageNotKept,
    InvalidRequest,
    MalformedBody,
    MaskNotFound,
    PromptOutsideImage,
)

SIZE = (300, 420)
REGION = (100, 40, 330, 220)
LEFT, TOP = REGION[:2]
POINT = {"points": [[180.5, 120, 1]]}
PROMPTS = [
    POINT,
    {"points": [[150, 80, 1], [300.5, 200, 0]]},
    {"box": [140, 70, 260, 180]},
    {"box": [60, 0, 260, 180], "points": [[200, 100, 1]]},  # goes beyond the region
    {"points": [[100, 40, 1], [330, 220, 1]]},  # its corners
]


def in_crop(prompt):
    """Return a prompt in pixels of the cropped file."""
    moved = {}
    if "points" in prompt:
        moved["points"] = [[x - LEFT, y - TOP, label] for x, y, label in prompt["points"]]
    if "box" in prompt:
        x0, y0, x1, y1 = prompt["box"]
        moved["box"] = [x0 - LEFT, y0 - TOP, x1 - LEFT, y1 - TOP]
    return moved


def text(region=REGION):
    return ",".join(map(str, region))


def embedded(client, data, **query):
    response = client.post("/embed", content=data, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def results(client, image_id, prompts, **options):
    response = client.post("/segment", json={"image_hash": image_id, "prompts": prompts, **options})
    assert response.status_code == 200, response.text
    return response.json()


def pixels_of(rle):
    return coco.decode({**rle, "counts": rle["counts"].encode()}).astype(bool)


@pytest.fixture(scope="module")
def models(artifact, edgetam_artifact):
    """A client of a service with a model that letterboxes images and one that stretches them."""
    with (
        ServiceProcess({"EDGESAM_MODELS": f"{artifact},{edgetam_artifact}"}) as service,
        open_client(service.url) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def image():
    return noise_image(SIZE, seed=2101)


@pytest.mark.parametrize("model", ["random", "edgetam"])
@pytest.mark.parametrize("cleanup", ["none", "auto"])
def test_the_masks_of_a_region_are_those_of_the_cropped_file(models, image, model, cleanup):
    x0, y0, x1, y1 = REGION
    answer = embedded(models, as_file(image), region=text(), model=model)
    crop = embedded(models, as_file(np.ascontiguousarray(image[y0:y1, x0:x1])), model=model)
    assert (answer["width"], answer["height"], answer["region"]) == (420, 300, list(REGION))
    assert answer["image_id"] == f"{answer['image_hash']}~region={text()}"

    options = {"model": model, "cleanup": cleanup, "multimask": 4}
    found = results(models, answer["image_id"], PROMPTS, **options)
    expected = results(models, crop["image_id"], [in_crop(prompt) for prompt in PROMPTS], **options)

    assert (found["width"], found["height"], found["region"]) == (420, 300, list(REGION))
    assert expected["region"] is None
    areas = []
    for ours, theirs in zip(found["results"], expected["results"], strict=True):
        for mask, other in zip(ours["masks"], theirs["masks"], strict=True):
            whole = pixels_of(mask["rle"])
            assert whole.shape == SIZE
            assert np.array_equal(whole[y0:y1, x0:x1], pixels_of(other["rle"]))
            assert whole.sum() == mask["area"] == other["area"]  # no pixel lies outside of the region
            if mask["area"]:
                bx0, by0, bx1, by1 = other["box"]
                assert mask["box"] == [bx0 + LEFT, by0 + TOP, bx1 + LEFT, by1 + TOP]
            assert mask["score"] == other["score"]
            areas.append(mask["area"])
    assert max(areas) > 0


@pytest.mark.parametrize("model", ["random", "edgetam"])
def test_a_region_of_the_whole_size_is_the_image_itself(models, image, model, next_seed):
    data = noise_file((60, 90), next_seed)

    region = embedded(models, data, region="0,0,90,60", model=model)
    whole = embedded(models, data, model=model)

    assert (region["image_id"], region["region"]) == (hashlib.sha256(data).hexdigest(), None)
    assert (region["cached"], whole["cached"]) == (None, "memory")
    assert {**region, "cached": "memory"} == whole


def test_all_formats_describe_one_mask(models, image):
    image_id = embedded(models, as_file(image), region=text())["image_id"]

    def ask(**options):
        return results(models, image_id, [POINT], multimask=1, **options)["results"][0]["masks"][0]

    expected = pixels_of(ask()["rle"])
    png = np.asarray(Image.open(io.BytesIO(base64.b64decode(ask(format="png")["png"]))))
    cropped = ask(format="png", crop=True)
    x0, y0, x1, y1 = cropped["box"]
    polygon = ask(format="polygon")["polygon"]

    assert expected.any()
    assert np.array_equal(png, expected)
    part = np.asarray(Image.open(io.BytesIO(base64.b64decode(cropped["png"]))))
    assert np.array_equal(part, expected[y0:y1, x0:x1])
    areas = [sum(_area(ring) for ring in (part["exterior"], *part["holes"])) for part in polygon]
    assert sum(areas) == expected.sum()
    corners = np.concatenate([np.array(part["exterior"]) for part in polygon])
    assert [*corners.min(0), *corners.max(0)] == cropped["box"]
    assert len(base64.b64decode(ask(format="logits")["logits"])) == 256 * 256 * 2
    assert "rle" not in ask(format="none")


def _area(ring):
    x, y = np.array(ring).T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def test_the_png_answer_is_of_the_whole_image(models, image):
    image_id = embedded(models, as_file(image), region=text())["image_id"]
    body = {"image_hash": image_id, "prompts": [POINT], "multimask": 1}

    png = models.post("/segment", json=body, headers={"Accept": "image/png"})
    rle = results(models, image_id, [POINT], multimask=1)["results"][0]["masks"][0]["rle"]

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.content))), pixels_of(rle))
    assert (png.headers["x-image-size"], png.headers["x-image-region"]) == ("420,300", text())


def test_masks_are_refined_by_id_logits_and_pixels(models, image):
    x0, y0, x1, y1 = REGION
    image_id = embedded(models, as_file(image), region=text())["image_id"]
    crop_id = embedded(models, as_file(np.ascontiguousarray(image[y0:y1, x0:x1])))["image_id"]
    further = {"points": [[250, 150, 0]]}
    first = results(models, image_id, [POINT], multimask=1)["results"][0]["masks"][0]
    other = results(models, crop_id, [in_crop(POINT)], multimask=1)["results"][0]["masks"][0]
    logits = results(models, image_id, [POINT], multimask=1, format="logits")["results"][0]["masks"][0]["logits"]

    def refined(key, prompt):
        answer = results(models, key, [prompt], multimask=1)["results"][0]["masks"][0]
        return pixels_of(answer["rle"])[(slice(y0, y1), slice(x0, x1)) if key == image_id else ...]

    by_id = refined(image_id, {**further, "mask_id": first["mask_id"]})
    by_logits = refined(image_id, {**further, "mask_logits": logits})
    by_pixels = refined(image_id, {**further, "mask": first["rle"]})

    assert np.array_equal(by_id, refined(crop_id, {**in_crop(further), "mask_id": other["mask_id"]}))
    assert np.array_equal(by_id, by_logits)
    assert np.array_equal(by_pixels, refined(crop_id, {**in_crop(further), "mask": other["rle"]}))


def test_the_mask_of_another_region_is_not_refined(models, image):
    data = as_file(image)
    whole = embedded(models, data)["image_id"]
    region = embedded(models, data, region=text())["image_id"]
    mask_id = results(models, whole, [POINT], multimask=1)["results"][0]["masks"][0]["mask_id"]

    body = {"image_hash": region, "prompts": [{**POINT, "mask_id": mask_id}]}

    assert_problem(models.post("/segment", json=body), MaskNotFound)


def test_prompts_outside_of_the_region_are_refused_by_its_name(models, image):
    image_id = embedded(models, as_file(image), region=text())["image_id"]

    for prompt in ({"points": [[99, 100]]}, {"box": [0, 0, 100, 300]}):
        problem = assert_problem(
            models.post("/segment", json={"image_hash": image_id, "prompts": [prompt]}), PromptOutsideImage
        )
        assert text() in problem["detail"]
        assert (problem["region"], problem["width"], problem["height"]) == (list(REGION), 420, 300)


def test_the_region_of_a_turned_photo_counts_upright_pixels(models):
    stored = noise_image((200, 320), seed=2102)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(file, "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as decoded:
        upright = np.asarray(decoded.transpose(Image.Transpose.ROTATE_270))
    region = (30, 100, 180, 290)

    answer = embedded(models, file.getvalue(), region=text(region))
    crop = embedded(models, as_file(np.ascontiguousarray(upright[100:290, 30:180])))
    found = results(models, answer["image_id"], [{"points": [[90, 180]]}])["results"][0]["masks"]
    expected = results(models, crop["image_id"], [{"points": [[60, 80]]}])["results"][0]["masks"]

    assert (answer["width"], answer["height"], answer["orientation"]) == (200, 320, 6)
    for mask, other in zip(found, expected, strict=True):
        assert np.array_equal(pixels_of(mask["rle"])[100:290, 30:180], pixels_of(other["rle"]))


def test_the_region_may_be_a_field_of_a_form_or_a_member_of_json(client, next_seed):
    data = noise_file((60, 90), next_seed)
    encoded = base64.b64encode(data).decode()

    answers = [
        client.post("/embed", files={"image": data}, data={"region": "0,0,40,50"}),
        client.post("/embed", json={"image": encoded, "region": "0,0,40,50"}),
        client.post("/embed", json={"image": encoded, "region": [0, 0, 40, 50]}),
        client.post("/embed", content=data, params={"region": "0,0,40,50"}),
        client.post("/embed?region=0,0,40,50", files={"image": data}, data={"region": "0,0,40,50"}),
    ]

    assert {answer.json()["image_id"][64:] for answer in answers} == {"~region=0,0,40,50"}
    different = client.post("/embed?region=0,0,40,51", files={"image": data}, data={"region": "0,0,40,50"})
    assert "different region" in assert_problem(different, InvalidRequest)["detail"]


def test_head_and_download_name_the_region(client, next_seed):
    image_id = embedded(client, noise_file((60, 90), next_seed), region="5,6,75,50", levels="minmax")["image_id"]

    head, download = client.head(f"/embed/{image_id}"), client.get(f"/embed/{image_id}")

    assert image_id.endswith("~levels=minmax~region=5,6,75,50")
    for response in (head, download):
        assert response.status_code == 200
        assert (response.headers["x-image-size"], response.headers["x-image-region"]) == ("90,60", "5,6,75,50")
    assert len(download.content) == 4096 * 256 * 2
    whole = embedded(client, noise_file((60, 90), next_seed))["image_id"]
    assert "x-image-region" not in client.head(f"/embed/{whole}").headers


@pytest.mark.parametrize(
    "region",
    ["", "0,0,31,40", "0,0,40,31", "40,40,0,0", "-1,0,40,40", "0,0,NaN,40", "0,0,inf,40", "0,0,1e2,40", "0,0,40",
     "0,0,40,40,40", "0x0,0,40,40", "0,0,40,40;", "9" * 4000, "0,0," + "9" * 30 + ",40"],
)  # fmt: skip
def test_other_texts_are_refused_before_the_image_is_read(client, next_seed, region):
    response = client.post("/embed", content=b"not an image", params={"region": region})

    assert "region is" in assert_problem(response, InvalidRequest)["detail"]


@pytest.mark.parametrize("region", ["0,0,91,60", "0,0,90,61", "999999900,0,999999999,60"])
def test_a_region_outside_of_the_image_is_refused_with_its_size(client, next_seed, region):
    response = client.post("/embed", content=noise_file((60, 90), next_seed), params={"region": region})

    problem = assert_problem(response, InvalidRequest)
    assert "90 x 60 pixels" in problem["detail"]
    assert (problem["width"], problem["height"]) == (90, 60)
    assert problem["errors"][0]["where"] == "/region"


def test_deleting_the_image_deletes_its_regions(client, next_seed):
    data = noise_file((200, 200), next_seed)
    whole = embedded(client, data)["image_id"]
    regions = [embedded(client, data, region=f"{x},0,{x + 40},50")["image_id"] for x in range(3)]

    assert client.delete(f"/embed/{regions[0]}").status_code == 204
    assert [client.head(f"/embed/{each}").status_code for each in (whole, *regions)] == [200, 404, 200, 200]
    assert client.delete(f"/embed/{whole}").status_code == 204

    assert [client.head(f"/embed/{each}").status_code for each in (whole, *regions)] == [404] * 4
    assert_problem(client.delete(f"/embed/{whole}"), EmbeddingNotFound)


def test_a_service_that_keeps_no_images_says_so(client, next_seed):
    digest = embedded(client, noise_file((60, 90), next_seed))["image_hash"]

    described = client.get("/models").json()["models"][0]["features"]
    response = client.post("/embed", params={"image_hash": digest, "region": "0,0,40,40"})

    assert (described["regions"], described["keeps_images"]) == (True, 0)
    assert "Send its bytes" in assert_problem(response, ImageNotKept)["detail"]
    assert_problem(client.post("/embed"), MalformedBody)


def test_image_hash_goes_with_an_empty_body_and_without_a_region(client):
    digest = "0a" * 32

    with_bytes = client.post("/embed", params={"image_hash": digest}, content=b"bytes")
    with_region = client.post("/embed", params={"image_hash": f"{digest}~region=0,0,40,40"})
    other_levels = client.post("/embed", params={"image_hash": f"{digest}~levels=full", "levels": "minmax"})
    no_hash = client.post("/embed", params={"image_hash": "0a"})

    assert "empty body" in assert_problem(with_bytes, InvalidRequest)["detail"]
    assert "has a region" in assert_problem(with_region, InvalidRequest)["detail"]
    assert "different levels" in assert_problem(other_levels, InvalidRequest)["detail"]
    assert "64 hexadecimal digits" in assert_problem(no_hash, InvalidRequest)["detail"]
