"""The Label Studio adapter. Requests have the form that Label Studio's api_connector.py and editor send."""

import base64
import os

import httpx
import numpy as np
import pytest
from support.brush_regions import brush_pixels
from support.noise_images import as_file, noise_file, noise_image
from support.raw_http import RawConnection
from support.service_client import assert_problem, embed, point, request_line
from support.studio_requests import CONFIG, HEIGHT, WIDTH, body, keypoint, predict, rectangle
from support.tool_images import as_base64, as_data_uri, best_mask

from service.errors import BodyTooLarge, InvalidRequest, MalformedBody, Unauthorized, UnsupportedImage


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=401)


def test_a_backend_connects(tools):
    setup = {"project": "3.17", "schema": CONFIG, "hostname": "http://x", "access_token": "t", "extra_params": None}
    model = tools.get("/models").json()["models"][0]["name"]

    assert tools.get("/label-studio/health").json()["status"] == "UP"
    assert tools.post("/label-studio/setup", json=setup).json() == {"model_version": model}
    assert tools.post("/label-studio/versions", json={"project": "3.17"}).json() == {"versions": [model]}
    assert tools.get("/label-studio/versions").json() == {"versions": [model]}
    assert tools.post("/label-studio/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 201


def test_a_click_becomes_a_brush_region_of_the_mask_that_segment_gives(tools, data):
    expected = best_mask(tools, data, point(40, 15))

    response = predict(tools, as_data_uri(data), keypoint(50, 25))

    (prediction,) = response.json()["results"]
    (region,) = prediction["result"]
    assert response.status_code == 200
    assert region["type"] == "brushlabels"
    assert (region["from_name"], region["to_name"]) == ("brush", "img")
    assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
    assert region["value"]["format"] == "rle"
    assert region["value"]["brushlabels"] == ["Cat"]
    assert 0 <= prediction["score"] <= 1
    assert np.array_equal(brush_pixels(region["value"]["rle"], (HEIGHT, WIDTH)), expected)


def test_clicks_of_both_signs_and_a_rectangle_are_one_prompt(tools, data):
    points = [{"x": 40, "y": 15, "label": 1}, {"x": 8, "y": 54, "label": 0}]
    expected = best_mask(tools, data, {"points": points, "box": [16, 6, 72, 54]})
    clicks = [keypoint(50, 25), keypoint(10, 90, is_positive=False), rectangle(20, 10, 70, 80)]

    (prediction,) = predict(tools, as_data_uri(data), *clicks).json()["results"]

    (region,) = prediction["result"]
    assert region["value"]["brushlabels"] == ["Dog"]
    assert np.array_equal(brush_pixels(region["value"]["rle"], (HEIGHT, WIDTH)), expected)


def test_the_second_click_finds_the_embedding_of_the_first(tools, next_seed):
    image = as_data_uri(noise_file((HEIGHT, WIDTH), seed=next_seed))

    first, second = (predict(tools, image, keypoint(50, 25 + 5 * i)) for i in range(2))

    assert "encode;dur" in first.headers["server-timing"]
    assert "encode;dur" not in second.headers["server-timing"]


def test_opening_a_task_embeds_its_image_for_the_first_click(tools, next_seed):
    image = as_data_uri(noise_file((HEIGHT, WIDTH), seed=next_seed))

    opened = predict(tools, image, context=False)
    click = predict(tools, image, keypoint(50, 25))

    assert opened.json() == {"results": [[]]}
    assert "encode;dur" not in click.headers["server-timing"]


def test_regions_of_other_kinds_are_ignored(tools, data):
    brush = {"type": "brushlabels", "to_name": "img", "value": {"format": "rle", "rle": [0] * 5000, "brushlabels": []}}

    alone = predict(tools, as_data_uri(data), brush)
    beside = predict(tools, as_data_uri(data), keypoint(50, 25), brush)

    assert alone.json() == {"results": [[]]}
    assert len(beside.json()["results"]) == 1


def test_several_tasks_without_a_click_are_all_embedded_ahead(tools, next_seed):
    images = [as_data_uri(noise_file((HEIGHT, WIDTH), seed=next_seed + index)) for index in range(3)]
    tasks = [{"id": index, "data": {"image": image}} for index, image in enumerate(images)]

    response = tools.post("/label-studio/predict", json={**body("", context=False), "tasks": tasks})

    assert response.json() == {"results": [[], [], []]}
    for image in images:
        assert "encode;dur" not in predict(tools, image, keypoint(50, 25)).headers["server-timing"]


def test_an_image_that_cannot_be_embedded_does_not_keep_the_others_from_it(tools, tools_log, next_seed):
    good = as_data_uri(noise_file((HEIGHT, WIDTH), seed=next_seed))
    tasks = [{"data": {"image": image}} for image in ("http://somewhere/x.jpg", 7, "data:image/png;base64,AAAA", good)]

    response = tools.post(
        "/label-studio/predict",
        json={**body("", context=False), "tasks": tasks},
        headers={"X-Request-ID": f"ahead-{next_seed}"},
    )

    assert (response.status_code, response.json()) == (200, {"results": [[]] * 4})
    assert "encode;dur" not in predict(tools, good, keypoint(50, 25)).headers["server-timing"]
    assert "this service does not fetch" in request_line(tools_log, f"ahead-{next_seed}")["detail"]


def test_more_tasks_than_one_request_can_embed_make_label_studio_ask_for_each(tools, data):
    tasks = [{"data": {"image": image}, "annotations": []} for image in (as_data_uri(data), *["http://x/y.png"] * 200)]

    response = tools.post("/label-studio/predict", json={**body("", context=False), "tasks": tasks})

    assert response.json() == {"results": [[]]}


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("a/ä b.png", "/data/local-files/?d=a/%C3%A4%20b.png"),
        ("a/ä b.png", "http://studio:8080/sub/data/local-files/?d=a%2F%C3%A4+b.png"),
        ("upload/3/1f-c d.png", "/data/upload/3/1f-c%20d.png"),
        ("upload/3/1f-c d.png", "https://studio/data/upload/3/1f-c%20d.png"),
        ("upload/3/1f-c d.png", "/label-studio/data/upload/3/1f-c%20d.png"),
        ("upload/3/1f-c d.png", "/storage-data/uploaded/?filepath=upload/3/1f-c%20d.png"),
        ("second.png", "/data/local-files/?d=second.png"),
    ],
)
def test_label_studios_own_files_are_read_from_their_folders(tools, tool_files, data, name, address):
    if name == "second.png":
        tool_files = tool_files.parent / "more files"
    (tool_files / name).parent.mkdir(parents=True, exist_ok=True)
    (tool_files / name).write_bytes(data)

    response = predict(tools, address, keypoint(50, 25))

    expected = predict(tools, as_data_uri(data), keypoint(50, 25))
    rle = [answer.json()["results"][0]["result"][0]["value"]["rle"] for answer in (response, expected)]
    assert rle[0] == rle[1]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png", "..%2fsecret.png", "a/../../secret.png", "/etc/hosts", "link.png", "folder/secret.png", "pipe",
        "nowhere.png", "", ".", "%00", "a" * 300, "~/x.png", "loop",
    ],
)  # fmt: skip
def test_only_regular_files_inside_the_folder_are_read(tools, tool_files, data, path):
    (tool_files.parent / "secret.png").write_bytes(data)
    for name, target in (("link.png", "../secret.png"), ("folder", ".."), ("loop", "loop")):
        (tool_files / name).unlink(missing_ok=True)
        (tool_files / name).symlink_to(target)
    if not (tool_files / "pipe").exists():
        os.mkfifo(tool_files / "pipe")

    responses = [predict(tools, f"/data/{kind}{path}", keypoint(50, 25)) for kind in ("local-files/?d=", "upload/../")]

    for response in responses:
        document = assert_problem(response, InvalidRequest)
        assert (
            "not a readable file in the folder" in document["detail"]
            or "this service does not fetch" in document["detail"]
        )


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data", "https://x/y.png", "s3://bucket/key.jpg", "file:///etc/passwd",
        "HTTP://x", "/data/other/x.png", "http://[", "ftp://x/data/local-filesx?d=a", "/x.png", "/label-studio/x.png",
        "/iVBORw0KGgo", "images/x.png?from=http://y", "/data/upload/3/" + "a" * 5000, "gs://bucket/key.jpg",
    ],
)  # fmt: skip
def test_an_address_is_refused_with_advice_and_not_fetched(tools, address):
    document = assert_problem(predict(tools, address, keypoint(50, 25)), InvalidRequest)

    assert "this service does not fetch" in document["detail"]
    assert "EDGESAM_LABEL_STUDIO_FILES" in document["detail"]


