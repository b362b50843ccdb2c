"""Segments through a running service, over HTTP."""

import base64
import functools
from collections.abc import Callable
from typing import Any, Literal

import httpx
import numpy as np

from model_store.errors import ModelStoreError
from model_store.evaluation.segmenters.segmenter import Floats, Predictions, PromptBatch, predict_in_chunks
from model_store.training.data.annotations import PhotoRecord
from service.sam.frame import Frame, Resize
from service.sam.prompts import IGNORED
from service.sam.transforms import MASK_SIZE, Size, points_from_frame


class ServiceFailed(ModelStoreError):
    """The service did not respond as it should; the message contains its response."""


class ServiceSegmenter:
    """A running service.

    The service has no ignored points. Where there is nothing to correct, the request repeats the prompt before.

    Args:
        url: Address of the service, for messages and tables.
        client: HTTP client whose base URL is that address.
    """

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.name = f"service at {url}"
        self._client = client

    @functools.cached_property
    def resize(self) -> Resize:
        """How the images of the service's default model get into the frame, by its list of models."""
        try:
            response = self._client.get("/models")
        except httpx.HTTPError as error:
            raise ServiceFailed(f"{self.name} does not respond to /models: {error}") from error
        models = self._content(response, "/models")["models"]
        # Earlier versions of the service have no such member, and letterbox all images.
        return "stretch" if models and models[0].get("resize") == "stretch" else "letterbox"

    def embed(self, photo: PhotoRecord) -> tuple[str, Size]:
        data = photo.path.read_bytes()
        response = self._post("/embed", content=data, headers={"content-type": "application/octet-stream"})
        if (response["height"], response["width"]) != photo.size:
            raise ServiceFailed(f"{photo.path} has {photo.size} pixels, the service sees another size")
        return response["image_hash"], photo.size

    def predict(self, embedded: tuple[str, Size], prompts: PromptBatch) -> Predictions:
        return predict_in_chunks(prompts, lambda part: self._segment(*embedded, part, 1))

    def predict_point(self, embedded: tuple[str, Size], prompts: PromptBatch) -> tuple[Predictions, Predictions]:
        four = predict_in_chunks(prompts, lambda part: self._segment(*embedded, part, "auto"))
        return self.predict(embedded, prompts), four

    def _segment(self, image_hash: str, size: Size, prompts: PromptBatch, multimask: Literal["auto", 1]) -> Predictions:
        body = {
            "image_hash": image_hash,
            "prompts": [_prompt_json(prompts, row, Frame(size, self.resize)) for row in range(len(prompts))],
            "multimask": multimask,
            "format": "logits",
        }
        results = [result["masks"] for result in self._post("/segment", json=body)["results"]]

        def of_each(read: Callable[[Any], Any]) -> Floats:
            return np.array([[read(mask) for mask in masks] for masks in results], np.float32)

        return Predictions(
            of_each(lambda mask: np.frombuffer(base64.b64decode(mask["logits"]), "<f2").reshape(MASK_SIZE, MASK_SIZE)),
            of_each(lambda mask: mask["predicted_iou"]),
            of_each(lambda mask: mask["stability"]),
            of_each(lambda mask: mask["score"]),
        )

    def _post(self, path: str, **request: Any) -> dict[str, Any]:
        try:
            response = self._client.post(path, **request)
        except httpx.HTTPError as error:
            raise ServiceFailed(f"{self.name} does not respond to {path}: {error}") from error
        return self._content(response, path)

    def _content(self, response: httpx.Response, path: str) -> dict[str, Any]:
        if response.is_error:
            raise ServiceFailed(f"{self.name} responds to {path} with {response.status_code}: {response.text[:300]}")
        content: dict[str, Any] = response.json()
        return content


def _prompt_json(prompts: PromptBatch, row: int, frame: Frame) -> dict[str, Any]:
    """Return one prompt as /segment takes it, in pixels of the photo."""
    height, width = frame.size
    prompt: dict[str, Any] = {}
    # The last cell may begin behind the last pixel.
    positions = np.minimum(points_from_frame(prompts.points[row], frame), (width, height))
    points = [
        {"x": float(x), "y": float(y), "label": int(label)}
        for (x, y), label in zip(positions, prompts.labels[row], strict=True)
        if label != IGNORED
    ]
    if points:
        prompt["points"] = points
    if prompts.boxes is not None:
        prompt["box"] = points_from_frame(prompts.boxes[row].reshape(2, 2), frame).reshape(4).tolist()
    return prompt
