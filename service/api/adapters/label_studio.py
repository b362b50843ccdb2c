"""Label Studio's ML backend: smart keypoints and rectangles in, brush regions out.

Source: label_studio_ml/api.py of label-studio-ml-backend, label_studio/ml/api_connector.py of Label Studio.

A task names its image by an address. This service fetches no addresses. It takes data: URIs and base64. It reads Label
Studio's own files from a folder that both can read (`Exchange.files`). There `/data/local-files/?d=a/b.jpg` is
`a/b.jpg`, and `/data/upload/3/c.jpg` is `upload/3/c.jpg`. The adapter keeps no state of a project: each request is
complete.
"""

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.parsers import expat

import orjson
from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, ANY_KEY, with_policy
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.adapters.label_studio_brush import encode_brush
from service.api.problems import broken_rule
from service.api.rendering import JSON
from service.api.schemas import MAX_POINTS, Coordinate, ProblemModel
from service.errors import BodyTooLarge, InvalidRequest
from service.inference.segmentation_builder import SegmentedMask
from service.regular_files import read_regular_file
from service.sam.decoded_image import ImageInfo
from service.sam.prompts import NEGATIVE, POSITIVE, Prompt
from service.sam.transforms import Size

_KEYPOINTS: Final = ("keypointlabels", "keypoint")
_RECTANGLES: Final = ("rectanglelabels", "rectangle")

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|/data/")
_LOCAL_FILES: Final = re.compile(r"/data/local-files/?$")
_UPLOAD: Final = re.compile(r"/data/(upload/.+)$")

# A labelling interface with a thousand labels has a tenth of it.
_MAX_CONFIG_CHARACTERS: Final = 1 << 20

_PROBLEMS: Final = ProblemModel.responses(400, 401, 403, 408, 413, 415, 422, 429, 503, 504)
_BODY: Final = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}


class _Task(Document):
    data: dict[str, Any]


class _Value(Document):
    """Position of a region in per cent of the image, and its labels. Regions of other kinds have neither."""

    x: Coordinate | None = None
    y: Coordinate | None = None
    width: Coordinate = 0.0
    height: Coordinate = 0.0
    rotation: float = 0.0
    keypointlabels: tuple[str, ...] = ()
    rectanglelabels: tuple[str, ...] = ()


class _Region(Document):
    type: str = ""
    to_name: str = ""
    is_positive: bool | None = None
    value: _Value = _Value()


class _Context(Document):
    result: tuple[_Region, ...] = ()


class _Params(Document):
    context: _Context | None = None


class _Predict(Document):
    tasks: list[_Task] = Field(min_length=1)
    label_config: str = Field("", max_length=_MAX_CONFIG_CHARACTERS)
    params: _Params | None = None


@dataclass(frozen=True, slots=True)
class _Target:
    """Target of the answer: names of the brush and of its image in the labelling interface, and labels."""

    from_name: str
    to_name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Click:
    """The prompt of a request.

    Args:
        image: Image of the task: an address, base64 or a data: URI.
        regions: Keypoints and rectangles that point at the object. None: the task was only opened.
        target: Target of the answer.
    """

    image: bytes
    regions: list[_Region]
    target: _Target

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
                box = (x, y, x + value.width / 100 * width, y + value.height / 100 * height)
        return prompt_of(points, labels, box)


def install_label_studio(app: FastAPI, exchange: Exchange) -> None:
    """Add `/label-studio/health`, `setup`, `predict`, `versions` and `webhook`.

    Args:
        app: Application that gets the routes.
        exchange: Access of the adapter to the service.
    """
    model = exchange.model
    find = partial(_image, decode=exchange.image, max_bytes=exchange.limits.max_image_bytes, files=exchange.files)

    @app.get("/label-studio/health", summary="Label Studio: is the backend up?", tags=["adapters"])
    @with_policy(ANY_KEY)
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "EdgeSAM"}

    @app.post("/label-studio/setup", summary="Label Studio: a project connects", tags=["adapters"])
    @with_policy(ADAPTER_PREDICTION)
    async def setup() -> dict[str, str]:
        return {"model_version": model}

    @app.post("/label-studio/versions", summary="Label Studio: versions of the model", tags=["adapters"])
    @with_policy(ADAPTER_PREDICTION)
    async def versions() -> dict[str, list[str]]:
        return {"versions": [model]}

    @app.post(
        "/label-studio/webhook", status_code=201, summary="Label Studio: an annotation has changed", tags=["adapters"]
    )
    @with_policy(ADAPTER_PREDICTION)
    async def webhook() -> dict[str, str]:
        return {"status": "ok", "result": "nothing is trained"}

    @app.post(
        "/label-studio/predict",
        responses=_PROBLEMS,
        openapi_extra=_BODY,
        summary="Label Studio: a brush region for smart keypoints and rectangles",
        tags=["adapters"],
    )
    @with_policy(ADAPTER_PREDICTION)
    async def predict(request: Request) -> Response:
        click = await exchange.read(request, _parse)
        if click is None:
            return _no_results()
        embedded = await exchange.embed(request, click.image, find)
        if not click.regions:  # the task has been opened; the image is embedded before the first click
            return _no_results()
        prompt = click.prompt(embedded.original_size)
        renderer = _BrushRenderer(click.target, model)
        return await exchange.segment(request, embedded.image_id, [prompt], "auto", renderer)


def _no_results() -> Response:
    return Response(b'{"results":[]}', media_type=JSON)


