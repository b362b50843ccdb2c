"""The sums behind the manifests: memory, time to stop, time to wait, and threads."""

from dataclasses import dataclass

import pytest
from support.manifests import OVERLAYS, VARIANTS, bytes_of, container_of

from service.composition.inference import CLOSE_TIMEOUT_S, MAX_BACKGROUND_TASKS
from service.settings import Settings

NAMES = (*OVERLAYS, *VARIANTS)
MIB = 1 << 20

# Resident after the first requests, with the bundled model and two threads; test_deployment looks at a container. What
# CUDA's libraries add is an assumption.
BASE_BYTES = {"all": 560 * MIB, "embed": 460 * MIB, "segment": 280 * MIB}
CUDA_BYTES = 1536 * MIB
# Measured with an RGBA WebP of 50 megapixels, the costliest: 808 MiB above the base (docs/operations/reliability.md).
IMAGE_BYTES_PER_PIXEL = 17.0
FRAME_BYTES = 3 * 1024 * 1024 * 4
TOKENS_BYTES = 4096 * 256 * 2
MULTIPART_BYTES = 64 << 10

# uvicorn looks at its flags ten times a second, twice on its way out; the ends of what is behind are bounded.
CLOSING_S = 0.2 + 2 * CLOSE_TIMEOUT_S
# Endpoints, kube-proxy and a gateway's reload, after readiness has changed.
PROPAGATION_S = 5.0


@dataclass(frozen=True, slots=True)
class Need:
    """What a replica may hold at once, bytes."""

    base: int
    caches: int
    bodies: int
    reading: int
    writing: int
    behind: int

    @classmethod
    def of(cls, settings: Settings) -> "Need":
        """The sum of the bounds that the settings draw."""
        threads, embeds, segments = settings.threads, settings.role != "segment", settings.role != "embed"
        uploads = settings.max_embed_requests if embeds else 0
        clicks = settings.max_segment_requests if segments else 0
        return cls(
            base=BASE_BYTES[settings.role] + (CUDA_BYTES if settings.provider == "cuda" else 0),
            caches=settings.memory_cache_bytes + (settings.mask_memory_bytes if segments else 0),
            bodies=uploads * (settings.max_image_bytes + MULTIPART_BYTES) + clicks * settings.max_request_bytes,
            reading=uploads * FRAME_BYTES
            + (max(1, threads // 2) * int(settings.max_image_pixels * IMAGE_BYTES_PER_PIXEL) if embeds else 0),
            writing=(threads + 1) * settings.max_image_pixels if segments else 0,  # a mask a thread, a byte a pixel
            behind=MAX_BACKGROUND_TASKS * TOKENS_BYTES,
        )

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.base + self.caches + self.bodies + self.reading + self.writing + self.behind


def settings_of(manifests, deployment, monkeypatch):
    """What the service would read in the container."""
    with monkeypatch.context() as environment:
        for variable, value in manifests.environment(deployment).items():
            environment.setenv(variable, value)
        return Settings()


def noted(ingress):
    """The annotations without their prefix."""
    return {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_limit_is_what_all_bounds_together_allow(every, name, monkeypatch):
    for deployment in every[name].services():
        resources = container_of(deployment)["resources"]
        limit = bytes_of(resources["limits"]["memory"])

        need = Need.of(settings_of(every[name], deployment, monkeypatch))

        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert need.total <= limit, need
        assert limit < 1.25 * need.total, f"{need} would do with less"


@pytest.mark.parametrize("name", NAMES)
def test_threads_are_the_processors_that_are_asked_for(every, name, monkeypatch):
    for deployment in every[name].services():
        resources = container_of(deployment)["resources"]

        settings = settings_of(every[name], deployment, monkeypatch)

        assert settings.threads == int(resources["requests"]["cpu"]) > 0
        assert "cpu" not in resources["limits"]


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_has_the_time_that_it_may_take(every, name, monkeypatch):
    for deployment in every[name].services():
        pod, container = deployment["spec"]["template"]["spec"], container_of(deployment)
        settings = settings_of(every[name], deployment, monkeypatch)
        readiness = container["readinessProbe"]

        noticed_s = readiness["periodSeconds"] * readiness["failureThreshold"]
        let_in_s = settings.body_timeout_s + max(settings.embed_timeout_s, settings.segment_timeout_s)
        stop_s = settings.drain_s + settings.graceful_timeout_s + CLOSING_S

        assert "lifecycle" not in container
        assert settings.graceful_timeout_s >= let_in_s
        assert stop_s + 5 <= pod["terminationGracePeriodSeconds"]
        if name != "dev":
            assert settings.drain_s >= noticed_s + PROPAGATION_S


@pytest.mark.parametrize("name", NAMES)
def test_the_ingress_waits_longer_than_the_service(every, name, monkeypatch):
    for ingress in every[name].of("Ingress"):
        bounds = noted(ingress)
        if "canary" in bounds:  # takes over those of the other
            continue
        for deployment in every[name].services():
            settings = settings_of(every[name], deployment, monkeypatch)

            assert int(bounds["proxy-read-timeout"]) > settings.body_timeout_s + settings.embed_timeout_s
            assert bounds["proxy-body-size"].endswith("m")
            assert int(bounds["proxy-body-size"][:-1]) * MIB > settings.max_image_bytes + MULTIPART_BYTES
            assert "non_idempotent" not in bounds["proxy-next-upstream"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dev"])
def test_redis_may_take_a_quarter_more_than_it_keeps(every, name):
    container = container_of(every[name].named("Deployment", "edgesam-redis"))
    (most,) = [argument.split()[1] for argument in container["args"] if argument.startswith("--maxmemory ")]

    limit = bytes_of(container["resources"]["limits"]["memory"])

    assert most == "2gb"
    assert limit >= 1.25 * (2 << 30) + 64 * MIB
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_rollouts_never_take_away_what_serves_but_where_gpus_are_scarce(every):
    strategies = {
        f"{name}/{deployment['metadata']['name']}": tuple(deployment["spec"]["strategy"]["rollingUpdate"].values())
        for name in ("cpu", "gpu", "split")
        for deployment in every[name].services()
    }

    assert strategies == {
        "cpu/edgesam": (1, 0),
        "gpu/edgesam": (0, 1),
        "split/edgesam-embed": (0, 1),
        "split/edgesam-segment": (1, 0),
    }


def test_whoever_wants_a_gpu_may_stand_where_they_are(every):
    wanting = [
        (name, deployment)
        for name in OVERLAYS
        for deployment in every[name].services()
        if "nvidia.com/gpu" in container_of(deployment)["resources"]["limits"]
    ]

    assert [(name, one["metadata"]["name"]) for name, one in wanting] == [
        ("gpu", "edgesam"),
        ("split", "edgesam-embed"),
    ]
    for name, deployment in wanting:
        pod = deployment["spec"]["template"]["spec"]
        assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu"]
        assert every[name].environment(deployment)["EDGESAM_PROVIDER"] == "cuda"
        assert container_of(deployment)["image"].endswith("-gpu")
