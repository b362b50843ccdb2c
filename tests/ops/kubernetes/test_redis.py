"""The Redis of the manifests, started with their arguments: permissions, TLS and the exporter."""

from urllib.parse import urlsplit

import httpx
import pytest
import redis
from support.manifest_redis import ManifestExporter, make_secrets, manifest_redis, mounted
from support.noise_images import noise_file
from support.service_client import embed, open_client
from support.service_process import ServiceProcess


def test_redis_users_may_run_only_their_commands(every, tmp_path):
    secrets = make_secrets()
    deployment = every["cpu"].named("Deployment", "edgesam-redis")

    with manifest_redis(deployment, secrets, tmp_path) as url, redis.Redis.from_url(url) as client:
        client.set("edgesam:one", b"1", ex=10)

        assert client.get("edgesam:one") == b"1"
        assert client.publish("edgesam:forget", b"one") == 0
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.publish("other", b"one")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.config_get("maxmemory")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("other", b"1")
        metrics_url = f"redis://metrics:{secrets['edgesam-redis']['metrics-password']}@{url.split('@')[1]}"
        with redis.Redis.from_url(metrics_url) as exporter:
            assert exporter.info()["maxmemory_policy"] == "allkeys-lfu"
            with pytest.raises(redis.exceptions.NoPermissionError):
                exporter.get("edgesam:one")
        with (
            redis.Redis.from_url(url.replace(url.split("@")[0], "redis://edgesam:wrong")) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.set("edgesam:one", b"1")


def test_every_run_of_make_secrets_creates_a_new_password():
    first, second = make_secrets(), make_secrets()

    assert first["edgesam-redis"]["url"] != second["edgesam-redis"]["url"]
    assert len(first["edgesam-redis"]["url"].split(":")[2].split("@")[0]) == 48


def test_redis_with_tls_needs_its_certificate_authority(every, tmp_path):
    secrets = make_secrets("--tls")
    deployment = every["tls"].named("Deployment", "edgesam-redis")
    with manifest_redis(deployment, secrets, tmp_path) as url:
        # The certificate has the name of the Service, which only a cluster resolves.
        mounted = url.replace("/etc/edgesam/redis", str(tmp_path / "tls"))

        with redis.Redis.from_url(mounted, ssl_check_hostname=False) as client:
            client.set("edgesam:one", b"1", ex=10)

            assert client.get("edgesam:one") == b"1"
        for wrong in (mounted, url.split("?")[0], url.split("?")[0].replace("rediss", "redis")):
            with redis.Redis.from_url(wrong, socket_timeout=5) as stranger, pytest.raises(redis.ConnectionError):
                stranger.ping()


def test_the_authority_is_mounted_at_the_path_of_the_redis_url(every):
    (deployment,) = every["tls"].services()
    url = make_secrets("--tls")["edgesam-redis"]["url"]
    pod = deployment["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    (volume,) = [one for one in pod["volumes"] if one["name"] == "redis-ca"]

    assert url.endswith(f"?ssl_ca_certs={mounts['redis-ca']}/{volume['secret']['items'][0]['path']}")


def test_redis_with_client_certificates_refuses_clients_without_one(every, tmp_path):
    secrets = make_secrets("--client-certificates")
    manifests = every["client-certificates"]
    with manifest_redis(manifests.named("Deployment", "edgesam-redis"), secrets, tmp_path / "redis") as url:
        address = f"{url}&ssl_check_hostname=false"  # the certificate has the name of the Service
        for path, place in mounted(manifests.services()[0], secrets, tmp_path / "replica").items():
            address = address.replace(f"{path}/", f"{place}/")

        with ServiceProcess({"EDGESAM_REDIS_URL": address}) as service, open_client(service.url) as client:
            embed(client, noise_file((30, 40), seed=1))
            assert client.get("/readyz").json()["redis"] == "ok"
        without = address.split("&ssl_certfile")[0] + "&ssl_check_hostname=false"
        with redis.Redis.from_url(without) as stranger, pytest.raises(redis.ConnectionError):
            stranger.ping()


@pytest.mark.parametrize(
    ("name", "options"),
    [("watched", []), ("tls", ["--tls"]), ("client-certificates", ["--client-certificates"])],
)
def test_the_exporter_connects_to_redis(every, name, options, tmp_path):
    secrets = make_secrets(*options)
    with (
        manifest_redis(every[name].named("Deployment", "edgesam-redis"), secrets, tmp_path) as url,
        ManifestExporter(
            every[name].named("Deployment", "edgesam-redis-exporter"), secrets, redis_port=urlsplit(url).port
        ) as exporter,
    ):
        said = httpx.get(f"{exporter.url}/metrics", trust_env=False).text

    assert "\nredis_up 1\n" in said
    assert "\nredis_memory_max_bytes 2.147483648e+09\n" in said


@pytest.mark.parametrize("missing", ["authority", "certificate"])
def test_the_exporter_needs_the_authority_and_the_client_certificate(every, missing, tmp_path):
    secrets = make_secrets("--client-certificates")
    name = "tls" if missing == "certificate" else "client-certificates"
    known = (
        secrets | {"edgesam-redis-tls": make_secrets("--tls")["edgesam-redis-tls"]}
        if missing == "authority"
        else secrets
    )
    redis_server = every["client-certificates"].named("Deployment", "edgesam-redis")
    with (
        manifest_redis(redis_server, secrets, tmp_path) as url,
        ManifestExporter(
            every[name].named("Deployment", "edgesam-redis-exporter"), known, redis_port=urlsplit(url).port
        ) as exporter,
    ):
        said = httpx.get(f"{exporter.url}/metrics", trust_env=False).text

    assert "\nredis_up 0\n" in said
