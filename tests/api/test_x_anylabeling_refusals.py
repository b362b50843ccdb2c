"""X-AnyLabeling's predictions are refused with status 200, because the application erases all shapes after an error.

Metrics and access log have every refusal as the problem that it is.
"""

import hashlib
import json

import httpx
import pytest
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.service_client import Scrape, open_client, request_line, wait_for_in_flight
from support.service_process import ServiceProcess
from support.tool_images import as_base64, as_data_uri

from service.app import create_app
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    Forbidden,
    ImageTooLarge,
    InvalidRequest,
    MalformedBody,
    NotReady,
    Overloaded,
    PromptOutsideImage,
    RateLimited,
    Unauthorized,
    UndecodableImage,
    UnsupportedImage,
)
from service.settings import Settings

PREDICT = "/v1/predict"
POINT = {"type": "point", "data": [5, 5], "label": 1}
NOTHING = {"shapes": [], "description": "", "replace": False}
KEYS = {
    "uploader": {"roles": ["embed"]},
    "metered": {"roles": ["embed", "segment"], "limits": {"embed": {"per_s": 0.01, "burst": 1}}},
}


def body(image, *marks, model="edgesam-lite", **params):
    return {"model": model, "image": image, "params": {"marks": list(marks), **params}}


def assert_refusal(response, code):
    """Assert that an answer is the refusal of a prediction, and return its message."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document == {
        "success": False,
        "error": {"code": code, "message": document["error"]["message"]},
        "data": NOTHING,
    }
    return document["error"]["message"]


@pytest.fixture(scope="module")
def small(artifact, tmp_path_factory):
    """A process with keys, whose bound for images is small."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    entries = [
        {"name": name, "sha256": hashlib.sha256(key_of(name).encode()).hexdigest(), **entry}
        for name, entry in KEYS.items()
    ]
    keys.write_text(json.dumps(entries))
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_ADAPTERS": "x-anylabeling",
        "EDGESAM_API_KEYS_FILE": str(keys),
        "EDGESAM_MAX_IMAGE_PIXELS": "10000",
        "EDGESAM_METRICS_ACCESS": "open",
    }
    with ServiceProcess(settings) as service:
        yield service


def key_of(name):
    return f"esk_the-key-called-{name}-0123456789"


@pytest.fixture(scope="module")
def model(tools):
    return tools.get("/models").json()["models"][0]["name"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "yolo11n"}, InvalidRequest),
        ({"image": None}, InvalidRequest),
        ({"image": as_base64(b"text")}, UnsupportedImage),
        ({"image": as_base64(noise_file((20, 20))[:300])}, UndecodableImage),
        ({"image": "A" * 533_340}, BodyTooLarge),
        ({"image": "not base64!"}, MalformedBody),
        ({"params": {"marks": [{**POINT, "data": [81, 5]}]}}, PromptOutsideImage),
        ({"params": {"marks": [{**POINT, "label": 2}]}}, InvalidRequest),
        ({"params": {"marks": [POINT] * 65}}, InvalidRequest),
        ({"params": {"marks": [{"type": "point", "data": [1, 2, 3]}]}}, InvalidRequest),
        ({"params": {"marks": [{"type": "circle", "data": [1, 2]}]}}, InvalidRequest),
        ({"params": {"marks": [{"type": "rectangle", "data": [1, 2, 9, 9], "label": 0}]}}, InvalidRequest),
        ({"params": {"marks": [POINT], "epsilon_factor": -1}}, InvalidRequest),
        ({"params": {"text_prompt": "a dog"}}, InvalidRequest),
    ],
)
def test_a_request_that_cannot_be_translated_keeps_the_shapes(tools, model, change, error):
    image = as_data_uri(noise_file((60, 80), seed=601))

    response = tools.post(PREDICT, json={**body(image, POINT, model=model), **change})

    assert assert_refusal(response, error.code)


def test_a_body_that_is_no_json_or_too_large_keeps_the_shapes(tools):
    assert_refusal(tools.post(PREDICT, content=b"{"), MalformedBody.code)
    assert_refusal(tools.post(PREDICT, content=b""), MalformedBody.code)
    assert_refusal(tools.post(PREDICT, content=bytes(700_000)), BodyTooLarge.code)


