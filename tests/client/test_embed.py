"""Embedding through both clients: what is uploaded, when, and what the caller learns."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from support.client_kinds import KEY
from support.noise_images import as_file, noise_file, noise_image

from service.client import PictureRefused
from service.client.images import ImageSource


def test_a_known_image_is_not_uploaded_again(client, next_seed):
    data = noise_file((30, 50), next_seed)
    uploads: list[tuple[int, int]] = []

    first = client.embed(data)
    second = client.embed(data, progress=lambda *sent: uploads.append(sent))

    assert (first.was_uploaded, first.cached) == (True, None)
    assert (second.was_uploaded, second.cached) == (False, "memory")
    assert uploads == []
    assert (first.image_hash, first.width, first.height) == (second.image_hash, 50, 30)
    assert (second.width, second.height) == (50, 30)
    assert first.timing.stages_ms["encode"] > 0
    assert first.timing.round_trip_ms >= first.timing.stages_ms["total"]


def test_path_bytes_and_array_are_the_same_image(client, next_seed, tmp_path):
    image = noise_image((40, 30), next_seed)
    path = tmp_path / "image.jpg"
    path.write_bytes(as_file(image, "JPEG"))

    by_path, by_text, by_bytes = (client.embed(one) for one in (path, str(path), path.read_bytes()))
    by_array, again = client.embed(image), client.embed(np.asfortranarray(image))

    assert by_path.image_hash == by_text.image_hash == by_bytes.image_hash
    assert by_path.image_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (by_array.width, by_array.height) == (30, 40)
    assert not again.was_uploaded


def test_progress_runs_from_nothing_to_everything(client, next_seed):
    data = noise_file((300, 400), next_seed)
    told: list[tuple[int, int]] = []

    client.embed(data, progress=lambda *sent: told.append(sent))

    assert len(data) > 2 * 64 * 1024
    assert told[0] == (0, len(data))
    assert told[-1] == (len(data), len(data))
    assert told == sorted(told)
    assert len(told) == 4


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_known_image_has_the_size_and_orientation_of_its_upload(client, file_format, next_seed):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = as_file(noise_image((20, 30), next_seed), file_format, exif=exif)

    first, second = client.embed(data), client.embed(data)

    assert (first.was_uploaded, second.was_uploaded) == (True, False)
    assert (second.width, second.height, second.orientation) == (first.width, first.height, first.orientation)
    assert (first.width, first.height, first.orientation) == ((30, 20, 1) if file_format == "WEBP" else (20, 30, 6))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_grey_rgb_and_rgba_arrays_are_images(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    with Image.open(io.BytesIO(ImageSource.of(array[::-1]).read())) as image:
        pixels = np.asarray(image)

    assert np.array_equal(pixels, array[::-1].reshape(pixels.shape))


@pytest.mark.parametrize("array", [np.zeros((9, 9, 3)), np.zeros((9, 9, 2), np.uint8), np.zeros((0, 9, 3), np.uint8)])
def test_other_arrays_are_refused_with_what_to_do(client, array):
    with pytest.raises(ValueError, match="uint8 of shape"):
        client.embed(array)


def test_a_missing_file_is_an_error_of_the_file(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        client.embed(tmp_path / "nothing.jpg")


@pytest.mark.parametrize(
    ("data", "code", "status"),
    [(b"this is no image", "unsupported-image", 415), (noise_file((50, 50))[:900], "undecodable-image", 422)],
)
def test_what_the_service_refuses_is_a_typed_error(client, data, code, status):
    with pytest.raises(PictureRefused) as caught:
        client.embed(data)

    assert (caught.value.code, caught.value.status) == (code, status)
    assert len(caught.value.request_id) == 16
    assert caught.value.detail in str(caught.value)
    assert caught.value.extra["title"]


@pytest.mark.parametrize("progress", [None, lambda _sent, _total: None])
def test_an_upload_that_is_refused_halfway_says_why(connect, narrow, progress):
    client = connect(narrow.url, KEY, retry_s=0)

    with pytest.raises(PictureRefused) as caught:
        client.embed(bytes(20_000_000), progress=progress)

    assert (caught.value.code, caught.value.status, caught.value.extra["limit"]) == ("body-too-large", 413, 100_000)
