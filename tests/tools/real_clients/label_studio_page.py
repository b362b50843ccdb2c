"""Label Studio's page in a headless browser: what a person presses to annotate with a model."""

import io
import json
from typing import Any

from PIL import Image
from playwright.sync_api import APIResponse, Browser, Locator, Response

WAIT_MS = 60_000  # for busy machines
WINDOW = {"width": 1400, "height": 800}
_SCREENSHOT_SIZE = (1050, 600)
_COLOURS = 128  # a palette keeps each screenshot small


class StudioPage:
    """A page of Label Studio, with somebody logged in.

    Args:
        browser: Browser that shows it.
        url: Address of Label Studio.
        user: E-mail address of the user.
        password: Password of the user.
    """

    def __init__(self, browser: Browser, url: str, user: str, password: str) -> None:
        self._url = url
        self._context = browser.new_context(viewport=WINDOW, color_scheme="light")  # type: ignore[arg-type]
        self._context.set_default_timeout(WAIT_MS)
        self.page = self._context.new_page()
        self.page.goto(f"{url}/user/login/")
        self.page.fill("input[name=email]", user)
        self.page.fill("input[name=password]", password)
        with self.page.expect_navigation():
            self.page.click("button[type=submit]")

    def get(self, path: str) -> APIResponse:
        """Return the answer of Label Studio's API to the user who is logged in."""
        return self._context.request.get(f"{self._url}{path}")

    def post(self, path: str, **options: Any) -> Any:
        """Send a request of the page's user to Label Studio's API, and return its JSON."""
        token = next(cookie["value"] for cookie in self._context.cookies() if cookie["name"] == "csrftoken")
        headers = {"X-CSRFToken": token, "Referer": self._url}
        answer = self._context.request.post(f"{self._url}{path}", headers=headers, **options)
        assert answer.ok, f"{path}: {answer.status} {answer.text()}"
        return answer.json()

    def connect_model(self, project: int, address: str) -> str:
        """Connect a model in the settings of a project, and return the state that the page shows."""
        self.page.goto(f"{self._url}/projects/{project}/settings/ml")
        self.page.click("text=Connect Model")
        self.page.fill("input[name=title]", "EdgeSAM")
        self.page.fill("input[name=url]", address)
        self.page.locator("input[name=is_interactive]").check(force=True)  # the visible part is a drawing beside it
        self.page.click("button[aria-label='Save machine learning form']")
        state = self.page.locator("text=/^(Connected|Disconnected|Error)$/").first
        state.wait_for()
        return state.inner_text()

    def open_task(self, project: int, task: int) -> None:
        """Open a task and wait until its image is shown."""
        self.page.goto(f"{self._url}/projects/{project}/data?task={task}")
        self._image().wait_for()
        self.page.locator(".lsf-toolbar").wait_for()

    def switch_on_auto_annotation(self) -> None:
        """Press the switch that shows the smart tools."""
        self.page.click("text=Auto-Annotation")
        self._smart_tools().first.wait_for()

    def choose(self, tool: str, label: str, index: int) -> None:
        """Choose a smart tool, then a label of its control.

        Args:
            tool: Name of the tool, such as key-point-tool.
            label: Text of the label.
            index: Place of the control among those that have the label.
        """
        self._smart_tools().first.hover()
        self.page.locator(f".lsf-toolbar__smart [aria-label={tool}]").click(force=True)
        self.page.locator(".lsf-label", has_text=label).nth(index).click()

    def click(self, x: float, y: float) -> "Suggestion":
        """Click on the image at parts of its width and height, and return what the model suggests."""
        with self._expect_answer() as waiting:
            self.page.mouse.click(*self._at(x, y))
        return Suggestion(waiting.value)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> "Suggestion":
        """Draw a rectangle on the image, and return what the model suggests."""
        mouse = self.page.mouse
        with self._expect_answer() as waiting:
            mouse.move(*self._at(*start))
            mouse.down()
            mouse.move(*self._at(*end), steps=8)
            mouse.up()
        return Suggestion(waiting.value)

    def accept(self) -> None:
        """Accept the suggestion."""
        button = self.page.get_by_test_id("bottombar-accept-suggestions-button")
        button.click()
        button.wait_for(state="detached")

    def submit(self) -> None:
        """Submit the annotation, and wait until Label Studio has it."""
        with self.page.expect_response(
            lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
        ) as waiting:
            self.page.get_by_role("button", name="Submit").click()
        assert waiting.value.ok, waiting.value.text()

    @property
    def region_names(self) -> list[str]:
        """Names in the list of regions."""
        return self.page.locator(".lsf-outliner-item__title").all_inner_texts()

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """Return the window, or a part of it, as a PNG file with a palette."""
        shown = self.page.screenshot(animations="disabled", clip=clip)  # type: ignore[arg-type]
        with Image.open(io.BytesIO(shown)) as image:
            smaller = image.convert("RGB").resize(_SCREENSHOT_SIZE, Image.Resampling.LANCZOS)
            small = smaller.quantize(_COLOURS, dither=Image.Dither.NONE)
        content = io.BytesIO()
        small.save(content, "PNG", optimize=True)
        return content.getvalue()

    def _expect_answer(self) -> Any:
        return self.page.expect_response(lambda answer: "/interactive-annotating" in answer.url)

    def _smart_tools(self) -> Locator:
        return self.page.locator(".lsf-toolbar .lsf-tool_smart")

    def _image(self) -> Locator:
        return self.page.locator(".lsf-image-element, .konvajs-content canvas").first

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Return the coordinates of the window for parts of the image's width and height."""
        box = self.page.locator(".konvajs-content").first.bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]


class Suggestion:
    """What Label Studio sent to the model and got from it.

    Attributes:
        asked: Keypoints and rectangles that were sent.
        regions: Regions of the answer; empty if the model refused.
    """

    def __init__(self, response: Response) -> None:
        self.asked: list[dict[str, Any]] = json.loads(response.request.post_data or "")["context"]["result"]
        self.regions: list[dict[str, Any]] = response.json().get("data", {}).get("result", [])
