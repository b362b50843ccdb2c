"""EdgeTAM over HTTP beside the bundled model: which mask comes back, and what the model does not have."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, open_client
from support.service_process import ServiceProcess
from support.tool_images import as_base64

from service.api.routes.playground import RUNTIME_FILES
from service.errors import InvalidRequest
from service.sam.masks import narrow_stability
from service.settings import BUNDLED_MODEL

NAME = "edgetam"
SIZE = (240, 320)
POINT = {"points": [{"x": 150.5, "y": 110}]}
POINTS = {"points": [{"x": 150.5, "y": 110}, {"x": 60, "y": 200.2, "label": 0}]}
BOX = {"box": [70, 50, 260, 190]}
BOX_AND_POINT = {"box": [20, 30, 150, 120], **POINT}
PROMPTS = [BOX, POINTS, BOX_AND_POINT]


@pytest.fixture(scope="module")
def service(edgetam_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with both models and all adapters. It offers decoding in the browser."""
    runtime = tmp_path_factory.mktemp("runtime")
    for name in RUNTIME_FILES:
        (runtime / name).write_bytes(b"unused")
    settings = {
        "EDGESAM_MODELS": f"{BUNDLED_MODEL},{edgetam_artifact}",
        "EDGESAM_ADAPTERS": "cvat,label-studio,roboflow,x-anylabeling",
        "EDGESAM_BROWSER_RUNTIME_DIR": str(runtime),
    }
    with ServiceProcess(settings) as process, open_client(process.url) as client:
        yield client


@pytest.fixture(scope="module")
def image_id(service):
    answer = service.post(f"/embed?model={NAME}", content=noise_file(SIZE, seed=2020))
    assert answer.status_code == 200, answer.text
    return answer.json()["image_id"]


@pytest.fixture
def segment(service, image_id):
    """A function from prompts to the masks of each, with their logits."""

    def ask(*prompts, **options):
        body = {"image_hash": image_id, "model": NAME, "prompts": prompts, "format": "logits", **options}
        answer = service.post("/segment", json=body)
        assert answer.status_code == 200, answer.text
        return [result["masks"] for result in answer.json()["results"]]

    return ask


def logits_of(mask):
    return np.frombuffer(base64.b64decode(mask["logits"]), "<f2").reshape(256, 256).astype(np.float32)


def numbers(mask):
    return {key: value for key, value in mask.items() if key not in {"logits", "mask_id"}}


def expected_single(segment, prompt):
    """The mask that SAM 2's rule selects among all four of a prompt. Masks 1 to 3 tell which one is output 0."""
    (four,), (three,) = segment(prompt, multimask=4), segment(prompt, multimask=3)
    others = {mask["mask_id"] for mask in three}
    (first,) = (mask for mask in four if mask["mask_id"] not in others)
    narrow = float(narrow_stability(logits_of(first)[None])[0])
    assert abs(narrow - 0.98) > 1e-3, "the logits of the answer are rounded to float16; choose another prompt"
    return (first if narrow >= 0.98 else max(three, key=lambda mask: mask["predicted_iou"])), narrow


@pytest.mark.parametrize("prompt", PROMPTS, ids=["box", "points", "box and point"])
def test_a_prompt_that_means_one_object_gets_the_mask_of_the_rule(segment, prompt):
    expected, _ = expected_single(segment, prompt)

    ((auto,),) = segment(prompt)
    ((one,),) = segment(prompt, multimask=1)

    assert auto == one == expected
    assert auto["score"] == auto["predicted_iou"]


def test_both_branches_of_the_rule_are_reached(segment):
    """A mask alone is added to the logits of the decoder, which makes output 0 stable."""
    ((box,),) = segment(BOX, format="rle")
    held = {"mask": {"size": list(SIZE), "counts": disc()}}

    selected, stable = expected_single(segment, held)
    _, not_stable = expected_single(segment, BOX)

    assert box["area"] > 0
    assert not_stable < 0.98 <= stable
    assert segment(held) == [[selected]]
    assert segment(held, multimask=1) == [[selected]]


def disc():
    """Run lengths of a disc in the image."""
    rows, columns = np.indices(SIZE)
    pixels = (np.hypot(rows - 120, columns - 150) < 60).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate(([False], pixels, [False])).astype(np.int8)))
    return np.diff(np.concatenate(([0], edges, [pixels.size]))).tolist()


def test_a_click_gets_outputs_1_to_3_by_predicted_iou(segment):
    ((*auto,),) = segment(POINT)
    ((*three,),) = segment(POINT, multimask=3)
    ((*four,),) = segment(POINT, multimask=4)

    assert auto == three
    assert len(four) == 4
    for masks in (auto, four):
        ious = [mask["predicted_iou"] for mask in masks]
        assert ious == sorted(ious, reverse=True)
        assert all(mask["score"] == mask["predicted_iou"] for mask in masks)
        assert all(0 < iou < 1 for iou in ious)


