"""What Label Studio sends beside a click is removed before parsing, and does not count against the bound on members."""

import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.adapters.label_studio_passed_over import without_passed_over
from service.errors import InvalidRequest

NAMES = ("annotations", "drafts", "predictions", "rle")
TRICKY = ["annotations", '"rle": [1', 'a"rle', "\\", '\\"', "[", "}", "rle\\", '"tasks": [{', "é\n"]

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(TRICKY) | st.text(max_size=5)
keys = st.sampled_from([*NAMES, *TRICKY, "result", "value"])
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=25,
)


def reduced(value):
    """Return a document without the lists and objects that are passed over, as the slow and obvious way gives it."""
    if isinstance(value, list):
        return [reduced(item) for item in value]
    if isinstance(value, dict):
        return {
            key: None if key in NAMES and isinstance(item, list | dict) else reduced(item)
            for key, item in value.items()
        }
    return value


@settings(deadline=None)
@given(documents, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_exactly_the_named_lists_and_objects_are_removed(document, ascii_only, indent):
    body = json.dumps({"a": document}, ensure_ascii=ascii_only, indent=indent).encode()

    assert json.loads(without_passed_over(body, 10)) == reduced({"a": document})


@settings(deadline=None)
@given(st.lists(st.dictionaries(keys, documents, max_size=3), max_size=6), st.integers(1, 4))
def test_tasks_behind_the_last_that_is_kept_are_removed(tasks, count):
    body = json.dumps({"tasks": tasks, "project": "1", "label_config": '<View a="[]"/>'}).encode()

    kept = json.loads(without_passed_over(body, count))

    expected = {"tasks": [reduced(task) for task in tasks[:count]], "project": "1", "label_config": '<View a="[]"/>'}
    assert kept == expected


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 60))
def test_bytes_that_are_no_json_are_never_an_error_of_the_function(noise, cut):
    body = b'{"tasks":[{"annotations":[{"rle":[1,2,"\\"]"]}]},{}],"rle":[' + noise
    for content in (noise, body, body[:cut]):
        without_passed_over(content, 1)


def test_regions_of_thirty_objects_of_27_megapixels_take_little_time_and_memory():
    rle = [n * 7 % 256 for n in range(120_000)]
    region = {"type": "brushlabels", "value": {"format": "rle", "rle": rle, "brushlabels": ["Cat"]}}
    task = {
        "id": 1,
        "data": {"image": "/data/upload/1/a.png"},
        "annotations": [{"result": [region] * 30}],
        "drafts": [],
    }
    body = json.dumps({"tasks": [task], "params": {"context": {"result": [region]}}}).encode()
    assert len(body) > 15e6

    started = time.process_time()
    kept = without_passed_over(body, 10)
    seconds = time.process_time() - started
    tracemalloc.start()
    without_passed_over(body, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(kept) < 400
    assert peak < 1e5
    assert seconds < 0.5


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"rle":' + b"[" * 20_000_000,
        b'{"rle":["' + b'\\"' * 10_000_000,
        b'{"rle":["' + b"\\" * 20_000_000 + b'"',
        b'"rle":[]' * 2_000_000,
        b'{"tasks":[' + b'{"a":"b"},' * 2_000_000,
        b'"rle" ' * 3_000_000,
    ],
    ids=["brackets", "quotes", "backslashes", "names", "tasks", "names alone"],
)
def test_hostile_bodies_are_refused_after_a_bounded_number_of_steps(hostile):
    started = time.process_time()

    with pytest.raises(InvalidRequest, match="lists, objects and strings"):
        without_passed_over(hostile, 64)

    assert time.process_time() - started < 5.0
