"""The OpenAPI document is consistent and matches the service: its examples work, its problems occur."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.everything_requests import find_all, stream
from support.noise_images import noise_file
from support.service_client import PROBLEM, assert_problem, embed, point

from service.api.everything_schemas import EverythingLine, EverythingRequest, EverythingResponse
from service.api.model_schemas import ReloadRequest
from service.api.schemas import SegmentRequest, SegmentResponse
from service.errors import (
    EmbeddingNotFound,
    InvalidRequest,
    MalformedBody,
    NotAcceptable,
    UnsupportedImage,
)

METHODS = {"get", "head", "post", "put", "patch", "delete", "options", "trace"}
UNKNOWN = "3" * 64


@pytest.fixture(scope="module")
def document(client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from nodes(item)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each (path, method, operation)."""
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def resolved(document: dict[str, Any], reference: str) -> Any:
    """Return the schema that a `$ref` points to."""
    assert reference.startswith("#/")
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def test_the_document_has_the_members_that_openapi_3_1_requires(document):
    ids = [operation["operationId"] for _, _, operation in operations(document)]

    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    assert len(set(ids)) == len(ids)
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert operation["summary"], (path, method)
        assert operation["responses"]
        in_path = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        parameters = operation.get("parameters", [])
        assert {one["name"] for one in parameters if one["in"] == "path"} == in_path
        assert all(one["required"] for one in parameters if one["in"] == "path")
        for status, response in operation["responses"].items():
            assert 100 <= int(status) < 600
            assert response["description"]


def test_every_reference_resolves(document):
    references = [node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)]

    assert references
    for reference in references:
        assert isinstance(resolved(document, reference), dict)


def test_every_address_of_the_contract_is_documented(document):
    found = {(path, method) for path, method, _ in operations(document)}

    assert found >= {
        ("/embed", "post"), ("/embed/{image_hash}", "head"), ("/embed/{image_hash}", "delete"), ("/segment", "post"),
        ("/embed/{image_hash}", "get"), ("/models", "get"), ("/livez", "get"), ("/readyz", "get"), ("/metrics", "get"),
    }  # fmt: skip


def test_routes_have_the_documented_operation_ids(document):
    ids = {operation["operationId"] for _, _, operation in operations(document)}

    assert ids >= {"embed", "is_embedded", "forget", "segment", "models", "livez", "readyz", "metrics"}


def test_the_ways_to_send_a_key_are_documented(document):
    assert document["security"] == [{}, {"bearer": []}, {"key": []}]
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}


def test_bodies_are_documented(document):
    bodies = {
        path: operation.get("requestBody") for path, method, operation in operations(document) if method == "post"
    }

    assert bodies.keys() == {"/embed", "/segment", "/segment/everything", "/models/reload"}
    assert not bodies["/models/reload"]["required"]
    assert set(bodies["/embed"]["content"]) >= {"image/jpeg", "image/png", "multipart/form-data"}
    for path, model in (
        ("/segment", SegmentRequest),
        ("/segment/everything", EverythingRequest),
        ("/models/reload", ReloadRequest),
    ):
        schema = resolved(document, bodies[path]["content"]["application/json"]["schema"]["$ref"])
        assert set(schema["properties"]) == set(model.model_fields)
        assert schema["additionalProperties"] is False


def test_examples_of_requests_are_accepted_by_the_schema_and_by_the_service(client, document):
    image_hash = embed(client, noise_file((480, 640), seed=80))
    example = document["components"]["schemas"]["SegmentRequest"]["example"]
    real = {**copy.deepcopy(example), "image_hash": image_hash}

    SegmentRequest.model_validate_json(json.dumps(example))
    response = client.post("/segment", json=real)

    assert response.status_code == 200
    assert len(response.json()["results"]) == len(example["prompts"])


def test_answers_have_exactly_the_documented_members(client, document):
    image_hash = embed(client, noise_file((40, 40), seed=81))
    schemas = document["components"]["schemas"]
    always = {"score", "stability", "predicted_iou", "area", "box", "mask_id"}

    members = {
        "none": set(),
        "alpha": {"alpha", "alpha_box"},
        **{name: {name} for name in ("rle", "png", "polygon", "logits")},
    }

    for name, of_format in members.items():
        body = {"image_hash": image_hash, "prompts": [point(9, 9)], "format": name}
        text = client.post("/segment", json=body).text
        (result,) = SegmentResponse.model_validate_json(text).results
        assert len(result.masks) == 4
        for mask in json.loads(text)["results"][0]["masks"]:
            assert set(mask) == always | of_format
    assert set(schemas["MaskModel"]["properties"]) == always.union(*members.values())


