"""Takes the screenshots of the documents: `python tests/tools/screenshots.py [--url http://127.0.0.1:8000/]`.

Without `--url` it starts a service of its own, with the model that EDGESAM_MODEL_DIR names or the bundled one.
"""

import argparse
import io
import os
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402
from support.browser import Playground, open_browser  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

# Prompts on sample images, in their pixels: a click x, y, and boxes x0, y0, x1, y1.
DAHLIA = (270, 210)
SECOND_DAHLIA = (285, 370, 452, 427)
PAGODA = (68, 25, 372, 395)
COLOURS = 256  # a palette keeps each file light


def main() -> None:
    """Write docs/images/playground.png and docs/images/playground-phone.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service; by default one is started")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        model = {name: value for name, value in os.environ.items() if name == "EDGESAM_MODEL_DIR"}
        url = arguments.url or stack.enter_context(ServiceProcess(model)).url + "/"
        browser = stack.enter_context(open_browser())
        for name, take in (("playground", desktop), ("playground-phone", phone)):
            path = arguments.out / f"{name}.png"
            path.write_bytes(take(browser, url))
            print(f"{path}: {path.stat().st_size} bytes")


def desktop(browser: Browser, url: str) -> bytes:
    """Two named objects in a light window, one of a click and one of a box; a PNG file."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    playground = Playground(context, url)
    playground.visit()
    playground.open_sample("dahlia.jpg")
    playground.click(*playground.place(*DAHLIA))
    name_object(playground, 0, "Dahlia")
    playground.page.click("#add-object")
    draw_box(playground, SECOND_DAHLIA, 2)
    name_object(playground, 1, "Second dahlia")
    playground.page.locator(".object-select").first.click()
    return finish(playground)


def phone(browser: Browser, url: str) -> bytes:
    """One object on a dark phone; a PNG file."""
    context = browser.new_context(
        viewport={"width": 390, "height": 780},
        color_scheme="dark",
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
    )
    playground = Playground(context, url)
    playground.visit()
    playground.open_sample("pagoda.jpg")
    draw_box(playground, PAGODA, 1)
    return finish(playground)


def draw_box(playground: Playground, box: tuple[float, float, float, float], count: int) -> None:
    """Drag a box around an object; it is the `count`-th click of the visit."""
    x0, y0, x1, y1 = box
    playground.drag(playground.place(x0, y0), playground.place(x1, y1))
    playground.wait_for_clicks(count)


def name_object(playground: Playground, index: int, name: str) -> None:
    """Give the object in this row of the list a name."""
    field = playground.page.locator(".object-name").nth(index)
    field.fill(name)
    field.press("Enter")


def finish(playground: Playground) -> bytes:
    """The window as a PNG file with a palette; closes it."""
    playground.page.mouse.move(1, 1)
    playground.page.locator("body.is-ready").wait_for()
    shot = playground.page.screenshot(animations="disabled")
    playground.page.context.close()
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    palette = image.quantize(COLOURS, kmeans=2)
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