def test_a_file_larger_than_an_upload_is_refused(tools, tool_files):
    (tool_files / "large.png").write_bytes(bytes(400_001))

    assert_problem(predict(tools, "/data/local-files/?d=large.png", keypoint(50, 25)), BodyTooLarge)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tasks": []}, InvalidRequest),
        ({"tasks": "x"}, InvalidRequest),
        ({"tasks": [{"data": {}}]}, InvalidRequest),
        ({"tasks": [{"data": {"image": 4}}]}, InvalidRequest),
        ({"tasks": [{"data": {"image": ""}}]}, MalformedBody),
        ({"tasks": [{"data": {"image": "data:image/png,abc"}}]}, MalformedBody),
        ({"tasks": [{"data": {"image": "data:image/png;base64,a*b="}}]}, MalformedBody),
        ({"tasks": [{"data": {"image": as_base64(b"no image at all")}}]}, UnsupportedImage),
        ({"label_config": ""}, InvalidRequest),
        ({"label_config": "<View"}, InvalidRequest),
        ({"label_config": CONFIG.replace("BrushLabels", "EllipseLabels")}, InvalidRequest),
        ({"label_config": CONFIG.replace("$image", "$image[0].url")}, InvalidRequest),
        ({"label_config": '<!DOCTYPE v [<!ENTITY a "b">]>' + CONFIG}, InvalidRequest),
        ({"params": {"context": {"result": [keypoint(1e300, 5)]}}}, InvalidRequest),
        ({"params": {"context": {"result": [keypoint(5, 5)] * 65}}}, InvalidRequest),
        ({"params": {"context": {"result": [{**keypoint(5, 5), "to_name": "other"}]}}}, InvalidRequest),
        ({"params": {"context": {"result": [{**keypoint(5, 5), "image_rotation": 90}]}}}, InvalidRequest),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_translated_is_a_problem(tools, data, change, error):
    response = tools.post("/label-studio/predict", json={**body(as_data_uri(data), keypoint(50, 25)), **change})

    assert_problem(response, error)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"tasks":' + b"[" * 5000, b"\xff"])
