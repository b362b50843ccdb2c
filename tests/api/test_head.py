"""HEAD answers wherever GET does, with the same status and headers, under the same policy, and without a body."""

import pytest
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.service_client import embed
from support.service_process import ServiceProcess

from service.api.access.policy import policies_of
from service.app import create_app
from service.settings import Settings

PATHS = [
    "/", "/livez", "/healthz", "/readyz", "/metrics", "/models", "/docs", "/docs/", "/docs/swagger-ui.css",
    "/openapi.json", "/web/edgesam.js", "/web/client/transport.js", "/web/samples/dahlia.jpg",
    "/nothing", "/web/nothing", "/embed/0",
]  # fmt: skip
VARYING = {"date", "server-timing", "x-request-id"}


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_status_and_the_headers_of_get(client, path):
    head, get = client.head(path), client.get(path)

    assert head.status_code == get.status_code
    assert head.content == b""
    described = [
        {name: value for name, value in answer.headers.items() if name not in VARYING} for answer in (head, get)
    ]
    if path in ("/metrics", "/nothing", "/web/nothing"):  # the first counts, and the others name, the request
        for headers in described:
            headers.pop("content-length")
    assert described[0] == described[1]


def test_head_of_an_unknown_image_has_no_body_on_the_wire(service_url):
    request = "HEAD /embed/" + "0" * 64 + " HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
    with RawConnection(service_url) as connection:
        connection.send(request.encode())
        received = connection.receive_all(1 << 20)

    assert received.startswith(b"HTTP/1.1 404 ")
    assert received.endswith(b"\r\n\r\n")


async def test_every_route_with_get_has_head_with_the_same_policy(artifact):
    app = create_app(Settings(model_dir=artifact, adapters="label-studio,roboflow,x-anylabeling"))

    policies = policies_of(app.router.routes)

    paths = {path for method, path in policies if method == "GET"}
    assert len(paths) > 10
    assert paths <= {path for method, path in policies if method == "HEAD"}
    own = {"/embed/{image_hash}"}  # its HEAD asks for less than its GET
    assert [path for path in paths - own if policies["GET", path] != policies["HEAD", path]] == []
    assert not [path for path, methods in app.openapi()["paths"].items() if "head" in methods and path not in own]


def test_head_needs_the_key_of_get(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_API_KEYS": '["a key of at least sixteen characters"]'}
    with ServiceProcess(settings) as service, RawConnection(service.url) as connection:
        connection.start("/models", method="HEAD")
        response = connection.response("HEAD")

    assert response.status_code == 401
    assert response.content == b""


def test_allow_names_head(client):
    response = client.post("/models")

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


def test_head_of_an_embedding_stays_the_question_whether_it_is_there(client):
    image_hash = embed(client, noise_file((30, 40), seed=6))

    assert client.head(f"/embed/{image_hash}").headers["x-cache"] == "memory"
