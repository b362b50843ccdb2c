"""Roles, namespaces and rate limits of API keys, on two replicas with one Redis and one file of keys."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.redis_server import RedisServer, wait_until
from support.service_client import (
    Scrape,
    assert_problem,
    assert_problem_document,
    embed,
    open_client,
    point,
    segment,
    wait_for_in_flight,
)
from support.service_process import ServiceProcess

from service.api.access.policy import policies_of
from service.api.adapters import ADAPTERS
from service.api.routes.playground import RUNTIME_FILES
from service.app import create_app
from service.errors import EmbeddingNotFound, Forbidden, MaskNotFound, RateLimited, Unauthorized
from service.settings import Settings

UNKNOWN = "7" * 64
ORIGIN = "https://front.example"
SLOW = {"per_s": 0.01, "burst": 20}  # no token comes back while a test runs

ENTRIES = {
    "a-1": {"namespace": "a", "roles": ["embed", "segment"]},
    "a-2": {"namespace": "a", "roles": ["embed", "segment"]},
    "a-reader": {"namespace": "a", "roles": ["segment"]},
    "a-writer": {"namespace": "a", "roles": ["embed"]},
    "b": {"namespace": "b", "roles": ["admin"]},
    "metered": {"roles": ["segment"], "limits": {"segment": SLOW}},
    "single": {"roles": ["segment", "embed"], "limits": {"segment": {"at_once": 1}}},
}
BASIC = 'Basic realm="EdgeSAM", charset="UTF-8"'
PLAIN = "a-key-that-may-do-everything"


def key_of(name):
    return f"esk_the-key-called-{name}-0123456789"


def write_keys(path, entries):
    rows = [
        {"name": name, "sha256": hashlib.sha256(key_of(name).encode()).hexdigest(), **entry}
        for name, entry in entries.items()
    ]
    path.write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def shared_redis():
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path, ENTRIES)
    return path


@pytest.fixture(scope="module")
def replicas(artifact, key_file, shared_redis):
    settings = {
        "EDGESAM_MODEL_DIR": str(artifact),
        "EDGESAM_REDIS_URL": shared_redis.url,
        "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",
        "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
        "EDGESAM_API_KEYS_FILE": str(key_file),
        "EDGESAM_API_KEYS": json.dumps([PLAIN]),
        "EDGESAM_CORS_ORIGINS": json.dumps([ORIGIN]),
        "EDGESAM_METRICS_ACCESS": "admin",
    }
    with ServiceProcess(settings) as first, ServiceProcess(settings) as second:
        yield first, second


@pytest.fixture(scope="module")
def as_(replicas):
    """A function that opens a client of one replica. The client sends the key of the given name, or none."""
    with contextlib.ExitStack() as stack:

        def open_(name, replica=0):
            key = PLAIN if name == "plain" else key_of(name) if name else None
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return stack.enter_context(open_client(replicas[replica].url, headers=headers))

        yield open_


ADDRESSES = {
    "embed": ("POST", "/embed"),
    "look": ("HEAD", f"/embed/{UNKNOWN}"),
    "read": ("GET", f"/embed/{UNKNOWN}"),
    "segment": ("POST", "/segment"),
    "models": ("GET", "/models"),
    "delete": ("DELETE", f"/embed/{UNKNOWN}"),
    "metrics": ("GET", "/metrics"),
    "docs": ("GET", "/docs"),
    "document": ("GET", "/openapi.json"),
}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("a-reader", {"look", "read", "segment", "models"}),
        ("a-writer", {"embed", "look", "read", "models"}),
        ("a-1", {"embed", "look", "read", "segment", "models"}),
        ("b", set(ADDRESSES)),
        ("plain", set(ADDRESSES)),
    ],
)
def test_a_key_may_use_only_the_routes_of_its_roles(as_, name, allowed):
    client = as_(name)

    answers = {what: client.request(*address, content=b"x") for what, address in ADDRESSES.items()}

    assert {what for what, answer in answers.items() if answer.status_code != 403} == allowed
    for what in ADDRESSES.keys() - allowed:
        document = assert_problem(answers[what], Forbidden)
        assert ["admin"] in document["roles"]
        assert answers[what].headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


@pytest.mark.parametrize("what", ADDRESSES)
def test_without_a_key_every_protected_route_answers_401_alone(as_, what):
    method, path = ADDRESSES[what]
    answer = as_(None).request(method, path, content=b"x")

    assert answer.status_code == 401
    # An answer that offers Basic makes a browser ask for a name and a password, also for a page's own requests.
    asks_browsers = path in ("/docs", "/openapi.json")
    assert answer.headers.get_list("www-authenticate") == ["Bearer", *([BASIC] if asks_browsers else [])]
    if method != "HEAD":
        assert_problem(answer, Unauthorized)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_documentation_offers_basic_until_an_authorised_key_is_sent(as_, path):
    stranger = as_(None)

    answers = {name: stranger.get(path, auth=("whoever", key_of(name))) for name in ("b", "a-reader", "nobody")}

    assert answers.pop("b").status_code == 200
    for answer in answers.values():  # 403 would leave the browser with this key until it is closed
        assert_problem(answer, Unauthorized)
        assert answer.headers.get_list("www-authenticate") == ["Bearer", BASIC]


@pytest.mark.parametrize("what", ["embed", "segment", "delete"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_use_the_key_that_a_browser_stores(as_, what, site):
    stranger, remembered = as_(None), ("whoever", key_of("b"))
    foreign, own = {"Sec-Fetch-Site": site}, {"Sec-Fetch-Site": "same-origin"}

    def status(headers, **options):
        return stranger.request(*ADDRESSES[what], content=b"x", headers=headers, **options).status_code

    assert status(foreign, auth=remembered) == 401
    assert status(own, auth=remembered) not in (401, 403)
    assert status({}, auth=remembered) not in (401, 403)  # no browser: Label Studio
    assert status({**foreign, "X-API-Key": key_of("b")}) not in (401, 403)
    assert stranger.get("/docs", headers=foreign, auth=remembered).status_code == 200  # a link to it


def test_every_route_has_its_intended_policy(tmp_path):
    for name in RUNTIME_FILES:
        (tmp_path / name).write_bytes(b"whatever decodes in the browser")
    everything = {"adapters": sorted(ADAPTERS), "browser_runtime_dir": tmp_path}
    app = create_app(Settings(api_keys=[PLAIN], **everything))

    policies = policies_of(app.router.routes)

    assert {path for (_, path), policy in policies.items() if policy.is_open} == {
        "/", "/web/{name}", "/web/samples/{name}", "/web/runtime/{name}", "/livez", "/readyz", "/healthz", "/metrics",
        "/docs/{name}", "/web/{folder}/{name}", "/models/{name}/card",
    }  # fmt: skip
    assert {address for address, policy in policies.items() if not policy.roles and not policy.is_open} == {
        ("DELETE", "/embed/{image_hash}"), ("GET", "/docs"), ("HEAD", "/docs"), ("GET", "/openapi.json"),
        ("HEAD", "/openapi.json"), ("POST", "/models/reload"),
    }  # fmt: skip
    assert "/models/files/{sha256}" in {path for _, path in policies}
    adapters = [policy for (_, path), policy in policies.items() if path.startswith("/sam")]
    assert {(policy.quota, policy.permit) for policy in adapters} == {("embed", "uploads")}


def test_a_route_without_a_policy_stops_the_start():
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/unguarded")
    async def unguarded() -> str:
        return "every caller may read this"

    with pytest.raises(ValueError, match="/unguarded has no policy"):
        policies_of(app.router.routes)


async def test_routes_that_are_off_answer_404():
    app = create_app(Settings(docs_access="off", metrics_access="off"))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answers = [await client.get(path) for path in ("/docs", "/openapi.json", "/metrics", "/redoc")]
        problem = await client.get("/nothing")

    for answer in (*answers, problem):
        assert_problem_document(answer, 404, "not-found")


@pytest.mark.parametrize("members", [{"docs_access": "admin"}, {"metrics_access": "admin"}])
def test_access_admin_requires_api_keys(members):
    with pytest.raises(ValueError, match="only where there are keys"):
        Settings(**members)


def test_another_namespace_cannot_find_out_that_an_image_is_cached(as_, next_seed):
    data = noise_file((60, 80), next_seed)
    image_hash = embed(as_("a-1"), data)
    mask = segment(as_("a-1"), image_hash, point(20, 20))[0][0]

    for replica in (0, 1):
        other, same = as_("b", replica), as_("a-2", replica)
        assert same.head(f"/embed/{image_hash}").status_code == 200
        assert other.head(f"/embed/{image_hash}").status_code == 404
        assert_problem(other.get(f"/embed/{image_hash}"), EmbeddingNotFound)
        assert_problem(other.delete(f"/embed/{image_hash}"), EmbeddingNotFound)
        body = {"image_hash": image_hash, "prompts": [point(20, 20)]}
        assert_problem(other.post("/segment", json=body), EmbeddingNotFound)

    first, again = [as_("b", replica).post("/embed", content=data) for replica in (0, 1)]
    assert first.json()["cached"] is None
    assert "encode" in first.headers["server-timing"]
    assert again.json()["cached"] == "redis"
    refining = {"image_hash": image_hash, "prompts": [{**point(20, 20), "mask_id": mask["mask_id"]}]}
    assert as_("a-2").post("/segment", json=refining).status_code == 200
    assert_problem(as_("b").post("/segment", json=refining), MaskNotFound)
    assert segment(as_("b"), image_hash, point(20, 20))[0][0]["mask_id"] != mask["mask_id"]

    assert as_("b").delete(f"/embed/{image_hash}").status_code == 204
    assert as_("a-2").head(f"/embed/{image_hash}").status_code == 200


def test_redis_keys_of_a_request_are_all_in_the_caller_s_namespace(as_, shared_redis, next_seed):
    data = noise_file((50, 70), next_seed)
    image_hash = hashlib.sha256(data).hexdigest()
    client = as_("b")

    with socket.create_connection(("127.0.0.1", shared_redis.port), timeout=60) as spy:
        spy.sendall(b"MONITOR\r\n")
        heard = bytearray(spy.recv(5))
        embed(client, data)
        masks = segment(client, image_hash, point(9, 9))[0]
        refined = {**point(9, 9), "mask_id": masks[0]["mask_id"]}
        client.post("/segment", json={"image_hash": image_hash, "prompts": [refined]})
        client.head(f"/embed/{image_hash}")
        client.get(f"/embed/{image_hash}")
        client.delete(f"/embed/{image_hash}")
        shared_redis.ask("ECHO", "that was all")
        while b"that was all" not in heard:
            heard += spy.recv(1 << 20)

    keys = re.findall(rb'"([a-z:]*edgesam:2:[^"]+)"', heard)
    assert {key.split(b"edgesam:2:")[0] for key in keys} == {b"", b"lock:"}
    assert all(b":@b:" in key for key in keys)
    assert any(f":@b:{image_hash}".encode() in key for key in keys)


def test_keys_of_the_environment_find_images_that_were_cached_without_keys(as_, shared_redis, next_seed):
    image_hash = embed(as_("plain"), noise_file((30, 40), next_seed))

    (key,) = shared_redis.ask("KEYS", f"edgesam:*{image_hash}")

    assert re.fullmatch(rf"edgesam:2:[0-9a-f]+:float16:{image_hash}", key.decode())


@pytest.mark.alone
def test_a_rate_holds_over_all_replicas(as_, shared_redis):
    first, second = as_("metered"), as_("metered", 1)
    path = f"/embed/{UNKNOWN}"

    statuses = [first.head(path).status_code for _ in range(21)]
    assert statuses == [404] * 20 + [429]

    # The replica charges Redis twenty times a second, and until then the second one may admit requests of its own.
    def all_are_charged():
        return shared_redis.ask("PTTL", "edgesam:limit:metered:segment") > 19 / SLOW["per_s"] * 1000

    wait_until(all_are_charged)

    let_in = 0
    while (answer := second.get(path)).status_code != 429 and let_in < 20:  # the quota of downloads has no limit
        let_in += 1
    assert let_in == 20

    let_in = 0
    while (answer := second.head(path)).status_code != 429:
        let_in += 1

    assert let_in < 10  # of its own twenty, until Redis returns the requests of the first replica
    assert 1 <= int(answer.headers["retry-after"]) <= 100 * 21
    refusal = assert_problem(second.post("/segment", content=b"x"), RateLimited)
    assert refusal["limit"] == 0.01


def test_requests_in_progress_of_a_key_are_limited(as_, replicas):
    admin = as_("b")
    with RawConnection(replicas[0].url) as slow:
        slow.start("/segment", f"Authorization: Bearer {key_of('single')}", "Content-Length: 9")
        wait_for_in_flight(admin, "/segment")

        refused = as_("single").post("/segment", content=b"x")
        others = as_("a-1").head(f"/embed/{UNKNOWN}")

        assert_problem(refused, RateLimited)
        assert refused.headers["retry-after"] == "1"
        assert others.status_code == 404
        slow.send(b"no json!!")
        assert slow.response().status_code == 400
    assert as_("single").post("/segment", content=b"x").status_code == 400


def test_a_flood_of_one_key_does_not_delay_another_key(as_, next_seed):
    flooded, calm = as_("a-1"), as_("b")
    data = noise_file((60, 60), next_seed)
    body = {"image_hash": embed(flooded, data), "prompts": [point(9, 9)], "format": "none"}
    embed(calm, data)
    over, done = threading.Event(), []

    def flood():
        while not over.is_set() and len(done) < 3000:
            done.append(flooded.post("/segment", json=body).status_code)

    with ThreadPoolExecutor(16) as pool:
        floods = [pool.submit(flood) for _ in range(16)]
        wait_until(lambda: len(done) >= 16, timeout_s=60)
        before = len(done)
        for _ in range(8):
            assert calm.post("/segment", json=body).status_code == 200
        meanwhile = len(done) - before
        over.set()
    for one in floods:
        one.result()

    # First come, first served would admit about fifteen requests of the other key before each of these.
    assert meanwhile < 8 * 8
    assert set(done) == {200}


def test_keys_follow_the_file_and_a_broken_file_changes_nothing(as_, key_file):
    admin = as_("b")

    def statuses():
        return [as_("new").get("/models").status_code, as_("a-writer").get("/models").status_code]

    def stale():
        return Scrape(admin).value("edgesam_api_keys_stale")

    assert statuses() == [401, 200]
    changed = {name: entry for name, entry in ENTRIES.items() if name != "a-writer"}
    write_keys(key_file, {**changed, "new": {"roles": ["segment"]}})
    wait_until(lambda: statuses() == [200, 401], timeout_s=60)

    key_file.write_text("[{")
    wait_until(lambda: stale() == 1, timeout_s=60)
    assert statuses() == [200, 401]

    write_keys(key_file, ENTRIES)
    wait_until(lambda: statuses() == [401, 200], timeout_s=60)
    assert stale() == 0
    assert Scrape(admin).value("edgesam_api_keys") == len(ENTRIES) + 1


@pytest.mark.parametrize(
    ("name", "status", "request_"),
    [
        (None, 401, ("POST", "/segment")),
        ("a-reader", 403, ("POST", "/embed")),
        ("a-reader", 404, ("GET", f"/embed/{UNKNOWN}")),
        ("a-reader", 404, ("GET", "/nothing")),
        ("a-reader", 405, ("PUT", "/segment")),
        ("a-reader", 200, ("GET", "/models")),
        ("b", 200, ("GET", "/metrics")),
        ("b", 200, ("GET", "/docs")),
        (None, 200, ("GET", "/")),
        (None, 200, ("GET", "/web/edgesam.js")),
        (None, 200, ("GET", "/livez")),
    ],
)
def test_every_answer_has_the_security_headers_for_browsers(as_, name, status, request_):
    answer = as_(name).request(*request_, headers={"Origin": ORIGIN})

    assert answer.status_code == status
    names = [header.lower() for header, _ in answer.headers.multi_items()]
    expected = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }
    for header, value in expected.items():
        assert names.count(header) == 1
        assert answer.headers[header] == value
    assert names.count("content-security-policy") == names.count("cache-control") == 1
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] in ("no-store", "no-cache")
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_the_documentation_page_runs_only_the_scripts_it_names(as_):
    page = as_("b").get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))

    sources = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)" integrity="sha384-[\w+/]{64}"', page.text)
    assert sources == ["docs/swagger-ui.css", "docs/swagger-ui-bundle.js"]
    assert not re.search(r"unsafe|\*|https?:", policy["script-src"])
    assert policy["script-src"].split()[0] == "'self'"
    inline = re.search(r'<script type="module">(.*?)</script>', page.text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy["script-src"].split()
    assert "openapi.json" in inline


def test_keys_appear_in_no_log_no_metric_and_no_answer(as_, replicas):
    secrets = [*map(key_of, ENTRIES), PLAIN, "esk_a-wrong-key-0123456789"]
    client, answers = as_(None), []
    for secret in secrets:
        ways = (
            {"Authorization": f"Bearer {secret}"},
            {"Authorization": f"Token {secret}"},
            {"X-API-Key": secret},
            {"Token": secret},
            {"Authorization": httpx.BasicAuth("somebody", secret)._auth_header},
        )
        answers.extend(client.get("/models", headers=headers) for headers in ways)
        answers.append(client.get(f"/models?api_key={secret}"))
        answers.append(client.post("/segment", content=secret.encode()))
        answers.append(client.delete(f"/embed/{secret}", headers={"X-API-Key": secret}))

    metrics = [Scrape(as_("b", replica)).response.text for replica in (0, 1)]
    logs = [json.dumps(replica.log) for replica in replicas]

    assert {200, 401} <= {answer.status_code for answer in answers}
    everything = [*metrics, *logs, *(f"{answer.headers} {answer.text}" for answer in answers)]
    digests = [hashlib.sha256(secret.encode()).hexdigest() for secret in secrets]
    for secret in (*secrets, *digests):
        assert not any(secret in text for text in everything)
    assert '"key": "a-reader"' in logs[0]
    assert not any(name in text for name in ENTRIES if len(name) > 1 for text in metrics)
