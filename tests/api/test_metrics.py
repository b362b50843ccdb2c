"""The metrics: their names, bounded labels, and the stages that Server-Timing also has."""

import re

import pytest
from support.noise_images import noise_file
from support.service_client import Scrape, embed, point, segment

NAMES = {
    "edgesam_http_request_duration_seconds": ("histogram", {"route", "method", "status"}),
    "edgesam_objective_duration_seconds": ("histogram", {"objective"}),
    "edgesam_stage_duration_seconds": ("histogram", {"stage"}),
    "edgesam_cache_lookups": ("counter", {"tier", "outcome"}),
    "edgesam_cache_bytes": ("gauge", {"tier"}),
    "edgesam_cache_evictions": ("counter", {"tier"}),
    "edgesam_disk_cache_files": ("gauge", set()),
    "edgesam_disk_cache_paused": ("gauge", set()),
    "edgesam_disk_cache_errors": ("counter", {"operation"}),
    "edgesam_queue_depth": ("gauge", {"lane"}),
    "edgesam_queue_wait_seconds": ("histogram", {"lane"}),
    "edgesam_batch_size": ("histogram", {"lane"}),
    "edgesam_in_flight": ("gauge", {"route"}),
    "edgesam_rejected": ("counter", {"reason"}),
    "edgesam_redis_breaker_open": ("gauge", set()),
    "edgesam_api_keys": ("gauge", set()),
    "edgesam_api_keys_stale": ("gauge", set()),
    "edgesam_everything_prompts": ("counter", set()),
    "edgesam_everything_masks": ("counter", {"source"}),
    "edgesam_usage_requests": ("counter", {"key"}),
    "edgesam_usage_images": ("counter", {"key"}),
    "edgesam_usage_pixels": ("counter", {"key"}),
    "edgesam_usage_prompts": ("counter", {"key"}),
    "edgesam_usage_compute_seconds": ("counter", {"key", "lane"}),
    "edgesam_model_info": ("gauge", {"model", "fingerprint", "provider", "precision", "trained"}),
}
# Routes on which each stage occurs without Redis.
STAGES = {
    "hash", "cache_get", "decode_image", "preprocess", "queue", "encode", "prepare", "decode", "postprocess",
    "serialize",
}  # fmt: skip


def stages_of(response) -> set[str]:
    """Return the names of the stages in Server-Timing."""
    entries = response.headers["server-timing"].split(", ")
    assert all(re.fullmatch(r"[a-z_]+;dur=\d+\.\d\d", entry) for entry in entries)
    return {entry.partition(";")[0] for entry in entries}


def test_the_names_and_types_are_those_of_the_design(client):
    found = {family.name: family for family in Scrape(client).families if family.name.startswith("edgesam_")}

    assert {name: family.type for name, family in found.items()} == {name: kind for name, (kind, _) in NAMES.items()}
    assert all(family.documentation for family in found.values())


def test_the_labels_are_those_of_the_design(client):
    image_hash = embed(client, noise_file((20, 20), seed=60))
    segment(client, image_hash, point(1, 1))
    client.post("/embed", content=b"")

    for family in Scrape(client).families:
        if family.name in NAMES:
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == NAMES[family.name][1], sample


def test_stages_of_server_timing_are_counted_in_the_histogram(client, next_seed):
    before = Scrape(client)
    embedded = client.post("/embed", content=noise_file((22, 22), next_seed))
    body = {"image_hash": embedded.json()["image_hash"], "prompts": [point(1, 1)]}
    mask = client.post("/segment", json=body).json()["results"][0]["masks"][0]
    body["prompts"][0]["mask_id"] = mask["mask_id"]
    refined = client.post("/segment", json=body)
    after = Scrape(client)

    told = stages_of(embedded) | stages_of(refined)

    assert told == STAGES | {"total"}
    for stage in STAGES:
        counts = [scrape.value("edgesam_stage_duration_seconds_count", stage=stage) for scrape in (before, after)]
        assert counts[1] > counts[0], stage


def test_requests_are_counted_by_route_method_and_status(client):
    def count(scrape):
        labels = {"route": "/embed/{image_hash}", "method": "HEAD", "status": "404"}
        return scrape.value("edgesam_http_request_duration_seconds_count", **labels)

    before = count(Scrape(client))

    client.head(f"/embed/{'1' * 64}")

    assert count(Scrape(client)) == before + 1


@pytest.mark.parametrize("path", ["/nothing", "/embed/a/b", "/problems/x/y/z", "/%F0%9F%90%88", "//embed"])
def test_addresses_without_a_route_share_one_label(client, path):
    client.get(path)

    routes = Scrape(client).labels("edgesam_http_request_duration_seconds_count", "route")
    assert "unmatched" in routes
    assert routes <= {
        "unmatched", "/embed", "/embed/{image_hash}", "/segment", "/segment/everything", "/models", "/metrics",
        "/livez", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{name}", "/", "/web/{name}",
        "/web/samples/{name}", "/web/{folder}/{name}", "/web/runtime/{name}",
    }  # fmt: skip


def test_rare_methods_share_one_label(client):
    client.request("PROPFIND", "/embed")

    methods = Scrape(client).labels("edgesam_http_request_duration_seconds_count", "method")
    assert "other" in methods
    assert "PROPFIND" not in methods


def test_no_label_holds_a_hash(client):
    image_hash = embed(client, noise_file((23, 23), seed=61))
    mask = segment(client, image_hash, point(1, 1))[0][0]

    text = Scrape(client).response.text

    assert image_hash not in text
    assert mask["mask_id"] not in text


def test_the_memory_tier_reports_its_size(client, next_seed):
    before = Scrape(client).value("edgesam_cache_bytes", tier="memory")

    embed(client, noise_file((24, 24), next_seed))

    assert Scrape(client).value("edgesam_cache_bytes", tier="memory") - before == 5 << 20


def test_look_ups_are_counted_by_outcome(client, next_seed):
    image_hash = embed(client, noise_file((25, 25), next_seed))
    before = Scrape(client)

    segment(client, image_hash, point(1, 1))
    client.post("/segment", json={"image_hash": "2" * 64, "prompts": [point(1, 1)]})

    after = Scrape(client)
    for outcome in ("hit", "miss"):
        labels = {"tier": "memory", "outcome": outcome}
        assert after.value("edgesam_cache_lookups_total", **labels) > before.value(
            "edgesam_cache_lookups_total", **labels
        )


def test_metrics_have_the_format_of_the_accept_header(client):
    plain = client.get("/metrics")
    modern = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


def test_the_model_is_described(client):
    (family,) = (family for family in Scrape(client).families if family.name == "edgesam_model_info")

    (sample,) = family.samples

    described = client.get("/models").json()["models"][0]
    assert sample.value == 1
    assert sample.labels == {
        "model": "random",
        "fingerprint": described["fingerprint"],
        "provider": "cpu",
        "precision": "float32",
        "trained": "false",
    }
