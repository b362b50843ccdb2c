"""CVAT's detector: an image in, polygons of all objects out, for automatic annotation.

Source: cvat/apps/lambda_manager/views.py, and serverless/**/function.yaml of its detectors.
"""

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api.adapters.editable_polygons import editable_polygons
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.adapters.proposals import FoundObjects
from service.api.rendering import JSON
from service.inference.served_models import ServedModel
from service.sam.everything.record import mask_of
from service.sam.prompts import POSITIVE

# CVAT asks which label of the task stands for this one.
_LABEL: Final = "object"
# Tolerance of polygons relative to the length of an outline. People move the vertices by hand, so there should be few.
_TOLERANCE: Final = 0.001


class _Image(Document):
    """A call of the detector. Its threshold and its mapping of labels are applied by CVAT."""

    image: bytes


def describe_detector(function_id: str, model: ServedModel) -> dict[str, Any]:
    """Return a model's detector in the members that CVAT reads. Nuclio's annotations are strings."""
    annotations = {
        "name": f"EdgeSAM ({model.name}), all objects",
        "type": "detector",
        "spec": orjson.dumps([{"id": 0, "name": _LABEL, "type": "polygon"}]).decode(),
    }
    return {
        "metadata": {"name": function_id, "annotations": annotations},
        "spec": {"description": f"All objects, found with the model {model.name} of the EdgeSAM service."},
        "status": {"state": "ready"},
    }


async def detect(request: Request, exchange: Exchange, model: ServedModel) -> Response:
    """Answer a call of the detector: polygons of all objects, the best first.

    Args:
        request: Request with an unread body.
        exchange: Access of the adapter to the service, with proposals.
        model: Model that embeds and segments.
    """
    assert exchange.proposals is not None
    asked = await exchange.read(request, _Image.model_validate_json)
    embedded = await exchange.embed(request, asked.image, model)
    found = await exchange.proposals.find(request, embedded.image_id, model)
    return await exchange.executor.run(request.state.timings, _write, found)


def _write(found: FoundObjects) -> Response:
    """Write the parts of each mask as polygons. Blocking."""
    shapes = [
        {
            "confidence": str(record.predicted_iou),
            "label": _LABEL,
            "type": "polygon",
            "points": [coordinate for point in ring for coordinate in point],
        }
        for record in found.masks
        for ring in editable_polygons(
            mask_of(record, found.image.size), prompt_of([record.point], [POSITIVE]), tolerance=_TOLERANCE
        )
    ]
    return Response(orjson.dumps(shapes), media_type=JSON)
