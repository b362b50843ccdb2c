"""What a user of a generated client writes: `generated_calls.py URL IMAGE`, run by test_generated_client.py.

Prints one JSON object with what came back, through the generated types alone.
"""

import json
import sys
from pathlib import Path

from generated_client import Client
from generated_client.api.default import embed, forget, is_embedded, models, segment
from generated_client.models import (
    EmbedFilesBody,
    PointModel,
    ProblemModel,
    PromptModel,
    SegmentRequest,
    SegmentRequestFormat,
)
from generated_client.types import File


def main(url: str, image: Path) -> dict:
    """Every call that a front end needs."""
    with Client(base_url=url, raise_on_unexpected_status=True) as client:
        with image.open("rb") as file:
            embedded = embed.sync(client=client, body=EmbedFilesBody(image=File(payload=file)))
        click = PromptModel(points=[PointModel(x=20.0, y=15.0, label=1)])
        box = PromptModel(box=[2.0, 3.0, 30.0, 25.0])
        request = SegmentRequest(image_hash=embedded.image_hash, prompts=[click, box], multimask=3)
        answer = segment.sync(client=client, body=request)
        polygons = SegmentRequest(
            image_hash=embedded.image_hash, prompts=[box], multimask="auto", format_=SegmentRequestFormat.POLYGON
        )
        outlined = segment.sync(client=client, body=polygons)
        unknown = segment.sync(client=client, body=SegmentRequest(image_hash="6" * 64, prompts=[click]))
        outside = segment.sync(
            client=client,
            body=SegmentRequest(image_hash=embedded.image_hash, prompts=[PromptModel(box=[900.0, 9.0, 999.0, 99.0])]),
        )
        known = is_embedded.sync_detailed(embedded.image_hash, client=client)
        gone = forget.sync_detailed(embedded.image_hash, client=client)
        missing = is_embedded.sync_detailed(embedded.image_hash, client=client)
        (model,) = models.sync(client=client).models
    assert isinstance(unknown, ProblemModel)
    assert isinstance(outside, ProblemModel)
    return {
        "size": [embedded.width, embedded.height],
        "masks": [[mask.rle.size for mask in result.masks] for result in answer.results],
        "areas": [[mask.area for mask in result.masks] for result in answer.results],
        "corners": len(outlined.results[0].masks[0].polygon[0].exterior),
        "problem": [unknown.status, unknown.code],
        "errors": [outside.status, outside.code, bool(outside.instance)],
        "statuses": [known.status_code, gone.status_code, missing.status_code],
        "tier": known.headers["x-cache"],
        "model": [model.name, model.trained, model.limits["max_prompts"]],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
