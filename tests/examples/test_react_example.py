"""The React example, built by Vite and clicked in Chromium."""

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from support.browser import needed_program, open_browser
from support.example_masks import best_mask, iou

TIMEOUT_S = 300
CLICK = (270, 210)
# Pixels of the canvas over the image, row by row: whether something is drawn there.
DRAWN = """canvas => {
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const isDrawn = (_, pixel) => (data[4 * pixel + 3] > 0 ? 1 : 0);
    return { width, height, drawn: Array.from({ length: width * height }, isDrawn).join("") };
}"""


@pytest.fixture
def page_url(root, url, tmp_path):
    """The address of the built page, which passes requests on to the service."""
    npm = needed_program("npm")
    subprocess.run(["make", "js-client"], cwd=root, check=True, timeout=TIMEOUT_S)
    folder = tmp_path / "examples" / "react"
    shutil.copytree(root / "examples" / "react", folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    shutil.copytree(root / "dist", tmp_path / "dist")
    install = [npm, "install", "--silent", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=folder, check=True, timeout=TIMEOUT_S)
    subprocess.run([npm, "run", "build"], cwd=folder, check=True, timeout=TIMEOUT_S)
    command = ["node", "node_modules/vite/bin/vite.js", "preview", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "EDGESAM_URL": url, "NO_COLOR": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            process.terminate()


def mask_on(page):
    """Return what is drawn over the image, (H, W), 0 and 1."""
    drawn = page.locator("canvas").evaluate(DRAWN)
    return np.array(list(drawn["drawn"]), np.uint8).reshape(drawn["height"], drawn["width"])


def test_a_click_in_the_react_page_shows_the_mask_of_the_api(page_url, url, root):
    photo = root / "service" / "web" / "samples" / "dahlia.jpg"
    expected = best_mask(url, photo, {"points": [{"x": CLICK[0], "y": CLICK[1]}]})
    messages = []
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 900, "height": 800})
        page.on("console", lambda message: messages.append((message.type, message.text)))
        page.goto(page_url)
        page.set_input_files("input[type=file]", str(photo))
        page.get_by_text("Click on an object.").wait_for()
        image = page.locator("img")
        scale = image.bounding_box()["width"] / 640
        place = {"x": CLICK[0] * scale, "y": CLICK[1] * scale}

        image.hover(position=place)
        page.wait_for_function("document.querySelector('canvas').width === 640")
        preview = mask_on(page)
        image.click(position=place)
        page.get_by_text("pixels, score").wait_for()
        chosen = mask_on(page)
        page.locator("div[tabindex]").press("Escape")
        cleared = mask_on(page)

    assert iou(preview, expected) >= 0.9
    assert iou(chosen, expected) >= 0.9
    assert not cleared.any()
    # The browser writes the look-up of a new image down as an error, because its answer is 404.
    assert [text for kind, text in messages if kind == "error" and "404" not in text] == []


def test_the_example_names_the_packed_client_of_this_version(root):
    package = json.loads((root / "examples" / "react" / "package.json").read_text())
    version = re.search(r'__version__ = "([^"]+)"', (root / "service" / "__init__.py").read_text())[1]

    assert package["dependencies"]["edgesam-client"] == f"file:../../dist/edgesam-client-{version}.tgz"
