"""Bodies and addresses that other programs write a little differently, which are accepted or refused by name."""

import base64
import gzip
import json

import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, embed, point, segment

from service.errors import BodyTooLarge, InvalidRequest, MalformedBody, UnsupportedEncoding, UnsupportedImage

DATA = noise_file((40, 60), seed=5)
BOM = b"\xef\xbb\xbf"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def image_hash(client) -> str:
    return embed(client, DATA)


def ask(client, image_hash, *prompts, **options):
    return client.post("/segment", json={"image_hash": image_hash, "prompts": list(prompts), **options})


def test_upper_case_hashes_name_the_same_image_and_mask(client, image_hash):
    (masks,) = segment(client, image_hash, point(20, 20), multimask=1)

    answer = ask(client, image_hash.upper(), {**point(20, 20), "mask_id": masks[0]["mask_id"].upper()})

    assert answer.status_code == 200
    assert answer.json()["image_hash"] == image_hash
    assert client.head(f"/embed/{image_hash.upper()}").status_code == 200


@pytest.mark.parametrize(
    "points",
    [
        [{"x": 20, "y": 20, "label": 1.0}, {"x": 5, "y": 5, "label": 0.0}],
        [[20, 20], [5, 5, 0]],
        [[20, 20, 1], {"x": 5, "y": 5, "label": 0}],
    ],
)
def test_points_as_numbers_and_whole_labels_are_points(client, image_hash, points):
    expected = segment(client, image_hash, {"points": [{"x": 20, "y": 20}, {"x": 5, "y": 5, "label": 0}]})

    assert segment(client, image_hash, {"points": points}, multimask=1.0) == expected


@pytest.mark.parametrize("points", [[[20]], [[20, 20, 1, 1]], [[20, 20, 2]], [[20, 20, 0.5]], [20, 20], [[20, "x"]]])
def test_other_lists_are_no_points(client, image_hash, points):
    document = assert_problem(ask(client, image_hash, {"points": points}), InvalidRequest)

    assert document["errors"][0]["where"].startswith("/prompts/0/points/0")


def test_messages_of_rules_have_no_prefix_of_the_library(client, image_hash):
    answers = [
        ask(client, image_hash, {}),
        ask(client, image_hash, point(1, 1), multimask=True),
        client.head("/embed/0"),
        client.get("/embed/0"),
    ]

    for answer in answers:
        assert answer.status_code == 422
        assert "Value error" not in answer.text


def test_json_may_begin_with_a_byte_order_mark(client, tools, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(20, 20)]}
    image = {"type": "base64", "value": base64.b64encode(DATA).decode()}

    segmented = client.post("/segment", content=BOM + json.dumps(body).encode())
    embedded = client.post("/embed", content=BOM + json.dumps({"image": image["value"]}).encode(), headers=JSON)
    adapted = tools.post("/sam2/embed_image", content=BOM + json.dumps({"image": image}).encode())

    assert [answer.status_code for answer in (segmented, embedded, adapted)] == [200, 200, 200]


def test_a_slash_at_the_end_of_an_address_changes_nothing(client, image_hash):
    body = {"image_hash": image_hash, "prompts": [point(20, 20)]}

    assert client.post("/segment/", json=body).json() == client.post("/segment", json=body).json()
    assert client.post("/embed/", content=DATA).json()["image_hash"] == image_hash
    assert client.head(f"/embed/{image_hash}/").status_code == 200
    for path in ("/models", "/livez", "/readyz", "/openapi.json", "/web/edgesam.js"):
        assert client.get(f"{path}/").content == client.get(path).content
    assert client.get("//").status_code == 200
    assert client.get("/nothing/").status_code == 404


def test_the_documentation_with_a_slash_refers_to_the_same_files(client):
    page, below = client.get("/docs").text, client.get("/docs/")

    assert below.status_code == 200
    assert below.text.replace("../", "") == page
    assert 'src="../docs/swagger-ui-bundle.js"' in below.text
    assert below.headers["content-security-policy"] != client.get("/docs").headers["content-security-policy"]


