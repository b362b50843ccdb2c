"""The image of published answers: from a file, or downloaded with a bound on its size and on the time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from model_store.errors import ModelStoreError, UsageError
from model_store.fetching.fetch import FetchError, Limits
from model_store.fetching.mirrors import MirrorError, mirrored, refuse_redirect, shown_url, url_problem
from model_store.scores.published import ScoredImage
from service.errors import ServiceError
from service.process import configure_image_libraries
from service.regular_files import read_regular_file
from service.sam.decoded_image import DecodedImage
from service.sam.frame import Resize
from service.sam.images import decode_image

MAX_BYTES: Final = 8 * 2**20
"""Largest image file that is read. The one of the catalogue has less than 1 MB."""
TIME_LIMIT_S: Final = 60.0
"""Longest time of a download, in seconds."""


def scored_image(
    image: ScoredImage, file: Path | None, mirror: str = "", *, resize: Resize = "stretch"
) -> DecodedImage:
    """Return the image of published answers.

    Args:
        image: The image.
        file: File of it; None to download it.
        mirror: Base address that replaces scheme and host of its address; empty for none.
        resize: How the model's images are resized, on which the scale of decoding depends.

    Raises:
        ModelStoreError: The image cannot be read or downloaded, or it is another one.
    """
    if file is None:
        (url,) = mirrored((image.url,), mirror) if mirror else (image.url,)
        data, place = download(url), shown_url(url)
    else:
        data, place = _content(file), str(file)
    configure_image_libraries()
    try:
        decoded = decode_image(data, max_pixels=image.width * image.height, resize=resize)
    except ServiceError as error:
        raise ModelStoreError(f"{place} is not {image.file_name}: {error.detail}") from error
    if decoded.size != (image.height, image.width):
        height, width = decoded.size
        raise ModelStoreError(
            f"{place} is not {image.file_name}: it has {width} x {height} pixels, not {image.width} x {image.height}"
        )
    return decoded


def download(url: str, *, max_bytes: int = MAX_BYTES, limit_s: float = TIME_LIMIT_S) -> bytes:
    """Return the content of an address.

    Args:
        url: The address; https, or http to this machine.
        max_bytes: Largest number of bytes.
        limit_s: Longest time, in seconds.

    Raises:
        UsageError: The address is not allowed.
        FetchError: The server does not send the file in time, or sends too many bytes.
    """
    if problem := url_problem(url):
        raise UsageError(f"{shown_url(url)}: {problem}")
    limits, deadline = Limits(), time.monotonic() + limit_s

    def check_time(_: httpx.Request) -> None:
        if time.monotonic() > deadline:
            raise _late(url)

    timeout = httpx.Timeout(min(limits.read_s, limit_s), connect=min(limits.connect_s, limit_s))
    try:
        with (
            httpx.Client(
                timeout=timeout,
                follow_redirects=True,
                max_redirects=5,
                event_hooks={"request": [check_time], "response": [refuse_redirect]},
            ) as client,
            _closed_after(client, limit_s),
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _failed(url, f"the server responded with {response.status_code}")
            return _body(response, url, max_bytes, deadline)
    except httpx.TimeoutException as error:
        raise _failed(url, "no response in time") from error
    except (httpx.TransportError, httpx.TooManyRedirects, MirrorError) as error:
        if time.monotonic() > deadline:
            raise _late(url) from error
        raise _failed(url, str(error) or type(error).__name__) from error


@contextmanager
def _closed_after(client: httpx.Client, limit_s: float) -> Iterator[None]:
    """Close the connections of a client after some time: a timeout of httpx begins anew with each byte of a head."""
    timer = threading.Timer(limit_s, client.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _body(response: httpx.Response, url: str, max_bytes: int, deadline: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise _failed(url, f"the file there has more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise _late(url)
    return bytes(body)


def _content(file: Path) -> bytes:
    try:
        data = read_regular_file(file, MAX_BYTES, follows_links=True)
    except OSError as error:
        raise ModelStoreError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ModelStoreError(f"{file} has more than {MAX_BYTES} bytes")
    return data


def _late(url: str) -> FetchError:
    return _failed(url, "it did not arrive in time")


def _failed(url: str, reason: str) -> FetchError:
    return FetchError(f"could not fetch {shown_url(url)}: {reason}. Give the image with --image FILE")