def test_a_body_that_is_no_request_is_a_problem(tools, content):
    response = tools.post("/label-studio/predict", content=content)

    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_body_of_too_many_members_is_refused_before_parsing(tools):
    document = assert_problem(
        tools.post("/label-studio/predict", content=b'{"tasks":[' + b"0," * 60_000 + b"0]}"), InvalidRequest
    )

    assert "more members" in document["detail"]


def test_base64_that_begins_like_a_path_is_an_image(tools, next_seed):
    data = noise_file((HEIGHT, WIDTH), seed=next_seed)
    lines = base64.encodebytes(data).decode()

    assert predict(tools, lines, keypoint(50, 25)).status_code == 200
    assert embed(tools, data)


def test_base64_of_a_jpeg_begins_with_a_slash_and_is_an_image(tools, next_seed):
    text = as_base64(as_file(noise_image((HEIGHT, WIDTH), next_seed), "JPEG"))
    assert text.startswith("/9j/")

    assert predict(tools, text, keypoint(50, 25)).status_code == 200


def test_earlier_annotations_and_drafts_do_not_count_as_members(tools, data):
    """Also with the bounds of this process, 12 500 members, which are narrower than those of a cluster."""
    brush = {"type": "brushlabels", "value": {"format": "rle", "rle": [7] * 40_000}}
    asked = body(as_data_uri(data), keypoint(50, 25), brush)
    for name in ("annotations", "predictions", "drafts"):
        asked["tasks"][0][name] = [{"result": [brush, {"value": {"points": [[1, 2]] * 2_000}}]}]

    response = tools.post("/label-studio/predict", json=asked)

    assert response.status_code == 200
    assert len(response.json()["results"][0]["result"]) == 1


def test_the_detail_of_a_refusal_is_logged_because_the_tool_does_not_show_it(tools, tools_log, next_seed):
    request_id = f"detail-{next_seed}"

    tools.post(
        "/label-studio/predict",
        json=body(f"https://elsewhere/{next_seed}.png", keypoint(50, 25), config=f"<View a='{next_seed}'/>"),
        headers={"X-Request-ID": request_id},
    )

    line = request_line(tools_log, request_id)
    assert line["problem"] == "invalid-request"
    assert "has no BrushLabels or PolygonLabels" in line["detail"]


def test_the_key_may_be_the_password_of_basic_authentication(tools):
    url = f"{tools.base_url}/label-studio/setup"
    key = tools.headers["authorization"].removeprefix("Bearer ")

    known = httpx.post(url, json={}, auth=("user", key), trust_env=False)
    unknown = httpx.post(url, json={}, auth=(key, "x"), trust_env=False)
    broken = httpx.post(url, json={}, headers={"Authorization": "Basic ä*".encode()}, trust_env=False)

    assert known.status_code == 200
    assert_problem(unknown, Unauthorized)
    assert_problem(broken, Unauthorized)


def test_adapters_are_off_by_default(client):
    for path in ("/label-studio/predict", "/sam/segment_image", "/sam2/segment_image", "/v1/predict"):
        assert client.post(path, json={}).status_code == 404


def test_a_connection_that_ends_early_logs_no_error(tools):
    with RawConnection(str(tools.base_url)) as connection:
        connection.start(
            "/label-studio/predict", f"Authorization: {tools.headers['authorization']}", "Content-Length: 9"
        )
        connection.send(b"{")

    assert tools.get("/label-studio/health").status_code == 200
