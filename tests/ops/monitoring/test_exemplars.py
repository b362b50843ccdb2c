"""Exemplars: a real Prometheus stores the trace ids that the service attaches to histogram buckets."""

import re

HTTP = "edgesam_http_request_duration_seconds_bucket"
STAGE = "edgesam_stage_duration_seconds_bucket"


def trace_ids(watched, selector: str) -> list[str]:
    """Return the trace ids of all exemplars of the selected series."""
    found = watched.prometheus.ask("query_exemplars", query=selector, **watched.span)
    return [exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]]


def test_the_histogram_of_requests_has_the_traces_of_prompts(watched):
    found = trace_ids(watched, f'{HTTP}{{route="/segment", status="200"}}')

    assert set(found) & set(watched.traces)


def test_the_histogram_of_stages_has_the_traces_of_prompts(watched):
    found = trace_ids(watched, f'{STAGE}{{stage="decode"}}')

    assert set(found) & set(watched.traces)


def test_a_request_without_a_trace_has_its_request_id_as_exemplar(watched):
    found = trace_ids(watched, f'{HTTP}{{route="unmatched"}}')

    logged = {line["request_id"] for line in watched.replicas[1].log if line["event"] == "request"}
    assert found
    assert all(re.fullmatch("[0-9a-f]{16}", identity) for identity in found)
    assert set(found) <= logged
