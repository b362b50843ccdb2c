"""Every rule of the /segment schema: a request that breaks it gets a problem with the place of the mistake."""

import base64
import json

import numpy as np
import pytest
from support.service_client import assert_problem, point

from service.errors import InvalidRequest, MalformedBody

HASH = "0" * 64
ID = "0" * 32
NOT_FINITE = base64.b64encode(np.full((256, 256), np.inf, "<f2").tobytes()).decode()


def body(**fields) -> dict:
    """Return a valid request with `fields` replaced; a field of None is left out."""
    whole = {"image_hash": HASH, "prompts": [point(1, 1)], **fields}
    return {key: value for key, value in whole.items() if value is not None}


def with_prompt(**fields) -> dict:
    """Return a request with a valid prompt and `prompt`."""
    return body(prompts=[point(1, 1), fields])


RULES = [
    ("/image_hash", body(image_hash=None)),
    ("/image_hash", body(image_hash="0" * 63)),
    ("/image_hash", body(image_hash="G" * 64)),
    ("/image_hash", body(image_hash=HASH + "\n")),
    ("/image_hash", body(image_hash=5)),
    ("/prompts", body(prompts=None)),
    ("/prompts", body(prompts=[])),
    ("/prompts", body(prompts={})),
    ("/prompts", body(prompts=[point(1, 1)] * 257)),
    ("/prompts", body(prompts=[point(1, 1)] * 65)),
    ("/prompts/0", body(prompts=[5])),
    ("/colour", body(colour="red")),
    ("/multimask", body(multimask=2)),
    ("/multimask", body(multimask="all")),
    ("/multimask", body(multimask=True)),
    ("/granularity", body(granularity="on")),
    ("/granularity", body(granularity=True)),
    ("/granularity", body(granularity="auto")),
    ("/format", body(format="gif")),
    ("/crop", body(crop="perhaps")),
    ("/tolerance_pixels", body(tolerance_pixels=-1)),
    ("/tolerance_pixels", body(tolerance_pixels=101)),
    ("/tolerance_pixels", body(tolerance_pixels=float("nan"))),
    ("/prompts/1", with_prompt()),
    ("/prompts/1", with_prompt(points=[])),
    ("/prompts/1", with_prompt(mask_id=ID, mask_logits="AAAA")),
    ("/prompts/1", with_prompt(box=[5, 5, 5, 9])),
    ("/prompts/1", with_prompt(box=[5, 9, 6, 5])),
    ("/prompts/1/box", with_prompt(box=[1, 2, 3, 4, 5])),
    ("/prompts/1/box/3", with_prompt(box=[1, 2, 3])),
    ("/prompts/1/box/0", with_prompt(box=["left", 2, 3, 4])),
    ("/prompts/1/box/2", with_prompt(box=[1, 2, float("inf"), 4])),
    ("/prompts/1/size", with_prompt(**point(1, 1), size=3)),
    ("/prompts/1/points", with_prompt(points=point(1, 1)["points"] * 65)),
    ("/prompts/1/points/0", with_prompt(points=[[1]])),
    ("/prompts/1/points/0/x", with_prompt(points=[{"y": 1}])),
    ("/prompts/1/points/0/x", with_prompt(**point(1e7, 1))),
    ("/prompts/1/points/0/y", with_prompt(**point(1, float("nan")))),
    ("/prompts/1/points/0/y", with_prompt(**point(1, -1e7))),
    ("/prompts/1/points/0/label", with_prompt(**point(1, 1, label=2))),
    ("/prompts/1/points/0/label", with_prompt(**point(1, 1, label=-1))),
    ("/prompts/1/points/0/label", with_prompt(**point(1, 1, label=True))),
    ("/prompts/1/points/0/label", with_prompt(**point(1, 1, label="1"))),
    ("/prompts/1/points/0/z", with_prompt(points=[{"x": 1, "y": 1, "z": 1}])),
    ("/prompts/1/mask_id", with_prompt(mask_id="0" * 31)),
    ("/prompts/1/mask_logits", with_prompt(mask_logits="A" * 200_001)),
    ("/prompts/1/mask_logits", with_prompt(mask_logits="****")),
    ("/prompts/1/mask_logits", with_prompt(mask_logits="größe")),
    ("/prompts/1/mask_logits", with_prompt(mask_logits="AAAA")),
    ("/prompts/1/mask_logits", with_prompt(mask_logits=NOT_FINITE)),
    ("/", [1, 2]),
    ("/", "text"),
]


@pytest.mark.parametrize(("where", "asked"), RULES)
def test_a_broken_rule_is_answered_with_its_place(client, where, asked):
    response = client.post("/segment", content=json.dumps(asked), headers={"Content-Type": "application/json"})

    document = assert_problem(response, InvalidRequest)
    assert [error["where"] for error in document["errors"]] == [where]
    assert document["errors"][0]["message"]
    assert document["detail"].startswith(where)


def test_several_broken_rules_are_listed_together(client):
    asked = body(image_hash="x", format="gif", prompts=[{"points": [{"x": "a", "y": "b"}]}])

    document = assert_problem(client.post("/segment", json=asked), InvalidRequest)

    places = ["/image_hash", "/prompts/0/points/0/x", "/prompts/0/points/0/y", "/format"]
    assert [error["where"] for error in document["errors"]] == places
    assert "3 more" in document["detail"]


def test_at_most_ten_broken_rules_are_listed(client):
    asked = body(prompts=[{}] * 50)

    document = assert_problem(client.post("/segment", json=asked), InvalidRequest)

    assert len(document["errors"]) == 10


@pytest.mark.parametrize(
    "content", [b"{", b"not json", b"\xff\xfe", b"{'image_hash': 1}", b'{"a": "\\ud800"}', b"[" * 100_000, b" "]
)
def test_a_body_that_is_not_json_is_malformed(client, content):
    assert_problem(client.post("/segment", content=content), MalformedBody)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", None])
def test_the_content_type_of_json_does_not_matter(client, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = client.post("/segment", content=json.dumps(body(colour="red")), headers=headers)

    assert_problem(response, InvalidRequest)
