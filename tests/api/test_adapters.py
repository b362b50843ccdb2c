"""Properties of every adapter: it is switched on by name, counted, documented, and bounded like an upload."""

import json
import socket
from time import perf_counter
from typing import get_args

import httpx
import pytest
from pydantic import ValidationError
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.service_client import PROBLEM, Scrape, assert_problem, open_client, wait_for_in_flight
from support.service_process import ServiceProcess
from support.tool_images import as_base64

from service.api.adapters import ADAPTERS
from service.errors import BodyTooLarge, Overloaded, Unauthorized
from service.settings import Settings

CVAT = "/api/function_invocations"
REFUSING_WITH_200 = "/v1/predict"  # see test_x_anylabeling_refusals.py
POSTS = ("/label-studio/predict", "/sam/segment_image", "/sam2/segment_image", CVAT, f"/cvat{CVAT}")


def test_the_setting_names_the_existing_adapters(monkeypatch):
    monkeypatch.setenv("EDGESAM_ADAPTERS", " label-studio,x-anylabeling ,, roboflow")

    settings = Settings()

    (kind,) = get_args(Settings.model_fields["adapters"].annotation)
    assert settings.adapters == ["label-studio", "x-anylabeling", "roboflow"]
    assert set(get_args(kind)) == set(ADAPTERS)


@pytest.mark.parametrize(
    ("name", "value"), [("ADAPTERS", "labelstudio"), ("ADAPTERS", "[]"), ("LABEL_STUDIO_FILES", "/nowhere")]
)
def test_an_invalid_adapter_setting_ends_the_start(monkeypatch, name, value):
    monkeypatch.setenv(f"EDGESAM_{name}", value)

    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_every_address_of_an_adapter_is_documented_with_its_problems(tools):
    paths = tools.get("/openapi.json").json()["paths"]

    ids = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(set(ids)) == len(ids)
    for path in POSTS:
        operation = paths[path]["post"]
        assert operation["summary"]
        assert operation["requestBody"]["required"]
        for status in ("400", "413", "415", "422", "503", "504"):
            assert set(operation["responses"][status]["content"]) == {PROBLEM}


@pytest.mark.parametrize("path", POSTS)
def test_a_request_without_a_key_is_refused(tools, path):
    assert_problem(httpx.post(f"{tools.base_url}{path}", json={}, trust_env=False), Unauthorized)


@pytest.mark.parametrize("path", POSTS)
def test_a_body_larger_than_any_upload_is_refused_unread(tools, path):
    too_many = 400_000 * 4 // 3 + 100_000 + 1
    headers = {"x-nuclio-function-name": "edgesam"}

    document = assert_problem(tools.post(path, content=bytes(too_many), headers=headers), BodyTooLarge)

    assert document["limit"] == too_many - 1


@pytest.mark.parametrize("path", POSTS)
def test_an_image_larger_than_an_upload_is_refused(tools, path):
    image = "A" * 533_340
    asked = {
        "/label-studio/predict": {
            "tasks": [{"data": {"image": image}}],
            "label_config": '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"/></View>',
        },
        "/sam/segment_image": {
            "image": {"type": "base64", "value": image}, "point_coords": [[1, 1]], "point_labels": [1],
        },
        "/sam2/segment_image": {
            "image": {"type": "base64", "value": image},
            "prompts": {"prompts": [{"points": [{"x": 1, "y": 1, "positive": True}]}]},
        },
    }.get(path, {"image": image, "pos_points": [[1, 1]], "neg_points": []})  # fmt: skip

    answer = tools.post(path, json=asked, headers={"x-nuclio-function-name": "edgesam"})

    assert assert_problem(answer, BodyTooLarge)["limit"] == 400_000


def test_requests_are_measured_under_their_route(tools):
    paths = {*POSTS, REFUSING_WITH_200}
    for path in paths:
        tools.post(path, json={})

    routes = Scrape(tools).labels("edgesam_http_request_duration_seconds_count", "route")

    assert paths <= routes


