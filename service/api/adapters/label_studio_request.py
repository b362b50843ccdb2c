"""The body of Label Studio's request for predictions: tasks, labelling interface, smart keypoints and rectangles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from service.api.adapters.exchange import Document, prompt_of
from service.api.adapters.label_studio_images import TaskImage
from service.api.adapters.label_studio_interface import RegionType, read_interface
from service.api.problems import broken_rule
from service.api.schemas import MAX_POINTS, Coordinate
from service.errors import InvalidRequest
from service.sam.prompts import NEGATIVE, POSITIVE, Prompt
from service.sam.transforms import Size

# Number of tasks of one request whose images are embedded ahead. Label Studio sends all selected tasks in one request.
MAX_TASKS: Final = 64

_KEYPOINTS: Final = ("keypointlabels", "keypoint")
_RECTANGLES: Final = ("rectanglelabels", "rectangle")

# A labelling interface with a thousand labels has a tenth of it.
_MAX_CONFIG_CHARACTERS: Final = 1 << 20


class _Task(Document):
    id: int | str | None = None
    data: dict[str, Any]


class _Value(Document):
    """Position of a region in per cent of the image, and its labels. Regions of other kinds have neither."""

    x: Coordinate | None = None
    y: Coordinate | None = None
    width: Coordinate = 0.0
    height: Coordinate = 0.0
    rotation: Coordinate = 0.0
    keypointlabels: tuple[str, ...] = ()
    rectanglelabels: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.keypointlabels or self.rectanglelabels


class _Region(Document):
    type: str = ""
    to_name: str = ""
    is_positive: bool | None = None
    image_rotation: Coordinate = 0.0
    value: _Value = _Value()

    @property
    def is_prompt(self) -> bool:
        return self.type in (*_KEYPOINTS, *_RECTANGLES) and self.value.x is not None and self.value.y is not None


class _Context(Document):
    result: tuple[_Region, ...] = ()


class _Params(Document):
    context: _Context | None = None


class _Predict(Document):
    tasks: list[_Task] = Field(min_length=1)
    label_config: str = Field("", max_length=_MAX_CONFIG_CHARACTERS)
    params: _Params | None = None


class Setup(Document):
    """Body of the request by which a project connects."""

    label_config: str = Field("", max_length=_MAX_CONFIG_CHARACTERS, alias="schema")


@dataclass(frozen=True, slots=True)
class Target:
    """Target of the answer.

    Args:
        region_type: Type of the region.
        from_name: Name of its control in the labelling interface.
        to_name: Name of its image in the labelling interface.
        labels: Labels of the region.
    """

    region_type: RegionType
    from_name: str
    to_name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for predictions.

    Args:
        images: Image of each task, or the reason why it has none.
        regions: Keypoints and rectangles that point at the object in the first task's image. None: the images are to
            be embedded ahead.
        target: Target of the answer.
        has_more_tasks: Whether the request has more tasks than `images`.
        has_context: Whether the request comes from the smart tools. Else Label Studio wants predictions for tasks.
    """

    images: Sequence[TaskImage | InvalidRequest]
    regions: Sequence[_Region]
    target: Target
    has_more_tasks: bool
    has_context: bool

    def prompt(self, original_size: Size) -> Prompt:
        """Return all keypoints and the last rectangle as a prompt, in pixels of the upright image.

        Args:
            original_size: Height and width of the upright image, in pixels.
        """
        height, width = original_size
        points, labels, box = [], [], None
        for region in self.regions:
            value = region.value
            assert value.x is not None
            assert value.y is not None
            x, y = value.x / 100 * width, value.y / 100 * height
            if region.type in _KEYPOINTS:
                points.append((x, y))
                labels.append(NEGATIVE if region.is_positive is False else POSITIVE)
            else:
                sides = value.width / 100 * width, value.height / 100 * height
                box = _box_around(x, y, *sides, degrees=value.rotation)
        return prompt_of(points, labels, box)


def parse_predict(body: bytes) -> Asked:
    """Return a request for predictions. Blocking.

    Raises:
        ValidationError, InvalidRequest: The body is no such request, or cannot be answered.
    """
    asked = _Predict.model_validate_json(body)
    context = asked.params.context if asked.params else None
    regions = [region for region in (context.result if context else ()) if region.is_prompt]
    where = "/params/context/result"
    if len(regions) > MAX_POINTS:
        raise broken_rule(where, f"{len(regions)} keypoints and rectangles, at most {MAX_POINTS}.")
    if any(region.image_rotation % 360 for region in regions):
        raise broken_rule(where, "the image is rotated in Label Studio. Rotate it back, then use the smart tools.")
    to_name, labels = (regions[-1].to_name, regions[-1].value.labels) if regions else ("", ())
    interface = read_interface(asked.label_config)
    control = interface.control(to_name, labels)
    key = interface.image_key(control)
    if not labels and len(control.labels) == 1:
        labels = tuple(control.labels)
    tasks = asked.tasks[:1] if regions else asked.tasks[:MAX_TASKS]
    return Asked(
        [_image(task, index, key) for index, task in enumerate(tasks)],
        regions,
        Target(control.region_type, control.name, control.to_name, labels),
        # Later tasks than these were removed before parsing.
        has_more_tasks=len(asked.tasks) > MAX_TASKS,
        has_context=context is not None,
    )


def _image(task: _Task, index: int, key: str) -> TaskImage | InvalidRequest:
    value = task.data.get(key)
    if not isinstance(value, str):
        return broken_rule(f"/tasks/{index}/data/{key[:64]}", "is not a string. The task needs its image there.")
    return TaskImage(str(task.id or "")[:32], value.encode())


def _box_around(
    x: float, y: float, width: float, height: float, *, degrees: float
) -> tuple[float, float, float, float]:
    """Return the smallest upright box around a rectangle that is rotated clockwise about its corner (x, y)."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    xs = [x, x + width * cosine, x - height * sine, x + width * cosine - height * sine]
    ys = [y, y + width * sine, y + height * cosine, y + width * sine + height * cosine]
    return min(xs), min(ys), max(xs), max(ys)