def test_prompts_of_one_request_are_answered_as_each_alone(segment):
    together = segment(*PROMPTS, POINT)
    alone = [segment(prompt)[0] for prompt in (*PROMPTS, POINT)]

    assert [[numbers(mask) for mask in masks] for masks in together] == [
        [numbers(mask) for mask in masks] for masks in alone
    ]


def test_a_refinement_by_id_equals_one_by_the_logits_of_the_answer(segment):
    """Both start from the limited logits."""
    ((first,),) = segment(BOX)
    limits = [np.abs(logits_of(mask)).max() for masks in segment(*PROMPTS, multimask=4) for mask in masks]

    by_id = segment({**POINTS, "mask_id": first["mask_id"]})
    by_logits = segment({**POINTS, "mask_logits": first["logits"]})

    assert by_id == by_logits
    assert max(limits) <= 32.0


def test_models_says_what_each_model_has(service):
    bundled, edgetam = service.get("/models").json()["models"]

    assert (bundled["resize"], edgetam["resize"]) == ("letterbox", "stretch")
    of_all = {"granularity": False, "regions": True, "keeps_images": 0}
    assert bundled["features"] == {**of_all, "embedding_download": True, "browser_decoding": True}
    assert edgetam["features"] == {**of_all, "embedding_download": False, "browser_decoding": False}
    assert bundled["auto_masks"] == {"ambiguous": [0, 1, 2, 3], "other": [0], "fallback": []}
    assert edgetam["auto_masks"] == {"ambiguous": [1, 2, 3], "other": [0], "fallback": [1, 2, 3]}
    assert set(bundled["files"]) == {"prepare", "decoder", "parameters"}
    assert edgetam["files"] == {}
    assert (edgetam["encoder"], edgetam["commercial_use"]) == ("RepViT-M1 (EdgeTAM)", True)


def test_granularity_is_refused_by_the_name_of_the_model(service, image_id):
    body = {"image_hash": image_id, "model": NAME, "prompts": [POINT], "granularity": "auto"}

    detail = assert_problem(service.post("/segment", json=body), InvalidRequest)["detail"]

    assert detail.startswith("/granularity: the served model edgetam has no granularity module")
    assert "No such module exists for EdgeTAM" in detail
    assert "--granularity" not in detail  # no export of this model can have it


def test_an_embedding_is_not_downloaded(service, image_id):
    refused = service.get(f"/embed/{image_id}?model={NAME}")

    assert NAME in assert_problem(refused, InvalidRequest)["detail"]


def test_roboflows_first_protocol_refuses_embeddings_before_it_embeds(service, next_seed):
    image = {"type": "base64", "value": as_base64(noise_file((60, 80), next_seed))}
    image_id = service.post("/sam/embed_image", json={"image": image, "model_id": "edgesam-lite"}).json()["image_id"]

    for body in ({"image": image}, {"image_id": image_id}, {"image": image, "format": "binary"}):
        detail = assert_problem(service.post("/sam/embed_image", json={**body, "model_id": NAME}), InvalidRequest)[
            "detail"
        ]
        assert detail.startswith("/model_id: edgetam has three maps")
        assert "/sam2/embed_image" in detail
    assert service.head(f"/embed/{image_id}?model={NAME}").status_code == 404


def test_tools_get_the_masks_of_the_rule(service):
    """Each tool's first mask for a box or a click is that of /segment with the cleanup."""
    data = noise_file(SIZE, seed=2020)
    image_id = service.post(f"/embed?model={NAME}", content=data).json()["image_id"]
    body = {"image_hash": image_id, "model": NAME, "prompts": [BOX, POINT], "format": "none", "cleanup": "auto"}
    box, click = (result["masks"][0] for result in service.post("/segment", json=body).json()["results"])
    x0, y0, x1, y1 = BOX["box"]
    image = {"type": "base64", "value": as_base64(data)}
    center = {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}
    prompts = {"prompts": [{"box": center}, {"points": [{"x": 150.5, "y": 110, "positive": True}]}]}

    roboflow = service.post(
        "/sam2/segment_image", json={"image": image, "sam2_version_id": NAME, "prompts": prompts, "format": "rle"}
    ).json()["predictions"]
    mark = {"type": "rectangle", "data": BOX["box"], "label": 1}
    shapes = service.post(
        "/v1/predict", json={"model": NAME, "image": as_base64(data), "params": {"marks": [mark]}}
    ).json()["data"]["shapes"]
    invocation = {"image": as_base64(data), "pos_points": [[150.5, 110]], "neg_points": [], "obj_bbox": None}
    cvat = service.post(
        "/api/function_invocations", json=invocation, headers={"x-nuclio-function-name": f"edgesam-{NAME}"}
    ).json()

    assert [each["confidence"] for each in roboflow] == [box["score"], click["score"]]
    assert {shape["score"] for shape in shapes} == {box["score"]}
    assert sum(map(sum, cvat["mask"])) == click["area"]