def test_a_tools_click_counts_in_the_objective_of_clicks_once_its_image_is_embedded(tools, next_seed):
    body = {
        "image": as_base64(noise_file((40, 50), next_seed)), "pos_points": [[9, 9]], "neg_points": [],
    }  # fmt: skip

    def counts():
        scrape = Scrape(tools)
        return [
            scrape.value("edgesam_objective_duration_seconds_count", objective=objective)
            for objective in ("images", "clicks")
        ]

    def click(content):
        answer = tools.post(CVAT, json=content, headers={"x-nuclio-function-name": "edgesam"})
        return answer.status_code, counts()

    images, clicks = counts()

    assert click(body) == (200, [images + 1, clicks])  # it computes the embedding
    assert click(body) == (200, [images + 1, clicks + 1])
    assert click({**body, "pos_points": []}) == (422, [images + 1, clicks + 1])


def test_a_slow_upload_does_not_count_against_the_objective_of_clicks(tools, next_seed):
    content = json.dumps({"image": as_base64(noise_file((40, 50), next_seed)), "pos_points": [[9, 9]]}).encode()
    headers = [
        f"Content-Length: {len(content)}", "x-nuclio-function-name: edgesam",
        f"Authorization: {tools.headers['authorization']}",
    ]  # fmt: skip
    tools.post(CVAT, content=content, headers={"x-nuclio-function-name": "edgesam"})
    before = Scrape(tools).value("edgesam_objective_duration_seconds_sum", objective="clicks")
    with RawConnection(str(tools.base_url)) as slow:
        slow.start(CVAT, *headers)
        wait_for_in_flight(tools, CVAT)
        slow.send(content[:100])
        began = perf_counter()
        for _ in range(20):
            tools.get("/models")  # as long as the body is incomplete, the click waits
        sent = perf_counter()
        slow.send(content[100:])
        assert slow.response().status_code == 200
        answered_s = perf_counter() - sent

    counted_s = Scrape(tools).value("edgesam_objective_duration_seconds_sum", objective="clicks") - before
    # The service may still count for a moment after its answer, but not the time of the upload.
    assert counted_s < answered_s + (sent - began) / 2


def test_a_tool_holds_the_permit_of_an_upload(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_ADAPTERS": "roboflow", "EDGESAM_MAX_EMBED_REQUESTS": "1"}
    with (
        ServiceProcess(settings) as service,
        open_client(service.url) as client,
        RawConnection(service.url) as waiting,
    ):
        waiting.start("/sam2/embed_image", "Content-Length: 10")
        wait_for_in_flight(client, "/sam2/embed_image")

        assert_problem(client.post("/sam2/segment_image", json={}), Overloaded)
        assert_problem(client.post("/embed", content=b"text"), Overloaded)


def test_the_service_never_connects_to_an_address_in_a_request(tools):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/image.png"
        config = '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"/></View>'
        named = {"image": {"type": "url", "value": address}}
        bodies = {
            "/embed": address,
            "/segment": json.dumps({"image_hash": address, "image": address, "prompts": [{"points": []}]}),
            "/label-studio/predict": json.dumps({"tasks": [{"data": {"image": address}}], "label_config": config}),
            "/sam/embed_image": json.dumps(named),
            "/sam/segment_image": json.dumps({**named, "point_coords": [[1, 1]]}),
            "/sam2/segment_image": json.dumps({**named, "prompts": {}}),
            CVAT: json.dumps({"image": address, "pos_points": [[1, 1]]}),
            REFUSING_WITH_200: json.dumps({"model": "x", "image": address, "params": {}}),
        }
        headers = {
            "Referer": address, "Origin": address, "Host": "169.254.169.254", "X-Forwarded-Host": address,
            "x-nuclio-function-name": "edgesam",
        }  # fmt: skip

        answers = {path: tools.post(path, content=body, headers=headers) for path, body in bodies.items()}

        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()

    assert answers.pop(REFUSING_WITH_200).json()["success"] is False
    assert all(400 <= answer.status_code < 500 and answer.status_code != 404 for answer in answers.values()), answers
