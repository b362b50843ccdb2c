"""The page and a service that goes, comes back, asks for a key, lies behind a prefix, or has another origin."""

import json
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from support.app_server import AppServer
from support.redis_server import free_port
from support.service_process import ServiceProcess

KEY = "a-key-that-was-typed-in"
PREFIX = "/tools/masks"
NOT_FORWARDED = {"host", "connection", "content-length", "content-encoding", "transfer-encoding"}


def prefix_proxy(target):
    """An app that answers under PREFIX with what the service answers without it, as an ingress does."""

    async def forward(request: Request) -> Response:
        path = request.url.path.removeprefix(PREFIX)
        headers = {name: value for name, value in request.headers.items() if name not in NOT_FORWARDED}
        async with httpx.AsyncClient(base_url=target, timeout=60, trust_env=False) as client:
            answer = await client.request(request.method, path, content=await request.body(), headers=headers)
        kept = {name: value for name, value in answer.headers.items() if name not in NOT_FORWARDED}
        return Response(answer.content, answer.status_code, kept)

    return Starlette(routes=[Route(PREFIX + "{path:path}", forward, methods=["GET", "HEAD", "POST"])])


def test_a_service_that_went_and_came_back_is_used_again_without_a_click(visit, small, photo):
    settings = {"EDGESAM_PORT": str(free_port())}
    with ServiceProcess(settings) as service:
        playground = visit(url=f"{service.url}/")
        playground.open_file(small)
        playground.click(0.5, 0.45)
    notice = playground.page.locator("#notice", has_text="does not answer")
    playground.press(0.6, 0.5)
    notice.wait_for()
    before = playground.segment_bodies()[-1]
    with ServiceProcess(settings):
        playground.wait_for_clicks(2)  # the new process knows neither the image nor the mask that was refined
        notice.wait_for(state="hidden")
    answered = playground.segment_bodies()[-1]
    playground.page.set_input_files("#file", photo)
    notice.wait_for()
    with ServiceProcess(settings):
        playground.wait_ready()
        playground.click(0.5, 0.45)

    assert [point["label"] for point in answered["prompts"][0]["points"]] == [1, 1]
    assert answered["image_hash"] == before["image_hash"]
    # The browser itself writes down each request that had no answer, or a 404.
    assert all("Failed to load resource" in error for error in playground.errors)
    playground.errors.clear()


def test_the_browser_asks_for_the_key_at_the_documentation_and_nowhere_else(browser):
    def status_of(page, request):
        return page.evaluate(f"async () => (await fetch({request})).status")

    with ServiceProcess({"EDGESAM_API_KEYS": json.dumps([KEY])}) as service:
        # What a user would answer, given to whatever asks.
        context = browser.new_context(http_credentials={"username": "", "password": KEY})
        page = context.new_page()
        page.goto(f"{service.url}/")
        before = [status_of(page, '"models"'), status_of(page, '"segment", { method: "POST", body: "x" }')]
        documentation = page.goto(f"{service.url}/docs")
        document = status_of(page, '"openapi.json"')
        # From now on the browser sends it by itself; not so for what a page of somebody else has it send.
        own = status_of(page, '"embed", { method: "POST", body: "x" }')
        page.goto("about:blank")
        page.set_content(
            f'<form method="post" enctype="text/plain" action="{service.url}/embed"><input name="x"></form>'
        )
        with page.expect_navigation() as foreign:
            page.evaluate("document.forms[0].submit()")
        context.close()

    assert before == [401, 401]
    assert documentation.status == 200
    assert document == 200
    assert own == 415
    assert foreign.value.status == 401


