"""Requests of everything mode, and the reader of their lines."""

import json
from collections.abc import Mapping
from typing import Any

from .errors import ClientError, UnexpectedAnswer, Unreachable, problem_of
from .everything import (
    Everything,
    EverythingAdvanced,
    EverythingDropped,
    EverythingEvent,
    EverythingFound,
    EverythingMask,
    EverythingStarted,
    OnEvent,
)
from .messages import Answer, OnLine, Request, checked_id, routing, unexpected_answers

_MAX_SHOWN = 80


def everything_request(image_id: str, options: Mapping[str, Any], model: str | None, on_line: OnLine) -> Request:
    """Request for all masks of an image as run lengths, line by line.

    Raises:
        ValueError: if an option is no finite number.
    """
    document = {"image_hash": checked_id(image_id), "format": "rle", **options}
    if model is not None:
        document["model"] = model
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson", **routing(image_id)}
    body = json.dumps(document, allow_nan=False).encode()
    return Request("POST", "segment/everything", headers, body, on_line=on_line)


class EverythingReader:
    """Reads the lines of one answer. A repeated request begins with another start, which discards what came before.

    Args:
        on_event: Callback for each event; None for none.
        crop: Number of the crop, for events.
        crops: Number of crops, for events.
        first_id: Number that is added to the ids of the masks.
    """

    def __init__(self, on_event: OnEvent | None, *, crop: int = 0, crops: int = 1, first_id: int = 0) -> None:
        self._on_event = on_event
        self._crop = crop
        self._crops = crops
        self._first_id = first_id
        self._start: dict[str, Any] | None = None
        self._found: dict[int, EverythingMask] = {}
        self._ids: tuple[int, ...] | None = None

    def read(self, line: bytes) -> None:
        """Read one line.

        Raises:
            ClientError: if the line says so, or is not one of the service.
        """
        if not line.strip():
            return
        try:
            event = self._read(json.loads(line))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            shown = line[:_MAX_SHOWN].decode(errors="replace")
            raise UnexpectedAnswer(f"A line is not of this service: {shown!r} ({error}). Check the address.") from error
        if event is not None and self._on_event is not None:
            self._on_event(event)

    def result(self, answer: Answer) -> Everything:
        """The result, after the last line.

        Raises:
            Unreachable: if the answer has ended before the result was complete.
            UnexpectedAnswer: if a member is missing.
        """
        if self._start is None or self._ids is None:
            raise Unreachable("The answer ended before all masks had come.")
        start = self._start
        with unexpected_answers(answer):
            return Everything(
                image_hash=str(start["image_hash"]),
                image_id=str(start["image_id"]),
                width=int(start["width"]),
                height=int(start["height"]),
                orientation=int(start["orientation"]),
                model=str(start["model"]),
                parameters=dict(start["parameters"]),
                masks=tuple(self._found[number] for number in self._ids),
                cached=start["cached"],
                timing=answer.timing,
                request_id=answer.headers.get("x-request-id", ""),
            )

    def _read(self, event: dict[str, Any]) -> EverythingEvent | None:
        kind = event["event"]
        if kind == "start":
            self._start, self._found, self._ids = event, {}, None
            return EverythingStarted(int(event["prompts"]), self._crop, self._crops)
        if kind == "error":
            raise _problem(event["problem"])
        if self._start is None or self._ids is not None:
            raise ValueError("it is not between the start and the end")
        if kind == "progress":
            return EverythingAdvanced(int(event["done"]), int(event["prompts"]), self._crop, self._crops)
        if kind == "mask":
            mask = self._mask(event)
            self._found[mask.id] = mask
            return EverythingFound(mask)
        if kind in {"drop", "end"}:
            return self._drop_or_end(kind, tuple(self._first_id + int(number) for number in event["ids"]))
        return None  # an event of a later version

    def _drop_or_end(self, kind: str, ids: tuple[int, ...]) -> EverythingEvent | None:
        if kind == "drop":
            for number in ids:
                self._found.pop(number, None)
            return EverythingDropped(ids)
        if not self._found.keys() >= set(ids):
            raise ValueError("it names a mask that did not come")
        self._ids = ids
        return None

    def _mask(self, event: dict[str, Any]) -> EverythingMask:
        assert self._start is not None
        mask = EverythingMask.of_record({**event, "id": self._first_id + int(event["id"])})
        if mask.size != (int(self._start["height"]), int(self._start["width"])):
            raise ValueError("a mask has another size than the image")
        return mask


def _problem(document: dict[str, Any]) -> ClientError:
    """The error of a problem that comes after the start."""
    return problem_of(
        int(document["status"]),
        json.dumps(document).encode(),
        is_document=True,
        request_id=str(document.get("instance", "")),
        retry_after_s=None,
    )
