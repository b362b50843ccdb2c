"""The header `traceparent` of W3C Trace Context. A malformed header is ignored and never fails a request."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.noise_images import noise_file
from support.service_client import embed, point, request_line

from service.telemetry.tracing import caller_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
MALFORMED = [
    "",
    "-",
    GOOD.upper(),
    f"{GOOD}-",
    f"{GOOD}-00",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}g-{SPAN}-01",
    f"00-{TRACE}-{SPAN}",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-0g",
    f"00-{TRACE[:-1]}０-{SPAN}-01",
    f"01-{TRACE}-{SPAN}-01{'-' + 'a' * 1000}",
    f"01-{TRACE}-{SPAN}-01x",
    '{"trace_id": 1}',
    "a" * 100_000,
]


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_trace_id_parent_span_and_sampling_are_read(flags: str, *, is_sampled: bool):
    found = caller_trace([f"00-{TRACE}-{SPAN}-{flags}"])

    assert found is not None
    assert found.trace_id == TRACE
    assert found.span_context.span_id == int(SPAN, 16)
    assert found.span_context.trace_flags.sampled == is_sampled


@pytest.mark.parametrize("more", ["", "-", "-what-will-be"])
def test_a_later_version_is_read_as_far_as_it_is_known(more: str):
    found = caller_trace([f"cc-{TRACE}-{SPAN}-01{more}"])

    assert found is not None
    assert found.trace_id == TRACE


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_header_is_ignored_without_a_line_in_the_log(text: str, caplog: pytest.LogCaptureFixture):
    assert caller_trace([text]) is None
    assert not caplog.records


def test_a_missing_header_and_one_sent_twice_are_ignored():
    assert caller_trace([]) is None
    assert caller_trace([GOOD, GOOD]) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{30,34}-[0-9a-f]{14,18}-[0-9a-f]{2}.*"))
def test_no_text_raises_and_no_trace_id_is_anything_but_hexadecimal(text: str):
    found = caller_trace([text])

    assert found is None or re.fullmatch(r"[0-9a-f]{32}", found.trace_id)


def test_log_line_and_exemplar_of_a_request_have_its_trace_id(limited, limited_client):
    image_hash = embed(limited_client, noise_file((28, 28), seed=72))
    body = {"image_hash": image_hash, "prompts": [point(1, 1)]}

    limited_client.post("/segment", json=body, headers={"traceparent": GOOD, "X-Request-ID": "traced-1"})

    assert request_line(limited, "traced-1")["trace_id"] == TRACE
    text = limited_client.get("/metrics", headers=OPENMETRICS).text
    remembered = [line for line in text.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]
    names = {line.partition("{")[0] for line in remembered}
    assert names == {
        "edgesam_http_request_duration_seconds_bucket",
        "edgesam_objective_duration_seconds_bucket",
        "edgesam_stage_duration_seconds_bucket",
    }


def test_the_exemplar_of_a_request_without_a_trace_has_its_request_id(limited, limited_client):
    limited_client.get("/models", headers={"X-Request-ID": "untraced-1"})

    text = limited_client.get("/metrics", headers=OPENMETRICS).text
    assert '# {trace_id="untraced-1"}' in text
    assert "trace_id" not in request_line(limited, "untraced-1")


def test_the_exemplar_of_an_unlogged_request_has_only_its_trace_id(limited_client):
    trace = "c0ffee" + TRACE[6:]
    limited_client.get("/livez", headers={"X-Request-ID": "probe-1"})
    limited_client.get("/livez", headers={"X-Request-ID": "probe-2", "traceparent": GOOD.replace(TRACE, trace)})

    text = limited_client.get("/metrics", headers=OPENMETRICS).text
    assert "probe-1" not in text
    assert f'# {{trace_id="{trace}"}}' in text


@pytest.mark.parametrize("value", [b"a" * 4000, b"\xff\xfe", GOOD.replace("-", "_").encode(), b'"}{'])
def test_a_hostile_header_changes_nothing(limited, limited_client, value: bytes):
    request_id = f"hostile-{value[:3].hex()}"

    answer = limited_client.get("/models", headers={"traceparent": value, "X-Request-ID": request_id})

    assert answer.status_code == 200
    assert "trace_id" not in request_line(limited, request_id)


def test_the_plain_format_has_no_exemplars(limited_client):
    limited_client.get("/models", headers={"traceparent": GOOD})

    assert "trace_id" not in limited_client.get("/metrics").text
