"""From a bucket to a request: a real Prometheus keeps the trace ids that the service attached."""

import re

HTTP = "edgesam_http_request_duration_seconds_bucket"
STAGE = "edgesam_stage_duration_seconds_bucket"


def trace_ids(watched, selector: str) -> list[str]:
    """Of all exemplars that Prometheus has of a series."""
    found = watched.prometheus.ask("query_exemplars", query=selector, **watched.span)
    return [exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]]


def test_the_traces_of_clicks_are_found_from_the_histogram_of_requests(watched):
    found = trace_ids(watched, f'{HTTP}{{route="/segment", status="200"}}')

    assert set(found) & set(watched.traces)


def test_the_traces_of_clicks_are_found_from_the_histogram_of_stages(watched):
    found = trace_ids(watched, f'{STAGE}{{stage="decode"}}')

    assert set(found) & set(watched.traces)


def test_a_request_without_a_trace_is_found_by_its_own_id(watched):
    found = trace_ids(watched, f'{HTTP}{{route="unmatched"}}')

    logged = {line["request_id"] for line in watched.replicas[1].log if line["event"] == "request"}
    assert found
    assert all(re.fullmatch("[0-9a-f]{16}", identity) for identity in found)
    assert set(found) <= logged