def test_a_text_prompt_is_refused_by_name(tools, model):
    response = tools.post(PREDICT, json=body(as_base64(noise_file((20, 20))), model=model, text_prompt="a dog"))

    assert "/params/text_prompt" in assert_refusal(response, InvalidRequest.code)


def test_a_refusal_counts_as_its_problem_in_metrics_and_log(small):
    with open_client(small.url, headers={"Token": "unknown"}) as client:
        before = Scrape(client)
        response = client.post(PREDICT, json={}, headers={"X-Request-ID": "refused-1"})
        after = Scrape(client)

    assert assert_refusal(response, Unauthorized.code)
    assert "www-authenticate" not in response.headers
    counted = [
        scrape.value("edgesam_http_request_duration_seconds_count", route=PREDICT, status="401")
        for scrape in (before, after)
    ]
    assert counted[1] == counted[0] + 1
    assert after.value("edgesam_http_request_duration_seconds_count", route=PREDICT, status="200") == 0
    assert after.value("edgesam_rejected_total", reason="unauthorized") >= 1
    line = request_line(small, "refused-1")
    assert (line["status"], line["problem"]) == (401, "unauthorized")


def test_refusals_by_key_and_image_size_keep_the_shapes(small):
    with open_client(small.url, headers={"Token": key_of("metered")}) as client:
        model = client.get("/models").json()["models"][0]["name"]
    large = body(as_base64(noise_file((200, 100))), model=model)
    with open_client(small.url) as client:
        forbidden = client.post(PREDICT, json=large, headers={"Token": key_of("uploader")})
        metered = [client.post(PREDICT, json=large, headers={"Token": key_of("metered")}) for _ in range(2)]

    assert_refusal(forbidden, Forbidden.code)
    assert [answer.json()["error"]["code"] for answer in metered] == [ImageTooLarge.code, RateLimited.code]


def test_full_permits_and_a_stalled_body_keep_the_shapes(artifact):
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_ADAPTERS": "x-anylabeling",
        "EDGESAM_MAX_EMBED_REQUESTS": "1",
        "EDGESAM_BODY_TIMEOUT_S": "2",
    }
    with (
        ServiceProcess(settings) as service,
        open_client(service.url) as client,
        RawConnection(service.url) as stalling,
    ):
        stalling.start(PREDICT, "Content-Length: 1000")
        wait_for_in_flight(client, PREDICT)

        beyond = client.post(PREDICT, json={})
        stalled = stalling.response()

    assert_refusal(beyond, Overloaded.code)
    assert_refusal(stalled, BodyTimeout.code)


def test_a_missed_deadline_and_the_stop_keep_the_shapes(artifact):
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_ADAPTERS": "x-anylabeling",
        "EDGESAM_EMBED_TIMEOUT_S": "0.001",
        "EDGESAM_DRAIN_S": "0",
        "EDGESAM_GRACEFUL_TIMEOUT_S": "1",
    }
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        model = client.get("/models").json()["models"][0]["name"]
        late = client.post(PREDICT, json=body(as_base64(noise_file((60, 80))), model=model))
        with RawConnection(service.url) as stalling:
            stalling.start(PREDICT, "Content-Length: 1000")
            wait_for_in_flight(client, PREDICT)
            service.terminate()
            stopped = stalling.response()

    assert_refusal(late, DeadlineExceeded.code)
    assert_refusal(stopped, NotReady.code)


async def test_a_failure_of_our_own_keeps_the_shapes(artifact, monkeypatch):
    app = create_app(Settings(model_dir=artifact, adapters=["x-anylabeling"]))
    monkeypatch.setattr("service.api.adapters.x_anylabeling._parse", lambda _: 1 / 0)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        response = await client.post(PREDICT, json={})
        metrics = await client.get("/metrics")

    assert "secret" not in assert_refusal(response, "internal-error")
    assert f'route="{PREDICT}",status="500"' in metrics.text


def test_other_methods_and_routes_of_the_adapter_answer_problems(tools):
    assert tools.get(PREDICT).status_code == 405
    assert tools.get("/v1/models/other/info").status_code == 422
