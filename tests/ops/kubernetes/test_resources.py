"""The arithmetic of the manifests: memory limits, shutdown times, timeouts and threads."""

from dataclasses import dataclass

import pytest
from support.manifests import OVERLAYS, VARIANTS, bytes_of, container_of, cores_of

from service.composition.inference import CLOSE_TIMEOUT_S, MAX_BACKGROUND_TASKS
from service.inference.everything_answers import MAX_ANSWER_BYTES
from service.sam.everything.result import MAX_CANDIDATE_BYTES
from service.settings import Settings

NAMES = (*OVERLAYS, *VARIANTS)
MIB = 1 << 20

# Resident memory after the first requests, with the bundled model and two threads; test_deployment.py checks it in a
# container. The memory of CUDA's libraries is an assumption.
BASE_BYTES = {"all": 560 * MIB, "embed": 460 * MIB, "segment": 280 * MIB}
CUDA_BYTES = 1536 * MIB
# Measured with an RGBA WebP of 50 megapixels, the costliest: 792 to 808 MiB above the base
# (docs/operations/reliability.md).
IMAGE_BYTES_PER_PIXEL = 17.0
FRAME_BYTES = 3 * 1024 * 1024 * 4
EMBEDDING_BYTES = 4096 * 1024 * 2  # of EdgeTAM and SAM 2.1; others take a quarter
MULTIPART_BYTES = 64 << 10
# Candidates of a request, its written masks, and their copy in the answer.
EVERYTHING_BYTES = MAX_CANDIDATE_BYTES + 2 * MAX_ANSWER_BYTES
DRAWN_BYTES_PER_PIXEL = 4  # a mask of the whole image as polygon or PNG, in each thread

# uvicorn polls its flags ten times a second, twice during a shutdown. Closing Redis and background tasks is bounded.
CLOSING_S = 0.2 + 2 * CLOSE_TIMEOUT_S
# Time until endpoints, kube-proxy and a gateway have followed a change of readiness.
PROPAGATION_S = 5.0


