"""/docs in a real browser: Swagger UI draws the OpenAPI document, and nothing comes from another host."""

import gzip
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route
from support.browser import DECODING_KEY, WAIT_MS
from support.service_process import ServiceProcess

from service.api.routes.docs import INTEGRITY, SWAGGER_UI_DIR


class DocsPage:
    """One visit of /docs.

    Args:
        page: Page of the browser.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str | None] = set()
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))


@pytest.fixture
def docs(browser) -> Iterator[DocsPage]:
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    yield DocsPage(page)
    page.close()


def test_the_documentation_needs_no_other_host(docs, bundled_url):
    docs.page.goto(f"{bundled_url}docs")

    docs.page.get_by_text("Cut out objects").wait_for()
    docs.page.get_by_text("Embed an image", exact=True).click()
    docs.page.get_by_role("button", name="Try it out").wait_for()
    assert docs.errors == []
    assert docs.hosts == {"127.0.0.1"}


def test_a_request_can_be_tried_out(docs, bundled_url):
    docs.page.goto(f"{bundled_url}docs")
    docs.page.get_by_text("The served models", exact=True).click()
    docs.page.get_by_role("button", name="Try it out").click()
    docs.page.get_by_role("button", name="Execute").click()

    docs.page.locator(".live-responses-table").get_by_text("edgesam-lite").first.wait_for()
    assert docs.errors == []


def test_a_browser_runs_no_other_swagger_ui_than_the_pinned_one(docs, bundled_url):
    def answer(route: Route) -> None:
        name = urlsplit(route.request.url).path.rpartition("/")[2]
        content = gzip.decompress((SWAGGER_UI_DIR / f"{name}.gz").read_bytes())
        route.fulfill(body=content + b"\n", content_type="text/css" if name.endswith("css") else "text/javascript")

    docs.page.route("**/docs/*", answer)
    docs.page.goto(f"{bundled_url}docs")

    docs.page.get_by_text("The API as an OpenAPI document").wait_for()
    assert sum("integrity" in error for error in docs.errors) == len(INTEGRITY)


def test_a_browser_with_an_admin_key_as_password_draws_the_documentation(browser):
    with ServiceProcess({"EDGESAM_API_KEYS": json.dumps([DECODING_KEY])}) as service:
        context = browser.new_context(http_credentials={"username": "any", "password": DECODING_KEY})
        docs = DocsPage(context.new_page())
        docs.page.goto(f"{service.url}/docs")

        docs.page.get_by_text("Cut out objects").wait_for(timeout=WAIT_MS)
        context.close()

    # The browser first asks without the key, and writes the 401 down as an error.
    assert [error for error in docs.errors if "401" not in error] == []
