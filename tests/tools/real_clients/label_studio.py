"""Annotates in the real Label Studio: `python tests/tools/real_clients/label_studio.py [--screenshots FOLDER]`.

Label Studio is installed into an environment of its own; `--python` names an existing one. It runs on loopback with
SQLite. A headless browser uses its page: it connects the service as a model, opens tasks, uses the smart keypoint and
the smart rectangle, submits, and exports. One project has its images in a folder that the service reads, and brush
regions. Another has images that the service fetches with a token, and polygons.
"""

import argparse
import io
import json
import re
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
# Not the folder of this file, so that no name of a tool is hidden.
sys.path[:] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "tools"), *sys.path[1:]]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import pycocotools.mask  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from real_clients.environment import check, tool_python  # noqa: E402
from real_clients.label_studio_page import StudioPage, Suggestion  # noqa: E402
from real_clients.label_studio_server import PASSWORD, USER, LabelStudio  # noqa: E402
from support.browser import open_browser  # noqa: E402
from support.brush_regions import brush_pixels  # noqa: E402
from support.service_client import embed, open_client, segment  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

REQUIREMENT = "label-studio==1.23.2"
# Without these, Label Studio connects to no address of a private network.
LOCAL_ADDRESSES = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}

SAMPLE = ROOT / "service" / "web" / "samples" / "dahlia.jpg"
HEIGHT, WIDTH = 427, 640
CLICK = (0.47, 0.46)
BOX = (0.445, 0.87, 0.706, 0.995)

BRUSHES = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image" smart="false">
    <Label value="Flower" background="#e5484d"/>
    <Label value="Bud" background="#3e63dd"/>
  </BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
    <Label value="Flower" background="#e5484d"/>
    <Label value="Bud" background="#3e63dd"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
    <Label value="Flower" background="#e5484d"/>
    <Label value="Bud" background="#3e63dd"/>
  </RectangleLabels>
</View>"""
POLYGONS = BRUSHES.replace("BrushLabels", "PolygonLabels").replace('name="brush"', 'name="polygon"')


def main() -> None:
    """Annotate with brushes and with polygons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="Python of an environment that has Label Studio")
    parser.add_argument("--screenshots", type=Path, help="folder for screenshots of the page")
    arguments = parser.parse_args()
    python = arguments.python or tool_python("label-studio", REQUIREMENT)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        studio = stack.enter_context(LabelStudio(python, folder, LOCAL_ADDRESSES))
        browser = stack.enter_context(open_browser())
        page = StudioPage(browser, studio.url, USER, PASSWORD)
        annotate_with_brushes(page, studio, arguments.screenshots)
        annotate_with_polygons(page, studio, arguments.screenshots)


def annotate_with_brushes(page: StudioPage, studio: LabelStudio, shots: Path | None) -> None:
    """Annotate uploaded images, which the service reads in Label Studio's folder, and export."""
    settings = {"EDGESAM_ADAPTERS": "label-studio", "EDGESAM_LABEL_STUDIO_FILES": str(studio.folder / "media")}
    with ServiceProcess(settings) as service:
        project, task = new_project(page, "Flowers", BRUSHES)
        state = page.connect_model(project, f"{service.url}/label-studio")
        check("state of the model in the project's settings", holds=state == "Connected", seen=state)
        keep(page, shots, "label-studio-model")
        page.open_task(project, task)
        page.switch_on_auto_annotation()

        page.choose("key-point-tool", "Flower", 1)
        compare("brush region of a smart keypoint", service, page.click(*CLICK))
        keep(page, shots, "label-studio-suggestion")
        page.accept()
        page.choose("rectangle-tool", "Bud", 2)
        compare("brush region of a smart rectangle", service, page.drag(BOX[:2], BOX[2:]))
        page.accept()
        keep(page, shots, "label-studio-regions")
        page.submit()

        clicks = [line for line in service.log if line.get("route") == "/label-studio/predict" and "prompts" in line]
        cached = [line["cached"] for line in clicks]
        check("the image is embedded when its task is opened", holds=cached == ["memory"] * 2, seen=cached)
        check_embedding_ahead(page, service, project)
    check_export(page, project)


def annotate_with_polygons(page: StudioPage, studio: LabelStudio, shots: Path | None) -> None:
    """Annotate uploaded images, which the service fetches with a personal access token."""
    token = page.post("/api/token/")["token"]
    settings = {
        "EDGESAM_ADAPTERS": "label-studio",
        "EDGESAM_LABEL_STUDIO_URL": studio.url,
        "EDGESAM_LABEL_STUDIO_TOKEN": token,
    }
    with ServiceProcess(settings) as service:
        project, task = new_project(page, "Polygons", POLYGONS)
        state = page.connect_model(project, f"{service.url}/label-studio")
        check("state of the model that fetches images", holds=state == "Connected", seen=state)
        page.open_task(project, task)
        page.switch_on_auto_annotation()
        page.choose("key-point-tool", "Flower", 1)
        compare("polygon of a smart keypoint on a fetched image", service, page.click(*CLICK))
        keep(page, shots, "label-studio-polygon")
        page.accept()
        page.submit()
        is_secret = token not in json.dumps(service.log)
    check("the token is not in the service's log", holds=is_secret, seen=is_secret)