@dataclass(frozen=True, slots=True)
class Need:
    """Upper bounds of a replica's memory, in bytes.

    Attributes:
        base: Process with the loaded model.
        caches: In-memory caches of image states and masks.
        bodies: Bodies of all admitted requests.
        reading: Decoded images and frames of uploads.
        writing: Masks that are being encoded.
        everything: Masks of everything requests, and those that are drawn.
        behind: Values that background tasks write to Redis.
    """

    base: int
    caches: int
    bodies: int
    reading: int
    writing: int
    everything: int
    behind: int

    @classmethod
    def of(cls, settings: Settings) -> "Need":
        """Return the bounds that follow from the settings."""
        threads, embeds, segments = settings.threads, settings.role != "segment", settings.role != "embed"
        uploads = settings.max_embed_requests if embeds else 0
        clicks = settings.max_segment_requests if segments else 0
        return cls(
            base=BASE_BYTES[settings.role] + (CUDA_BYTES if settings.provider == "cuda" else 0),
            caches=settings.memory_cache_bytes + (settings.mask_memory_bytes if segments else 0),
            bodies=uploads * (settings.max_image_bytes + MULTIPART_BYTES) + clicks * settings.max_request_bytes,
            reading=uploads * FRAME_BYTES
            + (max(1, threads // 2) * int(settings.max_image_pixels * IMAGE_BYTES_PER_PIXEL) if embeds else 0),
            writing=(threads + 1) * settings.max_image_pixels if segments else 0,  # a mask per thread, a byte per pixel
            everything=settings.everything_at_once * EVERYTHING_BYTES
            + threads * DRAWN_BYTES_PER_PIXEL * settings.max_image_pixels
            if segments
            else 0,
            behind=MAX_BACKGROUND_TASKS * EMBEDDING_BYTES,
        )

    @property
    def total(self) -> int:
        """Sum of all bounds."""
        return self.base + self.caches + self.bodies + self.reading + self.writing + self.everything + self.behind


def settings_of(manifests, deployment, monkeypatch):
    """Return the service's settings in the container of a Deployment."""
    with monkeypatch.context() as environment:
        for variable, value in manifests.environment(deployment).items():
            environment.setenv(variable, value)
        return Settings()


def noted(ingress):
    """Return the annotations of an Ingress without their prefix."""
    return {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_limit_is_the_sum_of_all_bounds(every, name, monkeypatch):
    for deployment in every[name].services():
        resources = container_of(deployment)["resources"]
        limit = bytes_of(resources["limits"]["memory"])

        need = Need.of(settings_of(every[name], deployment, monkeypatch))

        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert need.total <= limit, need
        assert limit < 1.25 * need.total, f"the limit is too high for {need}"


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_is_the_cpu_request(every, name, monkeypatch):
    for deployment in every[name].services():
        resources = container_of(deployment)["resources"]

        settings = settings_of(every[name], deployment, monkeypatch)

        assert settings.threads == cores_of(resources["requests"]["cpu"]) > 0
        assert "cpu" not in resources["limits"]


@pytest.mark.parametrize("name", NAMES)
def test_the_grace_period_is_longer_than_a_shutdown(every, name, monkeypatch):
    for deployment in every[name].services():
        pod, container = deployment["spec"]["template"]["spec"], container_of(deployment)
        settings = settings_of(every[name], deployment, monkeypatch)
        readiness = container["readinessProbe"]

        noticed_s = readiness["periodSeconds"] * readiness["failureThreshold"]
        works_s = settings.embed_timeout_s, settings.segment_timeout_s, settings.everything_timeout_s
        request_s = settings.body_timeout_s + max(works_s)
        stop_s = settings.drain_s + settings.graceful_timeout_s + CLOSING_S

        assert "lifecycle" not in container
        assert settings.graceful_timeout_s >= request_s
        assert stop_s + 5 <= pod["terminationGracePeriodSeconds"]
        assert settings.drain_s >= noticed_s + PROPAGATION_S


@pytest.mark.parametrize("name", NAMES)
def test_the_timeouts_of_the_ingress_are_longer_than_those_of_the_service(every, name, monkeypatch):
    for ingress in every[name].of("Ingress"):
        bounds = noted(ingress)
        if "canary" in bounds:  # the canary uses the annotations of the main Ingress
            continue
        for deployment in every[name].services():
            settings = settings_of(every[name], deployment, monkeypatch)

            assert int(bounds["proxy-read-timeout"]) > settings.body_timeout_s + settings.embed_timeout_s
            assert int(bounds["proxy-read-timeout"]) > settings.everything_timeout_s
            assert bounds["proxy-body-size"].endswith("m")
            assert int(bounds["proxy-body-size"][:-1]) * MIB > settings.max_image_bytes + MULTIPART_BYTES
            assert "non_idempotent" not in bounds["proxy-next-upstream"]


def test_the_timeouts_of_the_gateway_are_longer_than_those_of_the_service(every, monkeypatch):
    manifests = every["gateway"]
    settings = settings_of(manifests, manifests.services()[0], monkeypatch)
    (rule,) = manifests.named("HTTPRoute", "edgesam")["spec"]["rules"]
    client = manifests.named("ClientTrafficPolicy", "edgesam")["spec"]["timeout"]["http"]

    request_s, body_s = (
        int(text.removesuffix("s")) for text in (rule["timeouts"]["request"], client["requestReceivedTimeout"])
    )

    assert request_s > settings.body_timeout_s + settings.embed_timeout_s
    assert request_s >= settings.body_timeout_s + settings.everything_timeout_s
    assert body_s > settings.body_timeout_s


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dev"])
def test_the_limit_of_redis_is_a_quarter_above_its_maxmemory(every, name):
    container = container_of(every[name].named("Deployment", "edgesam-redis"))
    (most,) = [argument.split()[1] for argument in container["args"] if argument.startswith("--maxmemory ")]

    limit = bytes_of(container["resources"]["limits"]["memory"])

    assert most == "2gb"
    assert limit >= 1.25 * (2 << 30) + 64 * MIB
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_rollouts_remove_a_running_replica_first_only_on_gpus(every):
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


def test_replicas_with_a_gpu_tolerate_the_taint_of_gpu_nodes(every):
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