def _parse(body: bytes) -> _Click | None:
    """Return the request; None for several tasks without keypoints and rectangles. Blocking."""
    asked = _Predict.model_validate_json(body)
    context = asked.params.context if asked.params else None
    regions = [
        region
        for region in (context.result if context else ())
        if region.type in (*_KEYPOINTS, *_RECTANGLES) and region.value.x is not None and region.value.y is not None
    ]
    if len(regions) > MAX_POINTS:
        raise broken_rule("/params/context/result", f"{len(regions)} keypoints and rectangles, at most {MAX_POINTS}.")
    if any(region.value.rotation for region in regions):
        raise broken_rule("/params/context/result", "a rectangle is rotated. Draw it upright.")
    if len(asked.tasks) > 1 and not regions:
        return None
    target, key = _read_label_config(asked.label_config, regions)
    value = asked.tasks[0].data.get(key)
    if not isinstance(value, str):
        raise broken_rule(f"/tasks/0/data/{key[:64]}", "is not a string. The task needs its image there.")
    return _Click(value.encode(), regions, target)


def _read_label_config(label_config: str, regions: list[_Region]) -> tuple[_Target, str]:
    """Return the target of the answer, and the member of the task's data that has the image."""
    tags = _tags(label_config)
    to_name = regions[-1].to_name if regions else ""
    brushes = [tag for name, tag in tags if name == "BrushLabels" and to_name in ("", tag.get("toName", ""))]
    if not brushes:
        raise broken_rule(
            "/label_config", "has no BrushLabels for this image. Add them: masks come back as brush regions."
        )
    brush = brushes[0]
    images = [tag for name, tag in tags if name == "Image" and tag.get("name") == brush.get("toName")]
    key = images[0].get("value", "") if images else ""
    if not re.fullmatch(r"\$\w+", key):
        raise broken_rule("/label_config", 'has no Image with a value such as "$image" that BrushLabels belongs to.')
    value = regions[-1].value if regions else _Value()
    target = _Target(brush.get("name", ""), brush.get("toName", ""), value.keypointlabels or value.rectanglelabels)
    return target, key[1:]


def _tags(xml: str) -> list[tuple[str, dict[str, str]]]:
    """Return the elements and their attributes in their order. A document type, with its entities, is refused."""
    tags: list[tuple[str, dict[str, str]]] = []

    def refuse(*_: object) -> None:
        raise broken_rule("/label_config", "has a document type; remove it.")

    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: tags.append((name, attributes))
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise broken_rule("/label_config", f"is not XML ({error}).") from error
    return tags


def _image(text: bytes, *, decode: Callable[[bytes], bytes], max_bytes: int, files: Path | None) -> bytes:
    """Return the bytes of a task's image. Blocking.

    Raises:
        InvalidRequest: The address names no file of Label Studio, or the file is not in the folder.
        MalformedBody, BodyTooLarge: Errors of `Exchange.image`.
    """
    if text[:5].lower() == b"data:" or not _URL.match(address := text[:4096].decode("utf-8", "replace")):
        return decode(text)
    relative = _relative_path(address)
    if relative is None:
        raise _unreadable("has an address that this service does not fetch.")
    if files is None:
        raise _unreadable("is a file of Label Studio, and EDGESAM_LABEL_STUDIO_FILES is not set.")
    with suppress(OSError, ValueError, RuntimeError):  # missing, a null byte, links in a circle
        path = (files / relative).resolve(strict=True)
        if path.is_relative_to(files.resolve()):
            return _read_file(path, max_bytes)
    raise _unreadable("is not a readable file in the folder EDGESAM_LABEL_STUDIO_FILES.")


def _relative_path(address: str) -> str | None:
    """Return the path of Label Studio's own file below its folder; None for any other address."""
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that hold no IPv6 address
        return None
    if _LOCAL_FILES.search(parts.path):
        return parse_qs(parts.query).get("d", [""])[0]
    upload = _UPLOAD.search(parts.path)
    return unquote(upload[1]) if upload else None


def _unreadable(reason: str) -> InvalidRequest:
    return broken_rule(
        "/tasks/0/data",
        f"the image {reason} Import tasks with data: URIs, or use Label Studio's local files or uploads and set "
        "EDGESAM_LABEL_STUDIO_FILES to their folder.",
    )


def _read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file. Links were resolved before."""
    data = read_regular_file(path, max_bytes, follows_links=False)
    if len(data) > max_bytes:
        raise BodyTooLarge(
            f"The image has more than {max_bytes} bytes. Use a smaller file.", extra={"limit": max_bytes}
        )
    return data


class _BrushRenderer:
    """Renders the best mask as a brush region."""

    masks_per_prompt: int | None = 1

    def __init__(self, target: _Target, model: str) -> None:
        self._target = target
        self._model = model
        self._rle: Any = []
        self._score = 0.0

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        self._rle = encode_brush(mask.mask)
        self._score = mask.score

    def finish(self, image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        height, width = image.size
        region = {
            "id": secrets.token_hex(5),  # id of a region and not of a mask: a user may accept the same click twice
            "type": "brushlabels",
            "from_name": self._target.from_name,
            "to_name": self._target.to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": self._score,
            "readonly": False,
            "value": {"format": "rle", "rle": self._rle, "brushlabels": self._target.labels},
        }
        prediction = {"result": [region], "score": self._score, "model_version": self._model}
        return Response(orjson.dumps({"results": [prediction]}, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)