def compare(title: str, service: ServiceProcess, suggestion: Suggestion) -> None:
    """Check that a suggested region is the mask that /segment gives for the same prompt."""
    refusals = [line["detail"] for line in service.log if "detail" in line]
    if len(suggestion.regions) != 1:
        check(f"{title}, regions", holds=False, seen=f"{len(suggestion.regions)}, {refusals}")
    (region,) = suggestion.regions
    (asked,) = suggestion.asked
    value = asked["value"]
    x, y = value["x"] / 100 * WIDTH, value["y"] / 100 * HEIGHT
    if asked["type"] == "keypointlabels":
        prompt: dict[str, Any] = {"points": [{"x": x, "y": y, "label": 1}]}
    else:
        prompt = {"box": [x, y, x + value["width"] / 100 * WIDTH, y + value["height"] / 100 * HEIGHT]}
    with open_client(service.url) as client:
        (masks,) = segment(client, embed(client, SAMPLE.read_bytes()), prompt, multimask="auto")
    expected = pycocotools.mask.decode(masks[0]["rle"]).astype(np.bool_)
    if region["type"] == "brushlabels":
        found = brush_pixels(region["value"]["rle"], (HEIGHT, WIDTH))
    else:
        found = filled([(x / 100 * WIDTH, y / 100 * HEIGHT) for x, y in region["value"]["points"]])
    overlap = float((found & expected).sum() / (found | expected).sum())
    # Islands are removed from suggestions, and polygons are simplified.
    check(f"{title}, IoU with /segment", holds=overlap > 0.95, seen=f"{overlap:.4f} ({region['type']})")


def new_project(page: StudioPage, title: str, interface: str) -> tuple[int, int]:
    """Create a project with one uploaded image, and return the ids of the project and of its task."""
    project = page.post("/api/projects/", data={"title": title, "label_config": interface})["id"]
    upload(page, project, {"name": SAMPLE.name, "mimeType": "image/jpeg", "buffer": SAMPLE.read_bytes()})
    return project, tasks_of(page, project)[0]


def upload(page: StudioPage, project: int, file: dict[str, Any]) -> None:
    """Upload an image into a project."""
    page.post(f"/api/projects/{project}/import", multipart={"file": file})


def tasks_of(page: StudioPage, project: int) -> list[int]:
    """Return the ids of a project's tasks."""
    return [task["id"] for task in page.get(f"/api/tasks?project={project}").json()["tasks"]]


def check_embedding_ahead(page: StudioPage, service: ServiceProcess, project: int) -> None:
    """Upload three further images and check that Retrieve Predictions for all tasks embeds them."""
    for index in range(3):
        content = io.BytesIO()
        with Image.open(SAMPLE) as image:
            image.rotate(20 * (index + 1)).save(content, "JPEG")
        upload(page, project, {"name": f"{index}.jpg", "mimeType": "image/jpeg", "buffer": content.getvalue()})
    before = encoded(service)
    page.post(
        f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
        data={"selectedItems": {"all": True, "excluded": []}, "project": str(project)},
    )
    seen = encoded(service) - before
    check("Retrieve Predictions embeds the other images of the project", holds=seen == 3, seen=seen)


def encoded(service: ServiceProcess) -> int:
    """Return the number of images that the service has encoded."""
    text = httpx.get(f"{service.url}/metrics", trust_env=False).text
    found = re.search(r'^edgesam_stage_duration_seconds_count\{stage="encode"\} ([0-9.]+)', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def check_export(page: StudioPage, project: int) -> None:
    """Export as BRUSH_TO_COCO and check that each object is one annotation."""
    answer = page.get(f"/api/projects/{project}/export?exportType=BRUSH_TO_COCO")
    with zipfile.ZipFile(io.BytesIO(answer.body())) as archive:
        document = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(".json"))))
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = sorted(names[annotation["category_id"]] for annotation in document["annotations"])
    check("annotations of BRUSH_TO_COCO", holds=found == ["Bud", "Flower"], seen=found)


def filled(points: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Return the pixels inside a polygon, (H, W)."""
    image = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.array(image)


def keep(page: StudioPage, folder: Path | None, name: str) -> None:
    """Write a screenshot, if a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(page.screenshot())


if __name__ == "__main__":
    main()