@pytest.mark.parametrize("before", ["", "data:image/png;base64,", "data:;BASE64,"])
def test_embed_takes_base64_in_json(client, image_hash, before):
    image = before + base64.encodebytes(DATA).decode()

    answer = client.post("/embed", json={"image": image})

    assert answer.status_code == 200
    assert answer.json()["image_hash"] == image_hash


def test_embed_takes_the_fields_of_a_form_in_json(client, image_hash):
    image = base64.b64encode(DATA).decode()

    answer = client.post(
        "/embed", json={"image": image, "levels": "minmax"}, headers={"Content-Type": "Application/JSON"}
    )
    refused = client.post("/embed", json={"image": image, "levels": "bright"})

    assert answer.json()["image_id"] == f"{image_hash}~levels=minmax"
    assert "levels" in assert_problem(refused, InvalidRequest)["detail"]


@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        (b"{", MalformedBody, "not JSON"),
        (b"{}", InvalidRequest, "/image: Field required"),
        (b'{"image": 1}', InvalidRequest, "/image"),
        (b'{"image": ""}', MalformedBody, "empty"),
        (b'{"image": "%%%%"}', MalformedBody, "not base64"),
        (b'{"image": "data:image/png,x"}', MalformedBody, "not base64"),
        (b'{"image": "", "url": "http://a"}', InvalidRequest, "/url"),
        (b'{"image": [' + b"[]," * 100 + b"[]]}", InvalidRequest, "more members"),
        (b'{"image": "' + base64.b64encode(b"<html><body>Sign in") + b'"}', UnsupportedImage, "HTML page"),
    ],
)
def test_other_json_is_refused_by_embed(client, body, error, reason):
    assert reason in assert_problem(client.post("/embed", content=body, headers=JSON), error)["detail"]


def test_an_image_in_json_has_the_bound_of_an_upload(limited_client):
    fits, large = (base64.encodebytes(bytes(size)).decode() for size in (60_000, 60_001))

    for_content = limited_client.post("/embed", json={"image": fits})
    too_large = limited_client.post("/embed", json={"image": large})
    far_too_large = limited_client.post("/embed", json={"image": "A" * 400_000})

    assert_problem(for_content, UnsupportedImage)
    assert assert_problem(too_large, BodyTooLarge)["limit"] == 60_000
    assert_problem(far_too_large, BodyTooLarge)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (base64.b64encode(DATA), "begins like base64"),
        (base64.encodebytes(DATA), "begins like base64"),
        (base64.urlsafe_b64encode(bytes(range(256))), "begins like base64"),
        (b"data:image/png;base64," + base64.b64encode(DATA), "is a data: URI"),
        (gzip.compress(DATA), "is compressed with gzip"),
        (b"\n<!DOCTYPE html><html><title>Sign in</title>", "is an HTML page"),
        (BOM + b"<HTML>", "is an HTML page"),
        (b'<?xml version="1.0"?><svg/>', "is XML"),
        (b'{"image": "AAAA"}', "looks like JSON"),
    ],
)
@pytest.mark.parametrize("as_form", [False, True])
def test_an_upload_that_begins_like_something_else_is_refused_by_its_name(client, body, reason, as_form):
    upload = {"files": {"image": body}} if as_form else {"content": body, "headers": {"Content-Type": "image/png"}}

    document = assert_problem(client.post("/embed", **upload), UnsupportedImage)

    assert document["detail"].startswith("The upload ")
    assert reason in document["detail"]


@pytest.mark.parametrize(("path", "body"), [("/embed", DATA), ("/segment", b"{}")])
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(client, path, body, encoding):
    response = client.post(path, content=gzip.compress(body), headers={"Content-Encoding": encoding})

    assert encoding.lower() in assert_problem(response, UnsupportedEncoding)["detail"]
    assert response.headers["accept-encoding"] == "identity"


def test_the_encoding_identity_is_none(client, image_hash):
    response = client.post("/embed", content=DATA, headers={"Content-Encoding": "identity"})

    assert response.json()["image_hash"] == image_hash
