"""Regions of images, copies of uploads, and a service that has lost its Redis, through both clients."""

from collections.abc import Iterator

import numpy as np
import pytest
from support.noise_images import noise_file
from support.redis_server import RedisServer
from support.service_process import ServiceProcess

from service.client import ClientError, Embedded, PromptRefused

BOX = (40, 30, 120, 100)


@pytest.fixture(scope="module")
def keeping(artifact) -> Iterator[ServiceProcess]:
    """Keeps copies of uploads."""
    with RedisServer() as redis:
        settings = {
            "EDGESAM_MODEL_DIR": str(artifact),
            "EDGESAM_REDIS_URL": redis.url,
            "EDGESAM_KEEP_IMAGES_S": "600",
        }
        with ServiceProcess(settings) as service:
            yield service


@pytest.fixture(scope="module")
def without_redis(artifact) -> Iterator[ServiceProcess]:
    """Has lost its Redis."""
    with RedisServer() as redis:
        settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_URL": redis.url}
        with ServiceProcess(settings) as service:
            redis.kill()
            yield service


def test_a_region_is_an_image_of_its_own_with_the_pixels_of_the_whole(client, next_seed):
    image = client.embed(noise_file((120, 160), next_seed))

    region = client.region(image, BOX)
    known = client.region(image, np.array(BOX))
    answer = client.segment(region, points=(80, 60), multimask=1)

    assert region.image_id == f"{image.image_hash}~region=40,30,120,100"
    assert (region.region, region.width, region.height, region.was_uploaded) == (BOX, 160, 120, True)
    assert (known.image_id, known.region, known.was_uploaded) == (region.image_id, BOX, False)
    assert (image.region, client.embed(noise_file((120, 160), next_seed), region=BOX).region) == (None, BOX)
    assert answer.best.pixels.shape == (120, 160)
    assert answer.image_id == region.image_id
    assert not answer.best.pixels[:30].any()
    assert not answer.best.pixels[:, 120:].any()
    with pytest.raises(PromptRefused, match="region"):
        client.segment(region, points=(10, 10))


def test_an_evicted_region_is_embedded_again(client, next_seed):
    region = client.embed(noise_file((120, 160), next_seed), region=BOX)
    before = client.segment(region, points=(80, 60))
    client.forget(region.image_hash)
    assert not client.contains(region.image_id)

    after = client.segment(region, points=(80, 60))

    assert [mask.counts for mask in after.masks] == [mask.counts for mask in before.masks]


def test_a_region_that_is_the_whole_image_is_the_image(client, next_seed):
    image = client.embed(noise_file((50, 60), next_seed))

    whole = client.region(image, (0, 0, 60, 50))

    assert (whole.image_id, whole.region) == (image.image_id, None)
    assert client.segment(whole, points=(20, 20)).image_id == image.image_id


@pytest.mark.parametrize("box", [(0, 0, 31, 100), (-1, 0, 40, 40), (0.5, 0, 60, 60), (0, 0, 60), (0, 0, "a", 60)])
def test_what_no_region_can_be_is_refused_here(client, box):
    with pytest.raises(ValueError, match=r"region|could not convert"):
        client.embed(noise_file((100, 100), seed=1), region=box)


def test_a_region_outside_the_image_is_refused_with_its_size(client, next_seed):
    image = client.embed(noise_file((50, 60), next_seed))

    with pytest.raises(ClientError, match="60"):
        client.region(image, (0, 0, 61, 50))


def test_the_copy_of_the_service_serves_for_a_region(connect, keeping, tmp_path, next_seed):
    client = connect(keeping.url)
    path = tmp_path / "image.png"
    path.write_bytes(noise_file((120, 160), next_seed))
    image = client.embed(path)
    path.unlink()  # nothing could be uploaded

    region = client.region(image, BOX)

    assert (region.region, region.was_uploaded) == (BOX, False)
    assert client.segment(region, points=(80, 60)).image_id == region.image_id
    client.forget(image.image_hash)
    with pytest.raises(FileNotFoundError):
        client.region(image, BOX)


def test_a_changed_file_is_no_region_of_the_image(client, tmp_path, next_seed):
    path = tmp_path / "image.png"
    path.write_bytes(noise_file((120, 160), next_seed))
    image = client.embed(path)
    path.write_bytes(noise_file((121, 160), next_seed))

    with pytest.raises(ClientError, match="has changed"):
        client.region(image, BOX)


def test_without_redis_an_image_is_uploaded_at_once(connect, without_redis, next_seed):
    client = connect(without_redis.url, retry_s=0)
    data = noise_file((120, 160), next_seed)

    image = client.embed(data)
    region = client.region(image, BOX)

    assert (image.was_uploaded, region.was_uploaded) == (True, True)
    assert client.segment(region, points=(80, 60)).best.size == (120, 160)
    assert isinstance(client.embed(data), Embedded)  # it is in memory now
