"""A real headless Chromium, and the playground in it."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Download, Page, Request, sync_playwright
from support.redis_server import wait_until

WAIT_MS = 30_000  # for busy machines
# A name of this machine that is no secure context, unlike 127.0.0.1: its pages have no crypto.subtle.
PLAIN_HOST = "plain.test"
# API key of the service in the tests of browser decoding.
DECODING_KEY = "a-key-for-browser-decoding"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names of the program, of which the first that is installed runs."""
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1",
)
# A HEAD request asks whether an image is known, and a POST without a body asks for a region of a kept copy. No is a
# 404, which Chromium writes down as an error.
_EXPECTED_URLS = ("/embed/", "/embed?image_hash=")
# Chromium writes this down as an error where a page without a secure context has the header.
_IGNORED_HEADER = "Cross-Origin-Opener-Policy header has been ignored"


def needed_program(*names: str) -> str:
    """Return the path of the first of these programs that is installed.

    If none is installed, the test is skipped, or fails in CI.
    """
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        reason = f"{' or '.join(names)} is not installed"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; CI has to install it", pytrace=False)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Run Chromium until the block ends. Its event loop runs in this thread, so that asyncio tests cannot use it."""
    program = needed_program(*BROWSERS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Playground:
    """The playground in a page of the browser.

    Args:
        context: Browser context: size of the window, colours, touch.
        url: Address of the service, with a slash at the end.

    Attributes:
        errors: Errors of the console, without 404 responses to HEAD.
        requests: Requests of the page.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        context.set_default_timeout(WAIT_MS)
        self.page: Page = context.new_page()
        self.url = url
        self.errors: list[str] = []
        self.requests: list[Request] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - playwright marks it

    def visit(self) -> None:
        """Open the page and wait until its script has run."""
        self.page.goto(self.url)
        self.page.locator("body.is-ready").wait_for()

    def open_sample(self, file: str = "dahlia.jpg") -> None:
        """Open a sample image and wait until it can be clicked."""
        self.page.click(f"[data-sample='{file}']")
        self.wait_ready()

    def open_file(self, path: Path) -> None:
        """Open a file and wait until it can be clicked."""
        self.page.set_input_files("#file", path)
        self.wait_ready()

    def open_files(self, paths: Sequence[Path]) -> None:
        """Open several files, and wait until the first can be clicked and all are in the strip of thumbnails."""
        before = self.page.locator(".thumbnail").count()
        self.page.set_input_files("#file", paths)
        self.wait_shown(paths[0].name)
        self.page.locator(".thumbnail").nth(before + len(paths) - 1).wait_for(state="attached")
        self.page.locator("#images:not(.is-opening)").wait_for(state="attached")

    def wait_shown(self, name: str) -> None:
        """An image is in view, and can be clicked."""
        self.page.locator("#image-name", has_text=re.compile(f"^{re.escape(name)}$")).wait_for()
        self.wait_ready()

    def wait_kept(self) -> None:
        """The browser has stored all work, so that leaving needs no question."""
        self.page.locator("#kept-note[data-state=kept]").wait_for(state="attached")
        asks = "() => !dispatchEvent(new Event('beforeunload', { cancelable: true }))"
        wait_until(lambda: not self.page.evaluate(asks), timeout_s=WAIT_MS / 1000, what="the work was not stored")

    @property
    def image_names(self) -> list[str]:
        """Names of the open images, in their order."""
        names: list[str] = self.page.locator(".thumbnail").evaluate_all("(all) => all.map(({ title }) => title)")
        return names

    def wait_ready(self) -> None:
        """The service knows the image."""
        self.says("ready")

    def says(self, text: str) -> None:
        """Wait for a message to screen readers."""
        self.page.locator("#status", has_text=text).wait_for(state="attached")

    def click(self, x: float, y: float, **options: Any) -> None:
        """Click at a part of the stage's width and height, and wait for the mask."""
        count = self.clicks
        self.press(x, y, **options)
        self.wait_for_clicks(count + 1)

    def press(self, x: float, y: float, **options: Any) -> None:
        """Click, without waiting for anything."""
        self.page.mouse.move(*self.at(x, y))
        self.page.locator("#upper").click(position=self._inside(x, y), **options)

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, button: str = "left") -> None:
        """Press a mouse button at one position of the stage, and release it at another."""
        mouse = self.page.mouse
        mouse.move(*self.at(*start))
        mouse.down(button=button)  # type: ignore[arg-type]
        mouse.move(*self.at(*end), steps=4)
        mouse.up(button=button)  # type: ignore[arg-type]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of the window for a part of the stage's width and height."""
        box = self._box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The part of the stage's width and height where a pixel of the image is shown."""
        view = json.loads(self.page.get_attribute("#upper", "data-view") or "")
        box = self._box()
        return (x * view["scale"] + view["x"]) / box["width"], (y * view["scale"] + view["y"]) / box["height"]

    @property
    def clicks(self) -> int:
        """Number of clicks that the latency strip has counted."""
        text = self.page.locator("#latency [data-part=count]").text_content() or "0"
        return int(text.split()[0])

    def wait_for_clicks(self, count: int) -> None:
        """Wait until the latency strip has counted this many clicks."""
        text = "1 click" if count == 1 else f"{count} clicks"
        self.page.locator("#latency [data-part=count]", has_text=text).wait_for(state="attached")

    def segment_bodies(self) -> list[dict[str, Any]]:
        """Return the bodies of all requests to /segment, in order."""
        return [json.loads(request.post_data or "") for request in self.sent("POST", "/segment")]

    def sent(self, method: str, path: str) -> list[Request]:
        """Return the requests with a method whose URL contains `path`."""
        return [request for request in list(self.requests) if request.method == method and path in request.url]

    def save(self, button: str) -> bytes:
        """Click an export button, opening the menu around it, and return the downloaded file."""
        self.unfold(button)
        with self.page.expect_download() as waiting:
            self.page.click(button)
        return content_of(waiting.value)

    def unfold(self, selector: str) -> None:
        """Open the foldable sections around an element, as a user does: by clicks on their titles, outer ones first."""
        closed = self.page.locator(f"details:not([open]):has({selector})")
        while closed.count():
            closed.first.locator("> summary").click()

    def drawn(self) -> int:
        """Return the number of pixels of the upper canvas that are not transparent."""
        count: int = self.page.evaluate(
            """() => {
                const canvas = document.getElementById("upper");
                const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
                copy.drawImage(canvas, 0, 0);
                const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
                return data.filter((_, i) => i % 4 === 3 && data[i] > 0).length;
            }"""
        )
        return count

    def _box(self) -> Any:
        box = self.page.locator("#upper").bounding_box()
        assert box is not None
        return box

    def _inside(self, x: float, y: float) -> Any:
        box = self._box()
        return {"x": x * box["width"], "y": y * box["height"]}

    def _note(self, message: ConsoleMessage) -> None:
        url = str(message.location.get("url", ""))
        is_expected = "404" in message.text and any(each in url for each in _EXPECTED_URLS)
        is_expected = is_expected or (PLAIN_HOST in url and _IGNORED_HEADER in message.text)
        if message.type in {"error", "warning"} and not is_expected:
            self.errors.append(f"{message.text} ({url})")


def content_of(download: Download) -> bytes:
    """Return the bytes of a finished download."""
    return Path(download.path()).read_bytes()


def decode_in_browser(playground: Playground) -> None:
    """Let the browser decode from now on, and wait until it has prepared the image."""
    playground.page.locator("#decode-in-browser").check()
    playground.page.locator("#latency [data-part=prepared]:not(:empty)").wait_for(state="attached")


def rules_broken(playground: Playground, axe: str, *, rules: Sequence[str] = ()) -> list[str]:
    """Return the findings of axe-core on the page, one line each."""
    options = {"runOnly": list(rules)} if rules else {}
    playground.page.evaluate(axe)
    found: list[str] = playground.page.evaluate(
        """async (options) => (await axe.run(document, options)).violations.flatMap(({ id, nodes }) =>
            nodes.map((node) => `${id}: ${node.target} ${node.failureSummary}`))""",
        options,
    )
    return found