def test_answers_and_lines_of_everything_mode_have_exactly_the_documented_members(client, document):
    image_hash = embed(client, noise_file((40, 40), seed=81))
    schemas = document["components"]["schemas"]

    answer = find_all(client, image_hash)
    lines = list(stream(client, image_hash))

    EverythingResponse.model_validate_json(json.dumps(answer))
    assert set(answer) == set(schemas["EverythingResponse"]["properties"])
    assert set(answer["parameters"]) == set(schemas["EverythingParameters"]["properties"])
    assert set(answer["masks"][0]) == set(schemas["EverythingMaskModel"]["properties"])
    assert {line["event"] for line in lines} >= {"start", "progress", "mask", "end"}
    for line in lines:
        EverythingLine.model_validate_json(json.dumps(line))
        reference = schemas["EverythingLine"]["discriminator"]["mapping"][line["event"]]
        assert set(line) == set(resolved(document, reference)["properties"])


@pytest.mark.parametrize(
    ("method", "path", "schema"),
    [("GET", "/models", "ModelsResponse"), ("GET", "/readyz", "ReadyModel"), ("GET", "/livez", "LiveModel")],
)
def test_small_answers_have_exactly_the_documented_members(client, document, method, path, schema):
    response = client.request(method, path)

    assert response.status_code == 200
    assert set(response.json()) == set(document["components"]["schemas"][schema]["properties"])


def test_every_documented_failure_is_a_problem_document(document):
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if method == "head":  # its answers have no body, and generated clients would try to read it
                assert "content" not in response, (path, status)
            elif int(status) >= 400:
                assert set(response["content"]) == {PROBLEM}, (path, method, status)
                reference = response["content"][PROBLEM]["schema"]["$ref"]
                assert reference == "#/components/schemas/ProblemModel"


def test_the_documented_problem_has_the_members_of_a_real_one(client, document):
    real = assert_problem(client.delete(f"/embed/{UNKNOWN}"), EmbeddingNotFound)

    schema = document["components"]["schemas"]["ProblemModel"]
    assert set(schema["properties"]) == set(schema["required"]) == set(real)
    assert schema["additionalProperties"] is True


@pytest.mark.parametrize(
    ("method", "path", "request_", "error"),
    [
        ("POST", "/embed", {"content": b""}, MalformedBody),
        ("POST", "/embed", {"content": b"text"}, UnsupportedImage),
        ("POST", "/segment", {"content": b""}, MalformedBody),
        ("POST", "/segment", {"content": b"{}"}, InvalidRequest),
        ("POST", "/segment", {"json": {"image_hash": UNKNOWN, "prompts": [point(1, 1)]}}, EmbeddingNotFound),
        (
            "POST",
            "/segment",
            {"json": {"image_hash": UNKNOWN, "prompts": [point(1, 1)]}, "headers": {"Accept": "text/html"}},
            NotAcceptable,
        ),
        ("DELETE", f"/embed/{UNKNOWN}", {}, EmbeddingNotFound),
        ("DELETE", "/embed/x", {}, InvalidRequest),
        ("GET", f"/embed/{UNKNOWN}", {}, EmbeddingNotFound),
    ],
)
def test_a_problem_that_occurs_is_documented_for_its_route(client, document, method, path, request_, error):
    response = client.request(method, path, **request_)

    template = "/embed/{image_hash}" if path.startswith("/embed/") else path
    assert_problem(response, error)
    assert str(response.status_code) in document["paths"][template][method.lower()]["responses"]


def test_the_document_can_be_read_in_a_browser(client):
    response = client.get("/docs")

    assert response.status_code == 200
    assert 'url: "openapi.json"' in response.text


def test_405_lists_all_methods_of_the_route(client):
    response = client.put(f"/embed/{'0' * 64}")

    assert response.status_code == 405
    assert response.headers["allow"] == "DELETE, GET, HEAD"
