"""Fetching images from Label Studio: with both kinds of tokens, from one server, within bounds of size and time."""

import base64
import json
import socket
import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from support.brush_regions import brush_pixels
from support.file_server import FileServer, Reply
from support.noise_images import noise_file
from support.service_client import assert_problem, open_client, point
from support.service_process import ServiceProcess
from support.studio_server import LEGACY_TOKEN, PERSONAL_TOKEN, StudioServer
from support.tool_images import best_mask

from service.api.adapters.label_studio_download import StudioDownloads, is_allowed, read_token_from
from service.errors import BodyTooLarge, ImageSourceUnavailable, InvalidRequest
from service.telemetry.metrics import Metrics

SIZE = (60, 80)
CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="Cat"/></BrushLabels></View>'
)
CLICK = {"type": "keypointlabels", "to_name": "i", "value": {"x": 50, "y": 25, "keypointlabels": ["Cat"]}}


def predict(client, *images, clicks=(CLICK,)):
    tasks = [{"id": 7 + index, "data": {"image": image}} for index, image in enumerate(images)]
    asked = {"tasks": tasks, "label_config": CONFIG, "params": {"context": {"result": list(clicks)}}}
    return client.post("/label-studio/predict", json=asked)


@pytest.fixture(scope="module")
def studio():
    with StudioServer("/studio") as server:
        yield server


@pytest.fixture(scope="module")
def service(artifact, studio, tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(f"{PERSONAL_TOKEN}\n")
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_ADAPTERS": "label-studio",
        "EDGESAM_LABEL_STUDIO_URL": studio.url,
        "EDGESAM_LABEL_STUDIO_TOKEN_FILE": str(token),
        "EDGESAM_MAX_IMAGE_BYTES": "400000",
    }
    with ServiceProcess(settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with open_client(service.url) as client:
        yield client


@pytest.fixture
def data(next_seed):
    return noise_file(SIZE, seed=next_seed)


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/{}%20d.png",
        "/prefix/data/upload/3/{}%20d.png",
        "https://label.example.com/data/upload/3/{}%20d.png",
        "/data/local-files/?d=%C3%A4/{}%20d.png",
        "/storage-data/uploaded/?filepath=upload/3/{}%20d.png",
        "s3://bucket/{} d.png",
        "azure-blob://box/{}.png",
    ],
)
def test_images_are_fetched_from_label_studios_own_paths(client, studio, data, next_seed, address):
    studio.uploads[f"3/{next_seed} d.png"] = studio.local_files[f"ä/{next_seed} d.png"] = data
    studio.objects |= dict.fromkeys([f"s3://bucket/{next_seed} d.png", f"azure-blob://box/{next_seed}.png"], data)
    asked = len(studio.reads)

    response = predict(client, address.format(next_seed))

    (region,) = response.json()["results"][0]["result"]
    assert region["original_width"] == 80
    assert len(studio.reads) == asked + 1


@pytest.mark.parametrize("path", ["/tasks/9/presign/", "http://169.254.169.254/a/tasks/9/resolve/", "/tasks/9/resolve"])
def test_proxy_addresses_of_cloud_storage_are_fetched_from_label_studio(client, studio, data, next_seed, path):
    name = f"gs://bucket/{next_seed}?"
    studio.objects[name] = data

    response = predict(client, f"{path}?fileuri={base64.urlsafe_b64encode(name.encode()).decode()}")

    assert response.status_code == 200
    assert studio.reads[-1] == "/studio/tasks/9/resolve/"


def test_the_mask_of_a_fetched_image_is_that_of_segment(client, studio, data):
    studio.uploads["4/mask.png"] = data

    response = predict(client, "/data/upload/4/mask.png")

    (region,) = response.json()["results"][0]["result"]
    expected = best_mask(client, data, point(40, 15))
    assert np.array_equal(brush_pixels(region["value"]["rle"], SIZE), expected)


def test_a_click_does_not_fetch_its_image_again(client, studio, data):
    studio.uploads["4/once.png"] = data

    opened, *clicks = (predict(client, "/data/upload/4/once.png", clicks=found) for found in ((), (CLICK,), (CLICK,)))

    assert opened.json() == {"results": [[]]}
    assert [answer.status_code for answer in clicks] == [200, 200]
    assert studio.reads.count("/studio/data/upload/4/once.png") == 1


