"""Bodies that cost too much to read: too many parts, endless headers, a few bytes in a long time."""

import asyncio
import tracemalloc
from contextlib import suppress
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from service.api.bodies import fields_of, read_body
from service.errors import BodyTimeout, MalformedBody

FORM = "multipart/form-data; boundary=seam"
MIB = 1 << 20


def part(name, data, *headers):
    """Return one part with its delimiter before it."""
    head = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return b"--seam\r\n" + "\r\n".join(head).encode() + b"\r\n\r\n" + data + b"\r\n"


def peak_bytes(call):
    """Return the peak memory of a call, in bytes. The call may raise MalformedBody."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with suppress(MalformedBody):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def request_with(chunks, *, ends_with=None):
    """Return a request whose body comes from an asynchronous iterator, up to the piece `ends_with`."""

    async def receive():
        chunk = await anext(chunks)
        return {"type": "http.request", "body": chunk, "more_body": chunk != ends_with}

    return Request({"type": "http", "method": "POST", "path": "/embed", "headers": []}, receive)


def test_a_body_of_too_many_parts_is_refused_after_the_first_few():
    body = b"--seam\r\na:b\r\n\r\n\r\n" * (MIB // 4) + b"--seam--\r\n"

    with pytest.raises(MalformedBody, match="more than 16 parts"):
        fields_of(body, FORM)

    assert peak_bytes(lambda: fields_of(body, FORM)) < MIB // 4


def test_the_image_is_found_among_the_largest_allowed_number_of_fields():
    body = b"".join(part(f"field-{i}", b"x") for i in range(15)) + part("image", b"image") + b"--seam--"

    assert fields_of(body, FORM)["image"] == b"image"
    with pytest.raises(MalformedBody, match="more than 16 parts"):
        fields_of(part("field-15", b"x") + body, FORM)


@pytest.mark.parametrize(
    "headers",
    [["X: " + "x" * 8192], ["X: x"] * 2000, ["X" * 9000 + ": x"]],
    ids=["long value", "many headers", "long name"],
)
def test_the_headers_of_a_part_are_bounded(headers):
    with pytest.raises(MalformedBody, match="8192 bytes"):
        fields_of(part("image", b"image", *headers) + b"--seam--\r\n", FORM)


def test_reading_a_form_copies_only_the_image():
    body = part("other", bytes(4 * MIB)) + part("image", b"\r\n--sea" * MIB) + b"--seam--\r\n"

    peak = peak_bytes(lambda: fields_of(body, FORM))

    assert peak < 7 * MIB + MIB // 2


@given(
    images=st.lists(st.binary(max_size=60), min_size=1, max_size=3),
    noise=st.lists(
        st.sampled_from([b"\r\n", b"--seam", b"--", b"\r\n--sea", b"-", b"\r", b"\n", b"--seamX"]), max_size=8
    ),
    preamble=st.sampled_from([b"", b"\r\n", b"to whom it may concern\r\n"]),
    padding=st.sampled_from([b"", b" ", b"\t "]),
    end=st.sampled_from([b"", b"\r\n", b"\r\nepilogue"]),
)
def test_the_image_is_the_bytes_between_the_delimiters(images, noise, preamble, padding, end):
    # The image may contain any bytes except a line that begins with the boundary, which is a delimiter. A hyphen is
    # taken out of such lines: without the whole delimiter the bytes around it could form another one.
    images = [b"x" + (data + b"".join(noise)).replace(b"\r\n--seam", b"\r\n-seam") for data in images]
    parts = part("other", b"x") + b"".join(part("image", data) for data in images)
    body = preamble + parts.replace(b"--seam\r\nContent", b"--seam" + padding + b"\r\nContent") + b"--seam--" + end

    found = fields_of(body, FORM)["image"]

    assert found == images[0]


def test_a_part_without_headers_is_read_and_has_no_name():
    body = b"--seam\r\n\r\nno name\r\n" + part("image", b"image") + b"--seam--"

    assert fields_of(body, FORM)["image"] == b"image"


async def test_a_body_that_stalls_times_out_after_the_grace_period():
    async def body():
        yield b"x" * 60
        await asyncio.Event().wait()

    with pytest.raises(BodyTimeout, match="60 bytes"):
        await read_body(request_with(body()), max_bytes=1000, timeout_s=3600.0, grace_s=0.05)


async def test_a_slow_body_without_long_pauses_times_out():
    async def body():
        for drop in repeat(b"x"):
            await asyncio.sleep(0.001)  # the pace of this client
            yield drop

    with pytest.raises(BodyTimeout, match="1000000 bytes per second"):
        await read_body(
            request_with(body()), max_bytes=1 << 40, timeout_s=3600.0, min_bytes_per_s=1_000_000, grace_s=0.05
        )


async def test_bytes_that_came_early_make_up_for_a_pause():
    async def body():
        yield b"x" * 100_000
        await asyncio.sleep(0.3)  # six times the grace
        yield b"end"

    request = request_with(body(), ends_with=b"end")

    data = await read_body(request, max_bytes=MIB, timeout_s=3600.0, min_bytes_per_s=1, grace_s=0.05)

    assert data == b"x" * 100_000 + b"end"


async def test_without_a_lowest_speed_only_the_total_time_is_limited():
    async def body():
        yield b"x"
        await asyncio.Event().wait()

    with pytest.raises(BodyTimeout, match=r"may take 0\.2 s"):
        await read_body(request_with(body()), max_bytes=1000, timeout_s=0.2, min_bytes_per_s=0, grace_s=0.01)
