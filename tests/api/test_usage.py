"""Usage by API key, with the real service: what each key is charged for, and what nobody is."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError
from support.everything_requests import find_all
from support.noise_images import noise_file
from support.redis_server import RedisServer, wait_until
from support.service_client import Scrape, embed, open_client, point, segment
from support.service_process import ServiceProcess
from support.tool_images import as_base64

from service.api.access.keys import digest_of
from service.settings import Settings

from .conftest import LONG_REDIS_TIMEOUTS

HEIGHT, WIDTH = 50, 70
TEAMS = ("team-a", "Team_B.2", "team-c")
PLAIN = "a-key-that-may-do-everything"
WAIT_S = 30.0
COUNTERS = ("images", "pixels", "prompts")


def key_of(name):
    return f"esk_the-key-called-{name}-0123456789"


def write_keys(path, names):
    entries = [
        {"name": name, "sha256": digest_of(key_of(name).encode()).hex(), "namespace": "all", "roles": ["admin"]}
        for name in names
    ]
    path.write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path, TEAMS)
    return path


@pytest.fixture(scope="module")
def service(artifact, key_file):
    """A service whose keys share one namespace, and so their images."""
    with RedisServer() as server:
        settings = {
            "EDGESAM_MODEL_DIR": str(artifact),
            "EDGESAM_REDIS_URL": server.url,
            "EDGESAM_API_KEYS_FILE": str(key_file),
            "EDGESAM_API_KEYS": json.dumps([PLAIN]),
            "EDGESAM_USAGE_METRICS": "true",
            "EDGESAM_ADAPTERS": "cvat",
            **LONG_REDIS_TIMEOUTS,
        }
        with ServiceProcess(settings) as running:
            yield running


@pytest.fixture
def as_(service):
    """A function that opens a client with the key of a name."""
    with contextlib.ExitStack() as stack:

        def open_(name):
            headers = {"X-API-Key": PLAIN if name == "#1" else key_of(name)}
            return stack.enter_context(open_client(service.url, headers=headers))

        yield open_


def usage(service, name):
    """Images, pixels and prompts of a key, and the seconds of each lane."""
    with open_client(service.url) as client:
        scrape = Scrape(client)
    counts = {counter: scrape.value(f"edgesam_usage_{counter}_total", key=name) for counter in COUNTERS}
    lanes = {
        lane: scrape.value("edgesam_usage_compute_seconds_total", key=name, lane=lane)
        for lane in ("encode", "decode", "everything")
    }
    return {**counts, **lanes, "requests": scrape.value("edgesam_usage_requests_total", key=name)}


def keys_with_series(service):
    with open_client(service.url) as client:
        return Scrape(client).labels("edgesam_usage_images_total", "key")


def added(before, after):
    return {name: after[name] - before[name] for name in COUNTERS}


@pytest.mark.parametrize("name", ["team-a", "Team_B.2", "#1"])
def test_a_key_is_charged_for_its_images_and_prompts_and_the_others_are_not(service, as_, next_seed, name):
    others = [other for other in (*TEAMS, "#1") if other != name]
    before, others_before = usage(service, name), [usage(service, other) for other in others]
    client = as_(name)

    image = embed(client, noise_file((HEIGHT, WIDTH), next_seed))
    segment(client, image, point(5, 5), point(20, 20), {"box": [3, 3, 30, 30]})
    wait_until(lambda: usage(service, name)["requests"] == before["requests"] + 2, timeout_s=WAIT_S)

    after = usage(service, name)
    assert added(before, after) == {"images": 1, "pixels": HEIGHT * WIDTH, "prompts": 3}
    assert after["encode"] > before["encode"]
    assert after["decode"] > before["decode"]
    assert after["everything"] == before["everything"]
    assert [usage(service, other) for other in others] == others_before


def test_an_image_from_a_cache_is_charged_to_nobody(service, as_, next_seed):
    data = noise_file((HEIGHT, WIDTH), next_seed)
    embed(as_("team-a"), data)
    before = {name: usage(service, name) for name in TEAMS}

    for name in TEAMS:
        embed(as_(name), data)

    assert [added(before[name], usage(service, name)) for name in TEAMS] == [dict.fromkeys(COUNTERS, 0)] * len(TEAMS)


def test_an_image_that_several_keys_send_at_once_is_charged_once(service, as_, next_seed):
    data = noise_file((HEIGHT, WIDTH), next_seed)
    clients = [as_(name) for name in TEAMS * 2]
    before = [usage(service, name) for name in TEAMS]

    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(lambda client: embed(client, data), clients))

    after = [usage(service, name) for name in TEAMS]
    assert sum(new["images"] - old["images"] for old, new in zip(before, after, strict=True)) == 1


def test_a_region_is_charged_by_its_own_pixels(service, as_, next_seed):
    before = usage(service, "team-a")

    response = as_("team-a").post(
        "/embed", content=noise_file((HEIGHT, WIDTH), next_seed), params={"region": "10,5,50,45"}
    )

    assert response.status_code == 200, response.text
    assert added(before, usage(service, "team-a")) == {"images": 1, "pixels": 40 * 40, "prompts": 0}


def test_everything_mode_is_charged_by_its_points_and_a_cached_result_is_free(service, as_, next_seed):
    client = as_("team-a")
    image = embed(client, noise_file((HEIGHT, WIDTH), next_seed))
    before = usage(service, "team-a")

    find_all(client, image)
    computed = usage(service, "team-a")
    find_all(client, image)
    find_all(as_("team-c"), image)

    assert added(before, computed) == {"images": 0, "pixels": 0, "prompts": 16}
    assert computed["everything"] > before["everything"]
    assert computed["decode"] == before["decode"]
    assert added(computed, usage(service, "team-a")) == dict.fromkeys(COUNTERS, 0)


def test_a_labelling_tool_is_charged_like_other_clients(service, as_, next_seed):
    client, before = as_("Team_B.2"), usage(service, "Team_B.2")
    body = {"image": as_base64(noise_file((HEIGHT, WIDTH), next_seed)), "neg_points": [], "obj_bbox": None}

    for pos_points in ([[5, 5]], [[5, 5], [20, 20]]):
        response = client.post(
            "/cvat/api/function_invocations",
            json={**body, "pos_points": pos_points},
            headers={"x-nuclio-function-name": "edgesam"},
        )
        assert response.status_code == 200, response.text

    assert added(before, usage(service, "Team_B.2")) == {"images": 1, "pixels": HEIGHT * WIDTH, "prompts": 2}


def test_the_seconds_of_all_keys_are_those_of_the_stages(service, as_, next_seed):
    with open_client(service.url) as watching:
        before = Scrape(watching)
        client = as_("team-a")
        image = embed(client, noise_file((HEIGHT, WIDTH), next_seed))
        segment(client, image, point(5, 5))
        after = Scrape(watching)

    def grown(name, **labels):
        return after.value(name, **labels) - before.value(name, **labels)

    for lane in ("encode", "decode"):
        charged = grown("edgesam_usage_compute_seconds_total", lane=lane)
        assert charged == pytest.approx(grown("edgesam_stage_duration_seconds_sum", stage=lane), rel=1e-3)


def test_refused_requests_are_not_counted(service, as_):
    client, before = as_("team-c"), usage(service, "team-c")
    sent = [client.post("/embed", content=b"no image"), client.get("/nowhere"), client.head(f"/embed/{'7' * 64}")]

    client.get("/models").raise_for_status()
    wait_until(lambda: usage(service, "team-c")["requests"] > before["requests"], timeout_s=WAIT_S)

    assert all(response.status_code >= 400 for response in sent)
    assert usage(service, "team-c") == {**before, "requests": before["requests"] + 1}


def test_a_removed_key_keeps_its_counts_and_a_new_one_gets_its_own(service, as_, key_file, next_seed):
    embed(as_("team-c"), noise_file((HEIGHT, WIDTH), next_seed))
    before = usage(service, "team-c")
    write_keys(key_file, [*TEAMS[:2], "team-d"])
    try:
        wait_until(lambda: "team-d" in keys_with_series(service), timeout_s=WAIT_S)
        assert usage(service, "team-d") == dict.fromkeys(before, 0)  # before its first request
        as_("team-d").get("/models").raise_for_status()
        assert as_("team-c").get("/models").status_code == 401
        wait_until(lambda: usage(service, "team-d")["requests"] > 0, timeout_s=WAIT_S)

        assert usage(service, "team-c")["images"] == before["images"] >= 1
    finally:
        write_keys(key_file, TEAMS)
        wait_until(lambda: as_("team-c").get("/models").status_code == 200, timeout_s=WAIT_S)


def test_without_the_setting_no_name_of_a_key_is_in_the_metrics(artifact, key_file):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_API_KEYS_FILE": str(key_file)}
    with (
        ServiceProcess(settings) as service,
        open_client(service.url, headers={"X-API-Key": key_of("team-a")}) as client,
    ):
        embed(client, noise_file((HEIGHT, WIDTH), 1))

        text = client.get("/metrics").text

    assert "team-a" not in text
    assert "edgesam_usage_images_total{" not in text


def test_usage_without_keys_is_refused_at_the_start(monkeypatch):
    monkeypatch.setenv("EDGESAM_USAGE_METRICS", "true")

    with pytest.raises(ValidationError, match="EDGESAM_API_KEYS_FILE"):
        Settings()
