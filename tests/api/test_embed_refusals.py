"""Uploads that /embed refuses: by the body, by its type, by the image in it."""

import io

import numpy as np
import pytest
from PIL import Image
from support.noise_images import as_file, noise_file, noise_image
from support.raw_http import RawConnection
from support.service_client import assert_problem

from service.errors import (
    BodyTooLarge,
    ImageTooLarge,
    MalformedBody,
    UndecodableImage,
    UnsupportedImage,
    UnusableAspectRatio,
)

FORM = "multipart/form-data; boundary=seam"
LIMIT_BYTES = 60_000  # of the fixture `limited`


def form(*parts: tuple[str, bytes], end: bytes = b"--seam--\r\n") -> bytes:
    """Return a multipart body of named parts."""
    head = '--seam\r\nContent-Disposition: form-data; name="{}"; filename="f"\r\nContent-Type: image/png\r\n\r\n'
    return b"".join(head.format(name).encode() + data + b"\r\n" for name, data in parts) + end


def test_a_body_announced_too_large_is_refused_before_it_is_sent(limited):
    with RawConnection(limited.url) as connection:
        connection.start("/embed", f"Content-Length: {LIMIT_BYTES + 1}")

        response = connection.response()

    assert assert_problem(response, BodyTooLarge)["limit"] == LIMIT_BYTES


def test_a_body_without_length_is_refused_as_soon_as_it_is_too_large(limited):
    with RawConnection(limited.url) as connection:
        connection.start("/embed", "Transfer-Encoding: chunked")
        connection.send(b"%x\r\n" % (LIMIT_BYTES + 1) + bytes(LIMIT_BYTES + 1))

        response = connection.response()

    assert assert_problem(response, BodyTooLarge)["limit"] == LIMIT_BYTES


def test_a_body_of_just_the_limit_is_read(limited_client):
    image = noise_file((20, 20))

    response = limited_client.post("/embed", content=image + bytes(LIMIT_BYTES - len(image)))

    assert response.status_code == 200


def test_multipart_headers_do_not_count_towards_the_size_limit(limited_client):
    image = noise_file((20, 20))
    body = form(("image", image + bytes(LIMIT_BYTES - len(image))))
    assert len(body) > LIMIT_BYTES

    response = limited_client.post("/embed", content=body, headers={"Content-Type": FORM})

    assert response.status_code == 200


def test_segment_has_a_limit_of_its_own(limited_client):
    response = limited_client.post("/segment", content=b" " * 5001)

    assert assert_problem(response, BodyTooLarge)["limit"] == 5000


@pytest.mark.parametrize("path", ["/embed", "/segment"])
def test_an_empty_body_is_malformed(client, path):
    assert_problem(client.post(path), MalformedBody)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param(FORM, form(("photo", b"x")), id="no field image"),
        pytest.param(FORM, form(("image", b"")), id="empty field"),
        pytest.param(FORM, form(("image", b"x"), end=b""), id="cut off"),
        pytest.param(FORM, form(("image", b"x"))[:40], id="cut off in a header"),
        pytest.param(FORM, form(("image", b"x")).replace(b"seam", b"other"), id="another boundary"),
        pytest.param(FORM, b"\xff" * 100, id="noise"),
        pytest.param(FORM, form(("image", b"x")).replace(b"Content-Type:", b"Cont\xe9nt Type"), id="bad header"),
        pytest.param("multipart/form-data", form(("image", b"x")), id="no boundary"),
        pytest.param("multipart/form-data; boundary=", form(("image", b"x")), id="empty boundary"),
        pytest.param(f"multipart/form-data; boundary={'s' * 5000}", form(("image", b"x")), id="endless boundary"),
    ],
)
def test_multipart_that_cannot_be_read_is_malformed(client, content_type, body):
    response = client.post("/embed", content=body, headers={"Content-Type": content_type})

    assert_problem(response, MalformedBody)


@pytest.mark.parametrize("content_type", ["text/html", "application/xml", "multipart/mixed; boundary=seam"])
def test_a_content_type_of_no_image_is_unsupported(client, content_type):
    response = client.post("/embed", content=noise_file((20, 20)), headers={"Content-Type": content_type})

    assert "multipart/form-data" in assert_problem(response, UnsupportedImage)["detail"]


@pytest.mark.parametrize("data", [b"hello, I am text", b"<svg/>", bytes(1000), b"\0\0\0\x18ftypisom" + bytes(20)])
def test_bytes_that_are_no_image_are_unsupported(client, data):
    response = client.post("/embed", content=data, headers={"Content-Type": "image/jpeg"})

    assert_problem(response, UnsupportedImage)


def test_an_image_cut_off_is_undecodable(client):
    data = as_file(noise_image((200, 300)), "JPEG")

    response = client.post("/embed", content=data[: len(data) // 2])

    assert_problem(response, UndecodableImage)


def test_an_image_of_too_many_pixels_is_refused_with_the_limit(limited_client):
    data = as_file(np.zeros((1001, 1000, 3), np.uint8))

    document = assert_problem(limited_client.post("/embed", content=data), ImageTooLarge)

    assert document["limit"] == 1_000_000
    assert (document["width"], document["height"]) == (1000, 1001)


def test_an_image_that_only_claims_many_pixels_is_refused_by_its_header(client):
    data = bytearray(noise_file((16, 16)))
    data[16:24] = (100_000).to_bytes(4, "big") * 2

    response = client.post("/embed", content=bytes(data))

    assert response.status_code in {413, 422}
    assert response.json()["code"] in {"image-too-large", "undecodable-image"}


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_an_image_too_narrow_for_the_frame_is_refused(client, size):
    buffer = io.BytesIO()
    Image.new("L", size[::-1], 128).save(buffer, "PNG")

    document = assert_problem(client.post("/embed", content=buffer.getvalue()), UnusableAspectRatio)

    assert (document["height"], document["width"]) == size


def test_a_refused_image_is_not_cached(client):
    data = b"hello, I am text, too"

    first, second = (client.post("/embed", content=data) for _ in range(2))

    assert_problem(first, UnsupportedImage)
    assert_problem(second, UnsupportedImage)
