"""Exports all objects of three photos from the real Label Studio, by its page alone, and counts clicks and seconds.

Start it with `python tests/tools/real_clients/three_photos.py`. It creates a project in Label Studio's page, connects
the service as a model, submits the objects that the service proposes, and exports a COCO file. The numbers stand in
docs/explanation/page-comparison.md, beside those of `tests/web/test_three_photos.py`.
"""

import argparse
import io
import json
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Not the folder of this file, so that no name of a tool is hidden.
sys.path[:] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "tools"), *sys.path[1:]]

from playwright.sync_api import Page  # noqa: E402
from real_clients.environment import check, tool_python  # noqa: E402
from real_clients.label_studio import LOCAL_ADDRESSES, REQUIREMENT  # noqa: E402
from real_clients.label_studio_page import StudioPage  # noqa: E402
from real_clients.label_studio_server import PASSWORD, USER, LabelStudio  # noqa: E402
from support.browser import content_of, open_browser  # noqa: E402
from support.sample_images import sample_image  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

PHOTOS = [sample_image(f"{name}.jpg").path for name in ("dogs", "coins", "dahlia")]
WAIT_MS = 180_000  # for everything mode on a busy machine
INTERFACE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image"><Label value="Object"/></BrushLabels>
</View>"""
# Counts the clicks of the mouse, over all documents of the page.
COUNT_CLICKS = """addEventListener("click", ({ isTrusted, detail }) => {
    if (isTrusted && detail > 0) localStorage.setItem("clicks", 1 + Number(localStorage.getItem("clicks")));
}, true);"""


class Progress:
    """Clicks and seconds since the start."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._start = time.monotonic()

    def tell(self, step: str) -> None:
        """Print them after a step."""
        clicks = self._page.evaluate("Number(localStorage.getItem('clicks'))")
        print(f"{step}: {clicks} clicks, {time.monotonic() - self._start:.1f} s", flush=True)


def main() -> None:
    """Export the objects of the photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="Python of an environment that has Label Studio")
    arguments = parser.parse_args()
    python = arguments.python or tool_python("label-studio", REQUIREMENT)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        studio = stack.enter_context(LabelStudio(python, folder, LOCAL_ADDRESSES))
        settings = {
            "EDGESAM_ADAPTERS": "label-studio",
            "EDGESAM_LABEL_STUDIO_FILES": str(studio.folder / "media"),
            "EDGESAM_ADAPTER_PROPOSALS": "300",
        }
        service = stack.enter_context(ServiceProcess(settings))
        browser = stack.enter_context(open_browser())
        page = StudioPage(browser, studio.url, USER, PASSWORD).page
        page.add_init_script(COUNT_CLICKS)
        page.goto(studio.url)
        page.get_by_text("Create Project").first.wait_for()
        progress = Progress(page)
        create_project(page)
        progress.tell("project")
        connect_model(page, f"{service.url}/label-studio")
        progress.tell("model")
        regions = submit_proposals(page, progress)
        images, annotations = export(page)
        progress.tell(f"COCO file of {regions} regions with {annotations} annotations")
    check("images of the COCO file", holds=images == len(PHOTOS), seen=images)
    check("every region is in the COCO file", holds=annotations >= regions > len(PHOTOS), seen=annotations)


def create_project(page: Page) -> None:
    """Create a project with the photos and a labelling interface."""
    page.get_by_text("Create Project").first.click()
    page.get_by_text("Data Import").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Upload Files").click()
    chooser.value.set_files(PHOTOS)
    page.get_by_text(f"{len(PHOTOS)} files uploaded").wait_for()
    page.get_by_text("Labeling Setup").click()
    page.get_by_text("Custom template").first.click()
    page.locator(".CodeMirror").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(INTERFACE)
    page.locator(".lsf-label", has_text="Object").first.wait_for()  # the preview has the interface
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Label All Tasks").wait_for()


def connect_model(page: Page, address: str) -> None:
    """Connect the service in the settings, and go back to the project."""
    page.get_by_text("Settings", exact=True).click()
    page.get_by_role("link", name="Model").first.click()
    page.click("text=Connect Model")
    page.click("input[name=title]")
    page.keyboard.insert_text("EdgeSAM")
    page.click("input[name=url]")
    page.keyboard.insert_text(address)
    page.click("button[aria-label='Save machine learning form']")
    page.get_by_text("Connected", exact=True).wait_for()
    page.locator("a", has_text="New Project #").first.click()


def submit_proposals(page: Page, progress: Progress) -> int:
    """Submit the proposals for each photo as they are, and return the number of regions."""
    regions = 0
    page.get_by_text("Label All Tasks").click()
    for photo in PHOTOS:
        page.locator(".lsf-outliner-item__title").first.wait_for(timeout=WAIT_MS)
        with page.expect_response(
            lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
        ) as waiting:
            page.get_by_test_id("bottombar-submit-button").click()
        regions += len(json.loads(waiting.value.request.post_data or "")["result"])
        page.locator(".lsf-outliner-item__title").first.wait_for(state="detached")
        progress.tell(photo.name)
    return regions


def export(page: Page) -> tuple[int, int]:
    """Export as COCO, and return the numbers of images and annotations."""
    page.get_by_text("No More Tasks Left in Queue").wait_for()  # leaving earlier is an error of Label Studio's page
    page.locator("a", has_text="New Project #").first.click()
    page.get_by_text("Export", exact=True).click()
    page.get_by_text("Brush labels to COCO").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export").last.click()
    with zipfile.ZipFile(io.BytesIO(content_of(waiting.value))) as archive:
        document = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(".json"))))
    return len(document["images"]), len(document["annotations"])


if __name__ == "__main__":
    main()