def test_an_image_that_was_deleted_is_fetched_again(client, studio, data):
    studio.uploads["4/deleted.png"] = data
    predict(client, "/data/upload/4/deleted.png")
    hashed = client.post("/embed", content=data).json()["image_hash"]
    client.delete(f"/embed/{hashed}")

    again = predict(client, "/data/upload/4/deleted.png")

    assert again.status_code == 200
    assert studio.reads.count("/studio/data/upload/4/deleted.png") == 2


def test_an_expired_access_token_is_renewed(client, studio, data):
    studio.uploads.update({"4/before.png": data, "4/after.png": data})
    predict(client, "/data/upload/4/before.png")
    logins = studio.logins
    studio.expire()

    assert predict(client, "/data/upload/4/after.png").status_code == 200
    assert studio.logins == logins + 1
    assert studio.headers["authorization"].startswith("Bearer access-")


def test_a_redirect_to_cloud_storage_is_refused_with_advice(client, studio):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        studio.objects["s3://b/presigned.png"] = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"

        document = assert_problem(predict(client, "s3://b/presigned.png"), InvalidRequest)

        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "pre-signed URLs" in document["detail"]


def test_a_failure_of_label_studio_is_a_problem_that_may_pass(client, studio):
    studio.objects["s3://b/failing.png"] = 424

    response = predict(client, "s3://b/failing.png")

    document = assert_problem(response, ImageSourceUnavailable)
    assert "status 424" in document["detail"]
    assert response.headers["retry-after"]


def test_only_the_data_paths_are_fetched(client, studio):
    asked = len(studio.reads)

    for address in (
        "/api/users/", "/data/upload/../../api/users", "/data/upload/%2e%2e/x.png", "https://x/y.png", "file:///etc/passwd",
        "/data/other/x.png", "s3:bucket", "redis://x/y", "/tasks/x/resolve/?fileuri=a", "//data/avatars/1.png",
        "/tasks/\N{ARABIC-INDIC DIGIT THREE}/resolve/?fileuri=a",
    ):  # fmt: skip
        assert predict(client, address).status_code in (400, 422), address

    assert len(studio.reads) == asked


def test_a_body_of_too_many_members_is_refused_by_the_default_settings(client):
    regions = b'{"tasks":[{"data":{}}],"params":{"context":{"result":[' + b"{}," * 70_000 + b"{}]}}}"

    document = assert_problem(client.post("/label-studio/predict", content=regions), InvalidRequest)

    assert "more members" in document["detail"]


def test_a_missing_image_is_a_problem_and_its_detail_is_logged(service, client):
    headers = {"X-Request-ID": "missing-image"}
    asked = {"tasks": [{"id": 1, "data": {"image": "/data/upload/9/none.png"}}], "label_config": CONFIG}

    response = client.post("/label-studio/predict", json=asked, headers=headers)

    assert_problem(response, InvalidRequest)
    line = service.wait_for_request("missing-image")
    assert "Label Studio has no such image" in line["detail"]


def test_an_image_larger_than_an_upload_is_refused(client, studio):
    studio.uploads["4/large.png"] = bytes(400_001)

    assert_problem(predict(client, "/data/upload/4/large.png"), BodyTooLarge)


def test_the_token_appears_in_no_log_line(service, client, studio, data):
    studio.uploads["4/secret.png"] = data
    predict(client, "/data/upload/4/secret.png")

    assert PERSONAL_TOKEN not in json.dumps(service.log)
    assert "access-" not in json.dumps(service.log)


@pytest.fixture
def timings():
    return Metrics(CollectorRegistry()).timings(None)


@pytest.fixture
def downloads():
    opened = []

    def open_downloads(url, token=LEGACY_TOKEN, *, max_bytes=1000, timeout_s=20.0):
        opened.append(StudioDownloads(url, lambda: token, max_bytes=max_bytes, timeout_s=timeout_s))
        return opened[-1]

    yield open_downloads
    for one in opened:
        one.close()


async def test_a_legacy_token_is_sent_as_it_is(downloads, timings):
    with StudioServer() as studio:
        studio.uploads["1/a.png"] = b"content"

        assert await downloads(studio.url).read("data/upload/1/a.png", timings) == b"content"
        with pytest.raises(InvalidRequest, match="401"):
            await downloads(studio.url, "f" * 40).read("data/upload/1/a.png", timings)
        with pytest.raises(InvalidRequest, match="401"):
            await downloads(studio.url, PERSONAL_TOKEN + "x").read("data/upload/1/a.png", timings)


