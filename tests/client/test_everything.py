"""Everything mode through both clients: masks, events, options, restored images, and streams in trouble."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from support.app_server import AppServer
from support.noise_images import noise_file
from support.sample_images import FOLDER
from support.service_process import ServiceProcess

from service.client import (
    Busy,
    EmbeddingNotFound,
    EverythingAdvanced,
    EverythingDropped,
    EverythingFound,
    EverythingStarted,
    Problem,
    PromptRefused,
    UnexpectedAnswer,
    Unreachable,
)

# With an untrained model only masks without a filter are certain to be there.
ALL: dict[str, Any] = {"pred_iou_thresh": 0, "stability_score_thresh": 0}
UNKNOWN = "6" * 64
START = {
    "event": "start",
    "prompts": 4,
    "image_hash": UNKNOWN,
    "image_id": UNKNOWN,
    "width": 8,
    "height": 6,
    "orientation": 1,
    "model": "m",
    "parameters": {"points_per_side": 2},
    "cached": None,
}


def mask_line(number, **members):
    record = {
        "segmentation": {"size": [6, 8], "counts": "P1`0"},
        "area": 16,
        "bbox": [0, 0, 8, 6],
        "predicted_iou": 0.9,
        "stability_score": 0.8,
        "point_coords": [[2, 3]],
        "crop_box": [0, 0, 8, 6],
    }
    return {"event": "mask", "id": number, **record, **members}


END = {"event": "end", "ids": []}
BUSY = {
    "event": "error",
    "problem": {"status": 503, "code": "overloaded", "title": "t", "detail": "Try again.", "instance": "r7"},
}
STREAMS: dict[str, list[Any]] = {
    "whole": [
        START,
        mask_line(0),
        mask_line(3),
        mask_line(5),
        {"event": "drop", "ids": [3]},
        {"event": "news"},
        {"event": "end", "ids": [5, 0]},
    ],
    "nothing": [],
    "cut": [START, mask_line(0)],
    "page": ["<html>"],
    "list": [[1]],
    "no-start": [mask_line(0)],
    "after-end": [START, END, mask_line(0)],
    "unknown-id": [START, {"event": "end", "ids": [9]}],
    "other-size": [START, mask_line(0, segmentation={"size": [5, 8], "counts": "P1"})],
    "no-member": [START, {"event": "mask", "id": 1}],
    "busy": [START, mask_line(0), BUSY],
    "deep": ["[" * 100_000],
}


@pytest.fixture(scope="module")
def streams() -> Iterator[AppServer]:
    """Answers that a service gives only in trouble."""
    attempts: dict[str, int] = {}

    async def answer(request: Request) -> Response:
        kind = request.path_params["kind"]
        attempt = attempts[kind] = attempts.get(kind, -1) + 1
        if kind == "limited" and attempt < 2:
            problem = {"status": 429, "code": "rate-limited", "title": "t", "detail": "One at a time."}
            headers = {"Retry-After": "0"}
            return JSONResponse(problem, 429, headers, media_type="application/problem+json")
        if kind == "endless":
            return StreamingResponse((b"x" * 2**20 for _ in range(100)), media_type="application/x-ndjson")
        if kind == "once-busy":
            kind = "whole" if attempt else "busy"
        lines = STREAMS["whole" if kind == "limited" else kind]
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        content = "".join(f"{text}\n" for text in texts).encode()
        pieces = (content[at : at + 11] for at in range(0, len(content), 11))
        return StreamingResponse(pieces, media_type="application/x-ndjson")

    with AppServer(Starlette(routes=[Route("/{kind}/segment/everything", answer, methods=["POST"])])) as server:
        yield server


@pytest.fixture
def image(client, next_seed):
    return client.embed(noise_file((120, 160), next_seed))


def test_all_objects_are_records_whose_run_lengths_are_cocos(client, image):
    found = client.segment_everything(image, points_per_side=3, **ALL)

    assert (found.width, found.height, found.image_id, found.model) == (160, 120, image.image_id, "random")
    assert found.parameters["points_per_side"] == 3
    assert found.masks
    scores = [mask.predicted_iou for mask in found.masks]
    assert len({mask.id for mask in found.masks}) == len(found.masks)
    assert scores == sorted(scores, reverse=True)
    for mask in found.masks:
        rle = {"size": list(mask.size), "counts": mask.counts}
        assert np.array_equal(mask.pixels, coco.decode(rle).astype(bool))
        assert mask.area == coco.area(rle)
        assert list(mask.bbox) == coco.toBbox(rle).tolist()
        assert mask.crop_box == (0, 0, 160, 120)
        assert json.loads(json.dumps(mask.record))["segmentation"] == rle
    refined = client.segment(image, points=(80, 60), mask=found.masks[0])
    assert len(refined.masks) == 1


def test_events_tell_of_all_points_and_give_the_masks_of_the_result(client, image):
    events: list[Any] = []

    found = client.segment_everything(image, points_per_side=4, on_event=events.append, **ALL)

    masks = {}
    for event in events:
        if isinstance(event, EverythingFound):
            masks[event.mask.id] = event.mask
        if isinstance(event, EverythingDropped):
            for number in event.ids:
                del masks[number]
    assert events[0] == EverythingStarted(prompts=16)
    assert EverythingAdvanced(done=16, prompts=16) in events
    assert {mask.id for mask in found.masks} == masks.keys()


def test_an_evicted_image_is_embedded_again(client, image):
    before = client.segment_everything(image, points_per_side=2, **ALL)
    client.forget(image.image_hash)
    with pytest.raises(EmbeddingNotFound):  # a hash alone is nothing to embed
        client.segment_everything(image.image_hash, points_per_side=2)

    after = client.segment_everything(image, points_per_side=2, **ALL)

    assert [mask.record for mask in after.masks] == [mask.record for mask in before.masks]


def test_what_the_service_or_the_client_does_not_know_is_an_error(client, image):
    with pytest.raises(PromptRefused, match="points_per_side"):
        client.segment_everything(image, points_per_side=10_000)
    with pytest.raises(TypeError, match="points_per_row"):
        client.segment_everything(image, points_per_row=3)
    with pytest.raises(ValueError, match=r"JSON|nan"):
        client.segment_everything(image, box_nms_thresh=float("nan"))
    with pytest.raises(ValueError, match="result of embed"):
        client.segment_everything(image.image_hash, crops=1)


@pytest.fixture(scope="module")
def bundled() -> Iterator[ServiceProcess]:
    """The bundled model, whose masks do not all reach the edges of their crops, where they would be dropped."""
    with ServiceProcess({}) as service:
        yield service


def test_masks_of_crops_come_first_and_lie_in_their_crops(connect, bundled):
    client = connect(bundled.url)
    image = client.embed(FOLDER / "dahlia.jpg")
    options: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}
    events: list[Any] = []

    whole = client.segment_everything(image, **options)
    found = client.segment_everything(image, crops=1, on_event=events.append, **options)

    areas = [mask.crop_box[2] * mask.crop_box[3] for mask in found.masks]
    ids = [mask.id for mask in found.masks]
    assert areas == sorted(areas)
    assert areas[0] < 640 * 427
    assert len(ids) == len(set(ids))
    assert {mask.id for mask in found.masks if mask.id < 100_000} <= {mask.id for mask in whole.masks}
    for mask in found.masks:
        x, y, width, height = mask.crop_box
        x0, y0, x1, y1 = mask.box
        assert x <= x0 < x1 <= x + width
        assert y <= y0 < y1 <= y + height
    assert {event.crop for event in events if isinstance(event, EverythingAdvanced)} == set(range(5))
    assert {event.crops for event in events if isinstance(event, EverythingStarted)} == {5}


def test_masks_are_those_of_the_last_line_and_later_events_are_passed_over(connect, streams):
    found = connect(f"{streams.url}/whole").segment_everything(UNKNOWN)

    assert [mask.id for mask in found.masks] == [5, 0]
    assert found.parameters == {"points_per_side": 2}


@pytest.mark.parametrize("kind", ["nothing", "cut"])
def test_a_stream_that_is_cut_off_is_an_error(connect, streams, kind):
    with pytest.raises(Unreachable, match="ended before"):
        connect(f"{streams.url}/{kind}", retry_s=0).segment_everything(UNKNOWN)


@pytest.mark.parametrize(
    "kind", ["page", "list", "no-start", "after-end", "unknown-id", "other-size", "no-member", "deep"]
)
def test_a_stream_of_another_program_is_an_error(connect, streams, kind):
    with pytest.raises(UnexpectedAnswer, match="not of this service"):
        connect(f"{streams.url}/{kind}").segment_everything(UNKNOWN)


def test_a_line_without_an_end_is_not_read_forever(connect, streams):
    with pytest.raises(UnexpectedAnswer, match="a line of more than"):
        connect(f"{streams.url}/endless").segment_everything(UNKNOWN)


def test_a_problem_after_the_start_is_the_services_problem(connect, streams):
    with pytest.raises(Busy, match="Try again") as caught:
        connect(f"{streams.url}/busy", retry_s=0).segment_everything(UNKNOWN)

    assert (caught.value.status, caught.value.code, caught.value.request_id) == (503, "overloaded", "r7")
    assert isinstance(caught.value, Problem)


@pytest.mark.parametrize("kind", ["once-busy", "limited"])
def test_a_busy_service_is_asked_again(connect, streams, kind):
    events: list[Any] = []

    found = connect(f"{streams.url}/{kind}").segment_everything(UNKNOWN, on_event=events.append)

    assert [mask.id for mask in found.masks] == [5, 0]


def test_an_error_of_the_callback_is_not_changed(connect, streams):
    def fail(event: Any) -> None:
        raise KeyError(type(event).__name__)

    with pytest.raises(KeyError, match="EverythingStarted"):
        connect(f"{streams.url}/whole").segment_everything(UNKNOWN, on_event=fail)
