"""The routes of embeddings: POST /embed, and HEAD, GET and DELETE of /embed/{image_hash}."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import EMBED, EMBED_KEYS, EMBED_OR_SEGMENT_KEYS, SEGMENT, RoutePolicy, with_policy
from service.api.bodies import RequestLimits, read_body
from service.api.conditional import OCTETS_SCHEMA, RANGE_RESPONSES, ranged_response, strong_etag
from service.api.preferences import PREFETCH, prefers
from service.api.problems import broken_rule
from service.api.rendering import JSON
from service.api.request_context import request_context
from service.api.schemas import MAX_MODEL_NAME, EmbedResponse, ImageIdText, ProblemModel
from service.api.single_array import require_single_array
from service.api.uploads import (
    AskedReading,
    BandsQuery,
    KeptImageQuery,
    LevelsQuery,
    ModelQuery,
    RegionQuery,
    kept_image,
    max_upload_bytes,
    upload_of,
)
from service.errors import EmbeddingNotFound
from service.inference.image_deletion import ImageDeletion
from service.inference.scheduling.executors import TimedExecutor
from service.inference.served_models import ServedModels
from service.sam.decoded_image import LEVELS, ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.float16 import as_float16
from service.sam.image_id import BANDS_PATTERN
from service.sam.region import REGION_PATTERN

_ROUTE: Final = "/embed/{image_hash}"
_NO_DOWNLOAD: Final = (
    "Send prompts to /segment, or name a model that has `embedding_download` among its `features` in /models."
)

# application/octet-stream and application/json are accepted, too, but not listed. With two kinds of body that it
# supports, openapi-python-client 0.29 generates a module that cannot be imported.
_IMAGE_BODY: Final = {
    "required": True,
    "content": {
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in (
                "image/jpeg",
                "image/png",
                "image/webp",
                "image/gif",
                "image/bmp",
                "image/tiff",
                "image/avif",
                "image/heic",
            )
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "levels": {"type": "string", "enum": list(LEVELS)},
                    "bands": {"type": "string", "pattern": f"^{BANDS_PATTERN}$"},
                    "region": {"type": "string", "pattern": f"^{REGION_PATTERN}$"},
                    "model": {"type": "string", "maxLength": MAX_MODEL_NAME},
                },
            }
        },
    },
}
_IMAGE_HEADERS: Final = {
    "X-Image-Size": "Width and height of the whole upright image, in pixels, joined by a comma.",
    "X-Image-Orientation": "EXIF orientation that was applied to the image, 1 to 8; 1 for none.",
    "X-Image-Levels": "Conversion of samples to grey levels that was applied: full, minmax or percentile.",
    "X-Image-Region": "Part of the image that is embedded: x0,y0,x1,y1 in pixels. Absent for the whole image.",
}
_HEAD_HEADERS: Final = {
    "X-Cache": "Cache tier that has the embedding.",
    **_IMAGE_HEADERS,
    "Preference-Applied": "prefetch if the replica's memory has the image or is loading it, as Prefer asked for.",
}
_EMBEDDING_HEADERS: Final = {
    "ETag": "Names the bytes. If-None-Match gives 304, and If-Range is respected.",
    "X-Embedding-Shape": "4096,256: tokens row by row of a grid of 64 × 64, and channels.",
    "X-Embedding-Dtype": "float16, little-endian.",
    **_IMAGE_HEADERS,
    "X-Fingerprint": "Fingerprint of the encoder, as in /models. The decoder has to be of the same model.",
}


def _described(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in headers.items()}


_EMBEDDING_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": text,
        "content": OCTETS_SCHEMA,
        "headers": _described(_EMBEDDING_HEADERS),
    }
    for status, text in (
        (200, "4096 × 256 tokens, little-endian float16, row by row: 2,097,152 bytes."),
        (206, "The range of bytes that was asked for."),
    )
}


def install_embed_routes(
    app: FastAPI,
    models: ServedModels,
    deletion: ImageDeletion,
    *,
    executor: TimedExecutor,
    limits: RequestLimits,
    expires_in_s: float,
) -> None:
    """Add the four routes of embeddings.

    Routes are added to the application itself: FastAPI hides the templates of an included router from middleware.

    Args:
        app: Application that gets the routes.
        models: Served models.
        deletion: Deletion of images of all models.
        executor: Threads that convert embeddings for the download.
        limits: Bounds of requests.
        expires_in_s: Time that an embedding is kept after its last use, in seconds.
    """

    @app.post(
        "/embed",
        response_model=EmbedResponse,
        responses=ProblemModel.responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra={"requestBody": _IMAGE_BODY},
        operation_id="embed",
        summary="Embed an image",
        description="Send the image once; its `image_id` is what /segment takes. An image that is embedded already "
        'costs a look-up. The body may also be JSON, `{"image": "<base64 or data: URI>"}`, with `levels`, `bands`, '
        "`region` and `model` as in a form. With `image_hash` and an empty body it is an image of an earlier upload.",
    )
    @with_policy(RoutePolicy(roles=EMBED_KEYS, quota=EMBED, permit="uploads", replica_role="embed"))
    async def embed(
        request: Request,
        levels: LevelsQuery = "auto",
        bands: BandsQuery = None,
        region: RegionQuery = None,
        image_hash: KeptImageQuery = None,
        model: ModelQuery = None,
    ) -> Response:
        models.get(model)  # an unknown name is refused before the body is read
        asked = AskedReading(levels, bands, region, model)
        kept = None if image_hash is None else kept_image(image_hash, asked)
        content_type = request.headers.get("content-type", "")
        read = partial(
            read_body,
            request,
            max_bytes=max_upload_bytes(content_type, limits.max_image_bytes),
            timeout_s=limits.body_timeout_s,
            min_bytes_per_s=limits.min_bytes_per_s,
            may_be_empty=kept is not None,
        )
        context = partial(request_context, request, timeout_s=limits.embed_timeout_s, work="Embedding the image")
        if kept is None:
            unwrap = partial(upload_of, content_type=content_type, asked=asked, max_image_bytes=limits.max_image_bytes)
            result = await models.embed(await read(), unwrap, context())  # only `embed` holds the body
        elif await read():
            raise broken_rule("/image_hash", "it goes with an empty body. Send image_hash, or the bytes of the image.")
        else:
            result = await models.embed_kept(kept, model, context())
        request.state.cached, request.state.objective = result.cached, "images"
        request.state.model = result.model
        height, width = result.image.size
        answer = EmbedResponse(
            image_hash=result.image_hash,
            image_id=result.image_id,
            width=width,
            height=height,
            region=None if result.image.region is None else result.image.region.corners,
            orientation=result.image.orientation,
            levels=result.image.levels,
            model=result.model,
            cached=result.cached,
            expires_in_s=expires_in_s,
        )
        return Response(answer.model_dump_json(), media_type=JSON)

    @app.head(
        _ROUTE,
        response_class=Response,
        responses={
            200: {"description": "The image is embedded.", "headers": _described(_HEAD_HEADERS)},
            **{status: {"description": "Problem, without a body"} for status in (401, 403, 404, 422, 429, 503)},
        },
        operation_id="is_embedded",
        summary="Is an image embedded?",
        description="200 if it is, so that the upload can be skipped. The headers tell what /embed would answer. "
        "With `Prefer: prefetch` the replica also loads the image into its memory, ahead of the first prompt.",
    )
    @with_policy(RoutePolicy(roles=EMBED_OR_SEGMENT_KEYS, quota=SEGMENT))
    async def head(request: Request, image_hash: ImageIdText, model: ModelQuery = None) -> Response:
        served = models.get(model)
        request.state.model = served.name
        found = await served.embedder.contains(image_hash, request.state.caller)
        if found is None:
            raise EmbeddingNotFound.of_model(served.name)
        tier, image = found
        context = request_context(request, timeout_s=limits.segment_timeout_s, work="Loading the image")
        is_prefetched = prefers(request, PREFETCH) and served.embedder.prefetch(image_hash, context)
        applied = {"Preference-Applied": PREFETCH} if is_prefetched else {}
        return Response(headers={"X-Cache": tier, **_image_headers(image), **applied})

    @app.get(
        _ROUTE,
        response_class=Response,
        responses={
            **RANGE_RESPONSES,
            **_EMBEDDING_RESPONSES,
            **ProblemModel.responses(401, 403, 404, 416, 422, 429, 503, 504),
        },
        summary="Download an embedding",
        description="For decoding in the browser: the tokens that `prepare.onnx` takes. Single ranges are answered. "
        "422 for a model whose embedding has several maps, such as EdgeTAM: `features.embedding_download` in /models.",
    )
    @with_policy(RoutePolicy(roles=EMBED_OR_SEGMENT_KEYS, quota=EMBED, permit="downloads", replica_role="embed"))
    async def read_embedding(request: Request, image_hash: ImageIdText, model: ModelQuery = None) -> Response:
        served = models.get(model)
        request.state.model = served.name
        require_single_array(served, _NO_DOWNLOAD)
        context = request_context(request, timeout_s=limits.segment_timeout_s, work="Reading the embedding")
        embedding = await served.embedder.read(image_hash, context)
        content, etag = await executor.run(context.timings, _tokens, embedding)
        described = {
            "X-Embedding-Shape": ",".join(map(str, embedding.tokens.shape)),
            "X-Embedding-Dtype": "float16",
            **_image_headers(embedding.info),
            "X-Fingerprint": served.fingerprint,
        }
        return ranged_response(content, request.headers, etag=etag, described=described)

    @app.delete(
        _ROUTE,
        status_code=204,
        responses=ProblemModel.responses(401, 403, 404, 422, 429, 503, 504),
        operation_id="forget",
        summary="Delete an image",
        description="Removes the embeddings of all models, and the copy that is kept of the upload, from Redis and "
        "from the memory of the replica that answers. The hash alone names the image with its variants and regions. "
        "The other replicas have been notified when this answers, and do the same at once. "
        "Where API keys are required, the key needs the role admin.",
    )
    @with_policy(RoutePolicy(quota=SEGMENT, permit="deletions", replica_role="embed"))
    async def delete(request: Request, image_hash: ImageIdText) -> Response:
        work = "Waiting for the embedding of the image"
        context = request_context(request, timeout_s=limits.embed_timeout_s, work=work)
        if not await deletion.delete(image_hash, context):
            raise EmbeddingNotFound("No embedding of this image is cached, so there is nothing to delete.")
        return Response(status_code=204)


def _image_headers(image: ImageInfo) -> dict[str, str]:
    height, width = image.size
    headers = {
        "X-Image-Size": f"{width},{height}",
        "X-Image-Orientation": str(image.orientation),
        "X-Image-Levels": image.levels,
    }
    return headers if image.region is None else {**headers, "X-Image-Region": str(image.region)}


def _tokens(embedding: ImageEmbedding) -> tuple[memoryview, str]:
    """Return the tokens as little-endian float16, row by row, and their strong ETag. Blocking.

    The ETag is of the bytes and not of the image. Two processors may round an image differently, and then parts of both
    downloads would not fit together.
    """
    tokens = embedding.tokens if embedding.tokens.dtype == np.float16 else as_float16(embedding.tokens)
    content = np.ascontiguousarray(tokens, "<f2").data.cast("B")
    return content, strong_etag(content)
