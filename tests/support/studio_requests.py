"""Requests to the Label Studio adapter, in the form that Label Studio's api_connector.py and its editor send."""

from typing import Any

import httpx

HEIGHT, WIDTH = 60, 80
CONFIG = """
<View>
  <Image name="img" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="img"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
  <KeyPointLabels name="kp" toName="img" smart="true"><Label value="Cat"/><Label value="Dog"/></KeyPointLabels>
  <RectangleLabels name="box" toName="img" smart="true"><Label value="Cat"/><Label value="Dog"/></RectangleLabels>
</View>"""


def keypoint(x: float, y: float, label: str = "Cat", **members: Any) -> dict[str, Any]:
    """Return a smart keypoint, at per cents of the image."""
    value = {"x": x, "y": y, "width": 0.3, "labels": [label], "keypointlabels": [label]}
    region = {"original_width": 80, "original_height": 60, "image_rotation": 0, "value": value, "is_positive": True}
    return {**region, "id": "a", "from_name": "kp", "to_name": "img", "type": "keypointlabels", **members}


def rectangle(x: float, y: float, width: float, height: float, **members: Any) -> dict[str, Any]:
    """Return a smart rectangle, in per cent of the image."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["Dog"]}
    return {"value": value, "from_name": "box", "to_name": "img", "type": "rectanglelabels", "id": "b", **members}


def body(image: str, *regions: dict[str, Any], config: str = CONFIG, context: bool = True) -> dict[str, Any]:
    """Return the body of a request for predictions; without `context` as for a task that is opened."""
    return {
        "tasks": [{"id": 7, "data": {"image": image, "more": [1, 2]}, "annotations": [], "predictions": []}],
        "model_version": "x",
        "project": "3.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(regions)} if context else None},
    }


def predict(client: httpx.Client, *arguments: Any, **options: Any) -> httpx.Response:
    """Send a request for predictions."""
    return client.post("/label-studio/predict", json=body(*arguments, **options))