def test_the_page_is_open_and_takes_the_key_for_its_requests(visit, photo):
    with ServiceProcess({"EDGESAM_API_KEYS": json.dumps([KEY])}) as service:
        playground = visit(url=f"{service.url}/")
        playground.page.locator("#notice", has_text="API key").wait_for()

        playground.page.click("#notice [data-part=action]")
        playground.page.fill("#key", "wrong-key-wrong-key")
        playground.page.keyboard.press("Enter")
        playground.page.locator("#notice", has_text="API key").wait_for()
        playground.page.click("#enter-key")
        playground.page.fill("#key", KEY)
        playground.page.keyboard.press("Enter")
        playground.open_file(photo)
        playground.click(0.5, 0.45)

    assert KEY not in playground.page.content()
    assert all("401" in error for error in playground.errors)
    playground.errors.clear()


@pytest.fixture
def prefixed_url(bundled_url) -> Iterator[str]:
    with AppServer(prefix_proxy(bundled_url)) as server:
        yield f"{server.url.replace('0.0.0.0', '127.0.0.1')}{PREFIX}/"


def test_behind_a_path_prefix_everything_works(visit, photo, prefixed_url):
    playground = visit(url=prefixed_url)

    playground.open_file(photo)
    playground.click(0.5, 0.45)

    sent = [httpx.URL(request.url) for request in playground.requests if not request.url.startswith("blob:")]
    assert {url.path.startswith(PREFIX + "/") for url in sent} == {True}


def test_a_page_of_another_origin_can_use_the_module(browser, photo):
    front_end = Starlette(routes=[Route("/", lambda _: Response("<title>A front end</title>", media_type="text/html"))])
    with AppServer(front_end) as server:
        origin = server.url.replace("0.0.0.0", "127.0.0.1")
        with ServiceProcess({"EDGESAM_CORS_ORIGINS": json.dumps([origin])}) as service:
            page = browser.new_page()
            page.goto(f"{origin}/")

            masks, stages, progress = page.evaluate(
                """async ([url, bytes]) => {
                    const { Client, drawRaster, rasterOfPng } = await import(`${url}web/edgesam.js`);
                    const progress = [];
                    const client = new Client(url);
                    const onProgress = ({ stage }) => progress.push(stage);
                    const { image_hash } = await client.embed(new Blob([new Uint8Array(bytes)]), { onProgress });
                    const prompts = [{ points: [{ x: 100, y: 100 }] }];
                    const { results, timing } = await client.segment(image_hash, prompts, { format: "png" });
                    const [{ png, area }] = results[0].masks;
                    const { data, ...size } = await rasterOfPng(png);
                    const canvas = drawRaster(document.createElement("canvas"), { data, ...size });
                    const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                    const count = drawn.filter((value, i) => i % 4 === 3 && value === 255).length;
                    return [[area, count], timing.stages, progress];
                }""",
                [f"{service.url}/", list(photo.read_bytes())],
            )
            page.close()

    assert masks[0] == masks[1] > 0
    assert stages["decode"] > 0  # the header may be read across origins
    assert {"hash", "look-up", "upload", "end"} <= set(progress)


def test_a_click_means_the_whole_object_where_the_model_can_tell(visit, photo, proposing_artifact):
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(proposing_artifact)}) as service:
        playground = visit(url=f"{service.url}/")
        playground.open_file(photo)
        playground.click(0.5, 0.45)
        plain = playground.segment_bodies()[-1]
        assert playground.page.locator("#decode-in-browser-row").is_hidden()

        playground.page.get_by_label("A click selects the whole object").check()
        playground.page.click("#clear")
        playground.click(0.5, 0.45)
        grown = playground.segment_bodies()[-1]
        answer = httpx.post(f"{service.url}/segment", json=grown, timeout=60, trust_env=False).json()
        playground.click(0.55, 0.5)
        refined = playground.segment_bodies()[-1]
        playground.visit()

        playground.page.locator("#whole-object:checked").wait_for(state="attached")

    assert "granularity" not in plain
    assert (grown["granularity"], grown["multimask"]) == ("auto", "auto")
    assert answer["results"][0]["granularity_box"] is not None
    assert "granularity" not in refined
    assert refined["prompts"][0]["mask_id"] == answer["results"][0]["masks"][0]["mask_id"]