async def test_a_token_that_is_exchanged_in_its_file_is_used_at_once(tmp_path):
    file = tmp_path / "token"
    read = read_token_from(file)
    file.write_text("first\n")
    assert read() == "first\n"
    file.write_text("second")
    assert read() == "second"


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "ä"])
async def test_a_token_that_is_no_token_is_not_quoted(downloads, timings, token):
    with pytest.raises(ImageSourceUnavailable) as caught:
        await downloads("http://127.0.0.1:1", token).read("data/upload/1/a.png", timings)

    assert not token or token not in caught.value.detail


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"x" * 500, break_after=100),
        Reply(b"x" * 500, is_chunked=True, break_after=100),
        Reply(status=500),
        Reply(status=424),
        Reply(b"x", content_encoding="gzip"),
    ],
    ids=["cut off", "chunks cut off", "500", "424", "gzip"],
)
async def test_an_answer_that_is_no_complete_image_is_a_problem(downloads, timings, reply):
    with FileServer(a=reply) as server, pytest.raises(ImageSourceUnavailable):
        await downloads(server.url("")).read("a", timings)


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_that_is_too_large_is_not_read_to_its_end(downloads, timings, chunked):
    with FileServer(a=Reply(b"x" * 100_000, is_chunked=chunked, stall_after=50_000)) as server:
        reading = downloads(server.url("")).read("a", timings)
        with pytest.raises(BodyTooLarge):
            await reading


@pytest.mark.parametrize("reply", [Reply(b"x" * 500, trickle_s=0.05), Reply(b"x" * 500, stall_after=10)])
async def test_a_slow_answer_ends_at_the_time_limit(downloads, timings, reply):
    with FileServer(a=reply) as server:
        started = time.monotonic()
        with pytest.raises(ImageSourceUnavailable, match="too slow"):
            await downloads(server.url(""), timeout_s=0.4).read("a", timings)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x", "/a", "//x/a", ""])
async def test_no_redirect_is_followed(downloads, timings, target):
    with FileServer(a=Reply(b"yes"), b=Reply(redirect_to=target or "a")) as server:
        with pytest.raises(InvalidRequest, match="redirects"):
            await downloads(server.url("")).read("b", timings)
        assert [request.path for request in server.requests] == ["b"]


@pytest.mark.parametrize(
    ("address", "name", "allowed"),
    [
        ("10.1.2.3", "studio", True), ("192.168.1.5", "studio", True), ("fd12::5", "studio", True),
        ("93.184.215.14", "studio", True), ("127.0.0.1", "127.0.0.1", True), ("::1", "localhost", True),
        ("127.0.0.1", "studio", False), ("::1", "studio", False), ("::ffff:127.0.0.1", "studio", False),
        ("169.254.169.254", "studio", False), ("::ffff:169.254.169.254", "studio", False),
        ("169.254.169.254", "localhost", False), ("fe80::1%eth0", "studio", False), ("fd00:ec2::254", "studio", False),
        ("100.100.100.200", "studio", False), ("168.63.129.16", "studio", False), ("0.0.0.0", "studio", False),
        ("224.0.0.1", "studio", False), ("240.0.0.1", "studio", False), ("64:ff9b::a9fe:a9fe", "studio", False),
    ],
)  # fmt: skip
def test_label_studio_may_be_in_a_private_network_and_not_at_a_metadata_service(address, name, allowed):
    assert is_allowed(address, name=name) == allowed


async def test_a_name_that_is_rebound_to_a_link_local_address_is_not_connected_to(downloads, timings, monkeypatch):
    """The resolver answers as an attacker's would: another address with each question."""
    answers = iter(["127.0.0.1", "169.254.169.254"])
    asked, connected = [], []
    connect = socket.socket.connect

    def resolve(host, port, *_, **__):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def note(self, address):
        connected.append(address[0])
        return connect(self, address)

    with FileServer(a=Reply(b"content")) as server:
        opened = downloads(server.url("").replace("127.0.0.1", "localhost"))
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(socket.socket, "connect", note)

        first = await opened.read("a", timings)
        with pytest.raises(ImageSourceUnavailable, match="link-local"):
            await opened.read("a", timings)

    assert first == b"content"
    assert asked == ["localhost", "localhost"]  # once for each connection: there is no second answer to connect to
    assert connected == ["127.0.0.1"]
