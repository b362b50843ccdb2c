"""Validation errors of a request are reported briefly, whatever their number."""

import tracemalloc

import orjson
import pytest
from pydantic import ValidationError
from support.service_client import assert_problem

from service.api.problems import invalid_request
from service.api.schemas import SegmentRequest
from service.errors import EmbeddingNotFound, InvalidRequest, MalformedBody


def findings_on(body):
    """Return pydantic's error about a body of /segment."""
    with pytest.raises(ValidationError) as caught:
        SegmentRequest.model_validate_json(body)
    return caught.value


def test_a_huge_number_of_findings_is_counted_and_not_rendered():
    error = findings_on(orjson.dumps({f"{i:x}": 0 for i in range(100_000)}))
    tracemalloc.start()

    try:
        problem = invalid_request(error)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert isinstance(problem, InvalidRequest)
    assert "100002 places" in problem.detail  # image_hash and prompts are missing, too
    assert problem.extra["errors"][0]["where"] == "/"
    assert peak_bytes < 100_000


def test_the_first_ten_of_some_findings_are_listed():
    problem = invalid_request(findings_on(orjson.dumps({f"{i:x}": 0 for i in range(1000)})))

    assert len(problem.extra["errors"]) == 10
    assert "(1001 more in `errors`)" in problem.detail


def test_a_member_name_of_megabytes_is_shortened_in_the_problem():
    problem = invalid_request(findings_on(orjson.dumps({"k" * 4_000_000: 0})))

    assert len(orjson.dumps([problem.detail, problem.extra])) < 2000
    assert any(one["where"] == "/" + "k" * 64 for one in problem.extra["errors"])


def test_a_body_that_is_not_json_is_malformed():
    assert isinstance(invalid_request(findings_on(b"{")), MalformedBody)


def test_too_many_members_are_refused_before_validation(client):
    body = b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}"

    problem = assert_problem(client.post("/segment", content=body), InvalidRequest)

    assert problem["errors"] == [{"where": "/", "message": "more members than 64 prompts of 64 points have."}]


def test_the_largest_allowed_number_of_members_is_read(client):
    points = [{"x": 1, "y": 1, "label": 1}] * 64
    body = {"image_hash": "0" * 64, "prompts": [{"points": points, "box": [0, 0, 1, 1]}] * 64}

    assert_problem(client.post("/segment", json=body), EmbeddingNotFound)
