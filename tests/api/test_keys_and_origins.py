"""API keys, CORS, and metrics on a port of their own: one process has all three switched on."""

import pytest
from support.noise_images import noise_file
from support.service_client import PROBLEM, Scrape, assert_problem, assert_problem_document, embed, open_client, point
from support.service_process import ServiceProcess

from service.errors import Unauthorized

KEYS = ["a-key-of-the-first-team", "a-key-of-the-other-team"]
ORIGIN = "https://front.example"


@pytest.fixture(scope="module")
def guarded(artifact):
    settings = {
        "EDGESAM_API_KEYS": '["{}", "{}"]'.format(*KEYS),
        "EDGESAM_CORS_ORIGINS": f'["{ORIGIN}"]',
        "EDGESAM_METRICS_PORT": "0",
    }
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as service:
        yield service


@pytest.fixture(scope="module")
def stranger(guarded):
    """A client without a key."""
    with open_client(guarded.url) as client:
        yield client


@pytest.fixture(scope="module")
def metrics_client(guarded):
    """A client of the port that serves /metrics."""
    (line,) = (line for line in guarded.log if line["event"] == "metrics")
    with open_client(f"http://127.0.0.1:{line['port']}") as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEYS[0]}"},
        {"Authorization": f"bearer  {KEYS[1]}"},
        {"X-API-Key": KEYS[0]},
        {"X-API-Key": KEYS[1]},
        {"X-API-Key": KEYS[1], "Authorization": "Basic dXNlcjpwYXNz"},
    ],
)
def test_each_key_is_accepted_in_either_header(stranger, headers):
    response = stranger.get("/models", headers=headers)

    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEYS[0]},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": KEYS[0][:-1]},
        {"X-API-Key": ""},
        {"X-API-Key": ",".join(KEYS)},
        {"X-API-Key": "schlüssel"},
    ],
)
def test_requests_without_a_known_key_are_refused(stranger, headers):
    raw = {name: value.encode() for name, value in headers.items()}

    response = stranger.get("/models", headers=raw)

    assert_problem(response, Unauthorized)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/embed"),
        ("POST", "/segment"),
        ("POST", "/segment/everything"),
        ("DELETE", f"/embed/{'0' * 64}"),
        ("GET", "/docs"),
        ("GET", "/nothing"),
    ],
)
def test_every_route_requires_a_key(stranger, method, path):
    assert_problem(stranger.request(method, path, content=b"x"), Unauthorized)


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
def test_health_routes_require_no_key(stranger, path):
    assert stranger.get(path).status_code == 200


def test_missing_keys_are_counted(stranger, metrics_client):
    before = Scrape(metrics_client).value("edgesam_rejected_total", reason="unauthorized")

    stranger.get("/models")

    assert Scrape(metrics_client).value("edgesam_rejected_total", reason="unauthorized") == before + 1


def test_metrics_are_served_only_on_their_own_port(guarded, metrics_client):
    with open_client(guarded.url, headers={"X-API-Key": KEYS[0]}) as client:
        on_the_main_port = client.get("/metrics")
        embed(client, noise_file((20, 20), seed=50))

    assert_problem_document(on_the_main_port, 404, "not-found")
    scrape = Scrape(metrics_client)
    assert scrape.value("edgesam_model_info") == 1
    assert scrape.value("edgesam_stage_duration_seconds_count", stage="encode") >= 1


def test_keys_do_not_appear_in_the_log(guarded, stranger):
    stranger.get("/models", headers={"X-API-Key": KEYS[0]})
    stranger.get("/models", headers={"X-API-Key": "a-wrong-key"})

    assert not any(word in str(guarded.log) for word in (*KEYS, "a-wrong-key"))


def test_an_allowed_origin_may_read_the_answer_and_its_headers(stranger):
    response = stranger.get("/models", headers={"Origin": ORIGIN, "X-API-Key": KEYS[0]})

    assert response.headers["access-control-allow-origin"] == ORIGIN
    exposed = {name.strip() for name in response.headers["access-control-expose-headers"].split(",")}
    assert {"Server-Timing", "X-Request-ID", "Retry-After", "X-Cache", "X-Mask-Id", "X-Mask-Score"} <= exposed
    assert "Origin" in response.headers["vary"]


def test_an_allowed_origin_may_read_refusals_too(stranger):
    response = stranger.post("/segment", headers={"Origin": ORIGIN})

    assert_problem(response, Unauthorized)
    assert response.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("origin", [None, "https://other.example", "null"])
def test_other_origins_get_no_cors_headers(stranger, origin):
    headers = {"X-API-Key": KEYS[0], **({} if origin is None else {"Origin": origin})}

    response = stranger.get("/models", headers=headers)

    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("path", "method"),
    [("/embed", "POST"), ("/segment", "POST"), ("/segment/everything", "POST"), ("/embed/x", "DELETE")],
)
def test_a_preflight_needs_no_key(stranger, path, method):
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type, x-api-key, authorization, x-image-hash, x-request-id",
    }

    response = stranger.options(path, headers=headers)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert method in response.headers["access-control-allow-methods"]


def test_a_preflight_of_another_origin_is_refused(stranger):
    headers = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}

    response = stranger.options("/embed", headers=headers)

    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


def test_without_the_setting_there_is_no_cors_and_no_key(client):
    response = client.get("/models", headers={"Origin": ORIGIN})

    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
    assert client.post("/segment", json={"image_hash": "0" * 64, "prompts": [point(1, 1)]}).status_code == 404
    assert client.options("/segment").headers["content-type"] == PROBLEM
