"""A backend that calls the service for its own users: it keeps their projects, and the service computes the masks.

EDGESAM_URL=http://127.0.0.1:8000 uvicorn app:app --port 9000

The browser talks to this backend alone. The API key of the service stays here. A photo is uploaded once and gets an id
of this backend; clicks name that id.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

from edgesam_client import AsyncClient, Busy, ClientError, Embedded, PictureRefused, PromptRefused
from fastapi import FastAPI, File, HTTPException, Request
from pydantic import BaseModel, Field

MAX_PHOTO_BYTES = 20 << 20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for all requests. It keeps its connections open, which makes clicks fast."""
    url = os.environ.get("EDGESAM_URL", "http://127.0.0.1:8000")
    async with AsyncClient(url, os.environ.get("EDGESAM_API_KEY")) as client:
        app.state.client = client
        app.state.photos = {}  # a real backend keeps the files and their ids in its database
        yield


app = FastAPI(lifespan=lifespan)


class Click(BaseModel):
    """A click in pixels of the photo. `mask_id` refines an earlier mask."""

    points: list[tuple[float, float]] = Field(min_length=1, max_length=32)
    labels: list[int] | None = None
    mask_id: str | None = None


@app.post("/photos")
async def add_photo(request: Request, photo: Annotated[bytes, File()]) -> dict[str, Any]:
    """Take a photo, embed it, and return its id and size."""
    if len(photo) > MAX_PHOTO_BYTES:
        raise HTTPException(413, f"A photo may have {MAX_PHOTO_BYTES} bytes.")
    embedded = await _answer(request.app.state.client.embed(photo))
    photo_id = uuid4().hex
    request.app.state.photos[photo_id] = embedded
    return {"id": photo_id, "width": embedded.width, "height": embedded.height}


@app.post("/photos/{photo_id}/masks")
async def segment(request: Request, photo_id: str, click: Click) -> dict[str, Any]:
    """Return the best mask of a click, as COCO run lengths. An evicted photo is embedded again by the client."""
    photo: Embedded | None = request.app.state.photos.get(photo_id)
    if photo is None:
        raise HTTPException(404, "There is no such photo.")
    answer = await _answer(
        request.app.state.client.segment(photo, points=click.points, labels=click.labels, mask_id=click.mask_id)
    )
    best = answer.best
    return {"rle": best.run_lengths, "box": best.box, "score": best.score, "mask_id": best.mask_id}


async def _answer(call: Any) -> Any:
    """Await a call of the client. Its errors become the HTTP errors of this backend."""
    try:
        return await call
    except (PictureRefused, PromptRefused) as error:
        raise HTTPException(422, error.detail) from error
    except Busy as error:
        raise HTTPException(503, "Too many clicks at the moment. Try again.", {"Retry-After": "1"}) from error
    except ClientError as error:
        raise HTTPException(502, str(error)) from error
