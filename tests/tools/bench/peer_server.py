"""A typical HTTP server for SAM, as a reference for our service.

Each of its properties is found in several published servers. It has one global predictor behind a lock, ONNX Runtime
with default options and the official pair of graphs. It enlarges all four masks to the image size in floating point,
and sends the best one as an 8-bit PNG in base64. Where published servers differ, it has the faster variant: a request
does not contain the image, and the features of ten images are kept.
"""

import argparse
import base64
import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, HTTPException
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

FRAME = 1024
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
KEPT_IMAGES = 10


class EmbedBody(BaseModel):
    """Body of POST /embed."""

    image: str  # base64


class PredictBody(BaseModel):
    """Body of POST /predict."""

    image_id: str
    points: list[list[float]]
    labels: list[int]


@dataclass
class Features:
    """Embedding of an image, and its sizes before and after resizing."""

    embedding: NDArray[np.float32]
    original_size: tuple[int, int]
    input_size: tuple[int, int]


class Predictor:
    """The global predictor: `set_image`, then `predict`."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        self._encoder = ort.InferenceSession(str(encoder), providers=["CPUExecutionProvider"])
        self._decoder = ort.InferenceSession(str(decoder), providers=["CPUExecutionProvider"])
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._features: Features | None = None

    def set_image(self, image: NDArray[np.uint8]) -> str:
        """Encode an image (H, W, 3) unless its features are kept, and return the hash of its pixels."""
        image_id = hashlib.sha1(image.tobytes()).hexdigest()
        if image_id not in self._kept:
            height, width = image.shape[:2]
            scale = FRAME / max(height, width)
            size = int(height * scale + 0.5), int(width * scale + 0.5)
            resized = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
            frame = np.zeros((FRAME, FRAME, 3))
            frame[: size[0], : size[1]] = (resized - MEAN) / STD
            feeds = {"image": frame.transpose(2, 0, 1)[None].astype(np.float32)}
            (embedding,) = self._encoder.run(None, feeds)
            self._kept[image_id] = Features(embedding, (height, width), size)
            if len(self._kept) > KEPT_IMAGES:
                self._kept.popitem(last=False)
        self.use(image_id)
        return image_id

    def use(self, image_id: str) -> None:
        """Make a kept image the current one. Raises KeyError if it is not kept."""
        self._features = self._kept[image_id]
        self._kept.move_to_end(image_id)

    def predict(
        self, points: NDArray[np.float64], labels: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return masks (4, H, W) and scores (4,) for points (N, 2), as (x, y), on the current image."""
        features = self._features
        assert features is not None, "an image must be set with .set_image(...) before mask prediction"
        (height, width), (input_height, input_width) = features.original_size, features.input_size
        coords = points * (input_width / width, input_height / height)
        feeds = {
            "image_embeddings": features.embedding,
            "point_coords": np.concatenate([coords, np.zeros((1, 2))])[None].astype(np.float32),
            "point_labels": np.append(labels, -1)[None].astype(np.float32),
        }
        scores, low_res = self._decoder.run(None, feeds)
        planes = cv2.resize(low_res[0].transpose(1, 2, 0), (FRAME, FRAME), interpolation=cv2.INTER_LINEAR)
        planes = cv2.resize(planes[:input_height, :input_width], (width, height), interpolation=cv2.INTER_LINEAR)
        return planes.transpose(2, 0, 1) > 0.0, scores[0]


def create_app(predictor: Predictor) -> FastAPI:
    """Return the app: synchronous handlers, which FastAPI runs in its thread pool, with one lock."""
    app = FastAPI()
    lock = threading.Lock()

    @app.get("/health")
    def health():
        return {"status": "ok"}

    @app.post("/embed")
    def embed(body: EmbedBody):
        image = np.array(Image.open(io.BytesIO(base64.b64decode(body.image))).convert("RGB"))
        with lock:
            return {"image_id": predictor.set_image(image)}

    @app.post("/predict")
    def predict(body: PredictBody):
        with lock:
            try:
                predictor.use(body.image_id)
            except KeyError:
                raise HTTPException(404, "unknown image_id; embed the image first") from None
            masks, scores = predictor.predict(np.array(body.points), np.array(body.labels))
        best = int(scores.argmax())
        buffer = io.BytesIO()
        Image.fromarray(masks[best].astype(np.uint8) * 255).save(buffer, "PNG")
        return {"mask": base64.b64encode(buffer.getvalue()).decode(), "score": float(scores[best])}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    uvicorn.run(create_app(Predictor(chosen.encoder, chosen.decoder)), port=chosen.port, log_level="warning")
