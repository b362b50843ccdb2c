"""Everything requests of tests: as one JSON object, and as the lines of a stream."""

import json
from collections.abc import Iterator
from typing import Any, Final

import httpx

ROUTE: Final = "/segment/everything"
NDJSON: Final = "application/x-ndjson"

ALL_MASKS: Final = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9}
"""Parameters with which the masks of a model with random weights pass the filters."""


def find_all(client: httpx.Client, image: str, /, **parameters: Any) -> dict[str, Any]:
    """Return the JSON answer of an everything request with a grid of 4 x 4 points."""
    response = ask(client, image, **parameters)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ask(client: httpx.Client, image: str, /, *, accept: str = "application/json", **parameters: Any) -> httpx.Response:
    """Send an everything request with a grid of 4 x 4 points, and return the whole response."""
    asked = {"image_hash": image, "points_per_side": 4, **ALL_MASKS, **parameters}
    return client.post(ROUTE, json=asked, headers={"Accept": accept})


def stream(client: httpx.Client, image: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Yield the lines of the stream of an everything request as they arrive. Closing it closes the connection."""
    asked = {"image_hash": image, "points_per_side": 4, **ALL_MASKS, **parameters}
    with client.stream("POST", ROUTE, json=asked, headers={"Accept": NDJSON}) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == NDJSON
        for line in response.iter_lines():
            yield json.loads(line)


def masks_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the masks that the lines of a complete stream leave, in the order of its end."""
    masks: dict[int, dict[str, Any]] = {}
    for line in lines:
        kind = line["event"]
        if kind == "mask":
            masks[line["id"]] = {name: value for name, value in line.items() if name != "event"}
        elif kind == "drop":
            for each in line["ids"]:
                del masks[each]
    assert lines[-1]["event"] == "end"
    assert sorted(lines[-1]["ids"]) == sorted(masks)
    return [masks[each] for each in lines[-1]["ids"]]
