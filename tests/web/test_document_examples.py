"""The JavaScript examples of the documents run: in a page of the service, in another page, and in Node."""

import functools
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.browser import needed_program
from support.documents import ROOT, blocks, page
from support.service_process import ServiceProcess

EXAMPLE_PAGE = '<!doctype html><link rel="icon" href="data:," /><script type="module" src="example.js"></script>'
ADDRESS = "http://127.0.0.1:8000/"
FRONT_END = "http://127.0.0.1:9000"
OPACITY = "(canvas) => canvas.getContext('2d').getImageData(270, 210, 1, 1).data[3]"
TIMEOUT_S = 120


class QuietHandler(SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """What `python3 -m http.server` does; its origin."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("path", ["README.md", "docs/how-to/javascript-client.md"])
def test_the_example_for_a_web_page_draws_a_mask(visit, bundled_url, path):
    (example,) = blocks(page(path), "js")
    script = example.replace(ADDRESS, bundled_url)
    window = visit().page
    window.route("**/example", lambda route: route.fulfill(body=EXAMPLE_PAGE, content_type="text/html"))
    window.route("**/example.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))

    window.goto(f"{bundled_url}example")

    canvas = window.locator("canvas")
    canvas.wait_for()
    assert canvas.evaluate("({ width, height }) => [width, height]") == [640, 427]
    assert canvas.evaluate(OPACITY) == 140


def test_the_front_end_of_the_tutorial_draws_the_mask_of_a_click(browser, tmp_path):
    (example,) = [block for block in blocks(page("docs/tutorial.md"), "sh") if "index.html" in block]
    write, _, serve = example.partition("python3 -m http.server")
    subprocess.run(["bash", "-euc", write], check=True, cwd=tmp_path, timeout=TIMEOUT_S)
    folder = tmp_path / "out" / "frontend"
    assert serve.split() == ["9000", "--bind", "127.0.0.1", "--directory", "out/frontend"]
    settings = re.search(r"EDGESAM_CORS_ORIGINS='(.*?)'", page("docs/tutorial.md"))
    assert settings is not None
    assert json.loads(settings[1]) == [FRONT_END]

    with file_server(folder) as origin, ServiceProcess({"EDGESAM_CORS_ORIGINS": json.dumps([origin])}) as service:
        html = folder / "index.html"
        html.write_text(html.read_text().replace(ADDRESS, f"{service.url}/"))
        window = browser.new_page()
        try:
            window.goto(f"{origin}/")
            window.wait_for_function("document.title.startsWith('Ready')")
            window.locator("#image").click(position={"x": 270, "y": 210})
            window.wait_for_function("document.getElementById('mask').width === 640")
            opacity = window.locator("#mask").evaluate(OPACITY)
        finally:
            window.close()

    assert opacity == 140


def printed_by_node(document: str, module: str, url: str, folder: Path) -> str:
    """Run the shell example of a document that writes and runs a module in Node; return its standard output."""
    needed_program("node", "nodejs")
    (example,) = [block for block in blocks(page(document), "sh") if module in block]
    (folder / "service").symlink_to(ROOT / "service")
    done = subprocess.run(
        ["bash", "-euc", example.replace(ADDRESS, url)],
        check=False, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_for_node_prints_score_and_box(bundled_url, tmp_path):
    printed = printed_by_node("docs/how-to/javascript-client.md", "click.mjs", bundled_url, tmp_path)

    assert re.fullmatch(r"0\.9\d+ \[ \d+, \d+, \d+, \d+ \]\n", printed)


def test_the_example_of_everything_mode_tells_its_progress(bundled_url, tmp_path):
    printed = printed_by_node("docs/how-to/javascript-client.md", "everything.mjs", bundled_url, tmp_path)

    assert "64 of 64 points\n" in printed
    assert re.search(r"^\d+ masks \{", printed, re.MULTILINE)


def test_the_example_of_a_region_keeps_the_pixels_of_the_image(bundled_url, tmp_path):
    printed = printed_by_node("docs/how-to/javascript-client.md", "region.mjs", bundled_url, tmp_path)

    assert re.fullmatch(r"[0-9a-f]{64}~region=160,80,460,380 \[ \d+, \d+, \d+, \d+ \]\n", printed)


def test_the_example_of_annotations_for_node_writes_a_dataset(bundled_url, tmp_path):
    printed = printed_by_node("docs/how-to/export-annotations.md", "export.mjs", bundled_url, tmp_path)

    dataset = json.loads((tmp_path / "coco.json").read_text())
    assert dataset["images"] == [{"id": 1, "file_name": "dahlia.jpg", "width": 640, "height": 427}]
    assert len(dataset["annotations"][0]["segmentation"]) == int(printed)
