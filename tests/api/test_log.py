"""The log: one JSON line for each request, with the durations of its stages and without image content."""

import json
import re

import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, assert_problem_document, embed, point, request_line

from service.errors import MalformedBody


def test_a_request_is_one_line_with_its_stages(limited, limited_client):
    data = noise_file((26, 26), seed=70)

    limited_client.post("/embed", content=data, headers={"X-Request-ID": "embed-1"})

    line = request_line(limited, "embed-1")
    assert (line["method"], line["route"], line["status"], line["level"]) == ("POST", "/embed", 200, "info")
    assert line["cached"] is None
    assert {"hash", "decode_image", "preprocess", "queue", "encode", "prepare"} <= set(line["stages_ms"])
    assert sum(line["stages_ms"].values()) <= line["duration_ms"] + 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_the_line_of_a_prompt_request_has_the_number_of_prompts_and_no_prompt(limited, limited_client):
    image_hash = embed(limited_client, noise_file((27, 27), seed=71))
    body = {"image_hash": image_hash, "prompts": [point(3.125, 1)] * 3}

    limited_client.post("/segment", json=body, headers={"X-Request-ID": "segment-1"})

    line = request_line(limited, "segment-1")
    assert (line["route"], line["status"], line["prompts"]) == ("/segment", 200, 3)
    assert {"decode", "postprocess", "serialize"} <= set(line["stages_ms"])
    assert "3.125" not in json.dumps(line)


def test_the_line_of_a_refused_request_has_the_problem_code(limited, limited_client):
    response = limited_client.post("/embed", headers={"X-Request-ID": "empty-1"})

    assert_problem(response, MalformedBody)
    line = request_line(limited, "empty-1")
    assert (line["status"], line["problem"]) == (400, "malformed-body")


def test_neither_image_nor_text_of_clients_appears_in_the_log(limited, limited_client):
    noise = b"\xff\xd8\xffsecret-marker" + bytes(range(256)) * 20

    limited_client.post("/embed", content=noise, headers={"X-Request-ID": "broken-1"})
    limited_client.get("/secret-marker", headers={"X-Request-ID": "path-1", "User-Agent": "secret-marker"})
    limited_client.post("/segment", json={"secret-marker": 1}, headers={"X-Request-ID": "json-1"})

    for request_id in ("broken-1", "path-1", "json-1"):
        request_line(limited, request_id)
    assert "secret-marker" not in json.dumps(limited.log)


def test_health_and_metrics_write_no_lines(limited, limited_client):
    for path in ("/livez", "/readyz", "/metrics"):
        limited_client.get(path, headers={"X-Request-ID": "quiet-1"})

    limited_client.get("/models", headers={"X-Request-ID": "loud-1"})

    request_line(limited, "loud-1")
    assert not [line for line in limited.log if line.get("request_id") == "quiet-1"]


def test_every_line_is_json(limited, limited_client):
    limited_client.get("/models", headers={"X-Request-ID": "json-line"})

    request_line(limited, "json-line")

    assert all({"time", "level", "event", "logger"} <= set(line) for line in limited.log)


def test_the_start_logs_model_and_address(limited):
    events = {line["event"]: line for line in limited.log}

    assert events["ready"]["model"] == "random"
    assert events["ready"]["fingerprint"]
    assert events["listening"]["url"] == limited.url
    assert any("not trained" in event for event in events)


@pytest.mark.parametrize("request_id", ["abc", "A-b_c.9", "x" * 64])
def test_the_clients_request_id_is_kept(client, request_id):
    response = client.get("/models", headers={"X-Request-ID": request_id})

    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", 'a"b', "a/b", "é"])
def test_a_request_id_that_is_not_harmless_is_replaced(client, request_id):
    response = client.get("/models", headers={"X-Request-ID": request_id.encode("latin-1")})

    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])


def test_requests_get_different_ids(client):
    ids = {client.get("/models").headers["x-request-id"] for _ in range(5)}

    assert len(ids) == 5


@pytest.mark.parametrize("path", ["/nothing", "/embed/a/b", "/segment/x", "/EMBED"])
def test_an_unknown_address_is_not_found(client, path):
    assert_problem_document(client.get(path), 404, "not-found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/embed"), ("PUT", "/segment"), ("POST", "/models")])
def test_a_missing_method_is_answered_405_with_the_allowed_methods(client, method, path):
    response = client.request(method, path)

    document = assert_problem_document(response, 405, "method-not-allowed")
    assert document["title"]
    assert response.headers["allow"]
