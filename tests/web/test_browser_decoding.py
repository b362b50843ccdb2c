"""Decoding in the browser, in a real one: the same masks as the service's, without asking it."""

import base64
import io
import json
import re

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from support.browser import DECODING_KEY, PLAIN_HOST, decode_in_browser, rules_broken
from support.noise_images import noise_file
from support.service_client import open_client
from support.service_process import ServiceProcess

from service.sam.frame import Frame
from service.sam.transforms import TAPS, upsampling
from service.settings import BUNDLED_MODEL

SIZE = (240, 320)
MIDDLE = (0.5, 0.45)
POINT, NEGATIVE = {"x": 150.5, "y": 110, "label": 1}, {"x": 60, "y": 200.2, "label": 0}
BOX = [70, 50, 260, 190]
PROMPTS = [
    {"prompt": {"points": [POINT]}, "multimask": "auto"},
    {"prompt": {"points": [POINT]}, "multimask": 3},
    {"prompt": {"points": [POINT]}, "multimask": 4},
    {"prompt": {"points": [POINT, NEGATIVE]}, "multimask": 1},
    {"prompt": {"box": BOX}, "multimask": "auto"},
    {"prompt": {"box": [-20, 100, 90, 300], "points": [NEGATIVE]}, "multimask": 1},
    {"prompt": {"points": [POINT, NEGATIVE]}, "multimask": 1, "refines": True},
    {"prompt": {}, "multimask": 1, "refines": True},
]
# Both start from the same float16 tokens and refine the same float16 logits. What differs is the order of float32 sums,
# some 1e-5 of the largest logit; a pixel may flip where its logit is as near to 0 as that.
TOLERANCE = 1e-4

BOTH = """async ([url, key, bytes, cases]) => {
    const { Client } = await import(`${url}web/edgesam.js`);
    const { BrowserDecoder } = await import(`${url}web/browser_decoding/browser_decoder.js`);
    const client = new Client(url, { apiKey: key });
    const { image_hash } = await client.embed(new Blob([new Uint8Array(bytes)], { type: "image/png" }));
    const [model] = await client.models();
    const browser = new BrowserDecoder(client, model);
    let threads = 0;
    browser.onLoaded = (count) => { threads = count; };
    let last = "";
    const answers = [];
    for (const { prompt, multimask, refines } of cases) {
        const prompts = [{ ...prompt, ...(refines && { mask_logits: last }) }];
        const ours = await browser.segment(image_hash, prompts, { multimask });
        const theirs = await client.segment(image_hash, prompts, { multimask });
        const logits = await client.segment(image_hash, prompts, { multimask, format: "logits" });
        last = ours.results[0].masks[0].logits;
        answers.push([ours, theirs, logits].map(({ results }) => results[0].masks));
    }
    browser.close();
    return [threads, crossOriginIsolated, answers];
}"""


EMBEDDING_OF_EDGETAM = """async ([url, imageId]) => {
    const { Client } = await import(`${url}web/edgesam.js`);
    return new Client(url).embedding(imageId, { model: "edgetam" }).catch(({ code, message }) => [code, message]);
}"""


def image(data):
    """A downloaded PNG as (H, W) bool."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 127


def logits_of(text):
    """(256, 256) float64."""
    return np.frombuffer(base64.b64decode(text), "<f2").reshape(256, 256).astype(np.float64)


def enlarged(logits, size):
    """The logit of each pixel of the image, (H, W)."""
    sides = []
    for axis in upsampling(Frame(size)):
        length = len(axis.first)
        length = len(axis.first)
        operator = np.zeros((length, 256))
        for tap in range(TAPS):
            operator[np.arange(length), axis.first + tap] += axis.weights[:, tap]
        sides.append(operator)
    return sides[0] @ logits @ sides[1].T


@pytest.fixture
def decoding(visit, decoding_url):
    """The page where the switch is offered."""
    return visit(url=decoding_url, key=DECODING_KEY)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 4)])
def test_masks_scores_and_logits_are_the_services(visit, decoding_url, next_seed, cores, threads):
    data = noise_file(SIZE, next_seed)
    decoding = visit(url=decoding_url, key=DECODING_KEY, cores=cores)

    used, is_isolated, answers = decoding.page.evaluate(BOTH, [decoding_url, DECODING_KEY, list(data), PROMPTS])

    assert (used, is_isolated) == (threads, True)
    assert [len(ours) for ours, _, _ in answers] == [4, 3, 4, 1, 1, 1, 1, 1]
    seen = 0
    for ours, theirs, theirs_as_logits in answers:
        for mask, expected, numbers in zip(ours, theirs, theirs_as_logits, strict=True):
            logits = logits_of(numbers["logits"])
            scale = np.abs(logits).max()
            assert np.abs(logits_of(mask["logits"]) - logits).max() <= 2e-3 * scale  # float16 has 11 digits
            for name in ("score", "stability", "predicted_iou"):
                assert mask[name] == pytest.approx(expected[name], abs=1e-3)
            found, wanted = (coco.decode(one["rle"]).astype(bool) for one in (mask, expected))
            # Some outputs see nothing in noise; both sides must agree on that, too.
            assert np.count_nonzero(found & wanted) >= 0.99 * np.count_nonzero(found | wanted)
            seen += np.count_nonzero(wanted)
            flipped = np.abs(enlarged(logits, SIZE))[found != wanted]
            assert flipped.max(initial=0.0) <= (TOLERANCE + 2e-3) * scale  # these logits, too, are rounded
            assert mask["area"] == np.count_nonzero(found)
            rows, columns = np.nonzero(found)
            if len(rows):
                assert mask["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen > 0


def test_clicks_are_no_requests_and_everything_works_as_before(decoding, small, axe):
    decoding.open_file(small)
    decoding.click(0.4, 0.3)
    decode_in_browser(decoding)
    assert rules_broken(decoding, axe) == []
    asked = len(decoding.sent("POST", "/segment"))
    decoding.click(0.55, 0.4)  # goes on from a mask that this browser has never seen
    decoding.page.click("#clear")
    decoding.click(*MIDDLE)
    decoding.page.keyboard.press("Tab")
    second = image(decoding.save("#save-mask"))
    decoding.page.focus("#upper")
    decoding.click(0.4, 0.4, modifiers=["Shift"])
    refined = image(decoding.save("#save-mask"))
    decoding.page.keyboard.press("n")
    decoding.drag((0.35, 0.3), (0.6, 0.7))
    decoding.wait_for_clicks(5)
    dataset = json.loads(decoding.save("#save-coco"))
    together = image(decoding.save("#save-mask"))
    path = decoding.save("#save-svg").decode()
    decoding.save("#save-cut-out")

    assert len(decoding.sent("POST", "/segment")) == asked
    assert len(decoding.sent("GET", "/embed/")) == 1
    assert not np.array_equal(second, refined)
    annotations = COCO()
    annotations.dataset = dataset
    annotations.createIndex()
    masks = [annotations.annToMask(annotation).astype(bool) for annotation in dataset["annotations"]]
    assert np.array_equal(masks[0], refined)
    assert np.array_equal(masks[0] | masks[1], together)
    assert [annotation["area"] for annotation in dataset["annotations"]] == [mask.sum() for mask in masks]
    assert path.count("<path") == 2
    bar = decoding.page.get_attribute("#latency [data-part=bar]", "aria-label")
    assert re.match(r"model [\d.]+ ms, mask", bar)
    assert decoding.page.text_content("#latency [data-part=place]") == "browser"

    decoding.page.click("#compare")
    decoding.page.locator("#comparison", has_text="share").wait_for()
    assert float(decoding.page.get_attribute("#comparison", "data-iou")) >= 0.99
    assert len(decoding.sent("POST", "/segment")) == asked + 1
    other = decoding.page.text_content("#latency [data-part=other]")
    assert re.match(r"service \d+ ms \(half under \d+, 95 % under \d+\)", other)

    decoding.page.uncheck("#decode-in-browser")
    decoding.click(0.45, 0.5)
    (prompt,) = decoding.segment_bodies()[-1]["prompts"]
    assert len(logits_of(prompt["mask_logits"])) == 256  # the service goes on from a mask it has never seen
    assert decoding.page.locator("#compare").is_hidden()


def test_the_choice_is_kept_over_plain_http_and_an_evicted_image_is_embedded_again(visit, decoding_url, photo):
    playground = visit(url=decoding_url.replace("127.0.0.1", PLAIN_HOST), key=DECODING_KEY)
    playground.open_file(photo)
    image_hash = playground.sent("HEAD", "/embed/")[0].url[-64:]
    with open_client(decoding_url, headers={"X-API-Key": DECODING_KEY}) as client:
        assert client.delete(f"/embed/{image_hash}").status_code == 204
        playground.errors.clear()

        playground.page.focus("#decode-in-browser")
        playground.page.keyboard.press("Space")
        playground.page.locator("#latency [data-part=prepared]:not(:empty)").wait_for(state="attached")
        assert len(playground.sent("POST", "/embed")) == 2
        assert all("404" in error for error in playground.errors), playground.errors  # written by the browser itself
        playground.errors.clear()
        assert client.delete(f"/embed/{image_hash}").status_code == 204

    playground.click(*MIDDLE)  # the service is not asked, and may forget what it likes
    playground.visit()

    playground.page.locator("#decode-in-browser:checked").wait_for(state="attached")
    assert playground.sent("POST", "/segment") == []


def test_where_the_runtime_cannot_be_had_the_service_goes_on(decoding, small):
    decoding.page.context.route("**/web/runtime/*.wasm", lambda route: route.abort())
    decoding.open_file(small)

    decoding.page.check("#decode-in-browser")
    decoding.page.locator("#decode-in-browser-note", has_text="This browser cannot").wait_for()
    decoding.click(*MIDDLE)

    assert not decoding.page.is_checked("#decode-in-browser")
    assert len(decoding.segment_bodies()) >= 1
    assert all("wasm" in error or "ERR_FAILED" in error for error in decoding.errors), decoding.errors
    decoding.errors.clear()


def test_another_model_decodes_with_its_own_files(visit, browser_runtime, artifact, small):
    settings = {
        "EDGESAM_MODELS": f"{BUNDLED_MODEL},{artifact}",
        "EDGESAM_BROWSER_RUNTIME_DIR": str(browser_runtime),
    }
    with ServiceProcess(settings) as service:
        (_, other) = httpx.get(f"{service.url}/models", trust_env=False).json()["models"]
        playground = visit(url=f"{service.url}/")
        playground.open_file(small)
        decode_in_browser(playground)
        playground.click(0.4, 0.3)
        playground.page.locator(f"#panel-model input[value='{other['name']}']").check()
        playground.wait_for_clicks(2)  # the same prompt once more
        asked = playground.segment_bodies()
        fetched = {request.url.rsplit("/", 1)[1] for request in playground.sent("GET", "/models/files/")}
        playground.page.click("#compare")
        playground.page.locator("#comparison[data-iou]").wait_for()

    assert not any("points" in body["prompts"][0] and body.get("model") == other["name"] for body in asked)
    assert fetched >= {other["files"][part]["sha256"] for part in ("prepare", "decoder")}
    assert playground.segment_bodies()[-1]["model"] == other["name"]
    assert float(playground.page.get_attribute("#comparison", "data-iou")) > 0.99


def test_a_model_that_browsers_do_not_decode_is_answered_by_the_service(
    visit, browser_runtime, edgetam_artifact, small
):
    """Switching there hides the choice, and switching back restores it. The image stays in the cache of both models."""
    settings = {
        "EDGESAM_MODELS": f"{BUNDLED_MODEL},{edgetam_artifact}",
        "EDGESAM_BROWSER_RUNTIME_DIR": str(browser_runtime),
    }
    with ServiceProcess(settings) as service:
        playground = visit(url=f"{service.url}/")
        playground.open_file(small)
        decode_in_browser(playground)
        playground.click(0.4, 0.3)
        before = len(playground.segment_bodies())

        playground.page.locator("#panel-model input[value='edgetam']").check()
        playground.wait_for_clicks(2)  # the same prompt once more
        is_hidden = [playground.page.locator(place).is_hidden() for place in ("#decode-in-browser", "#decoding")]
        playground.click(0.55, 0.4)
        asked = playground.segment_bodies()[before:]
        places = [playground.page.text_content("#latency [data-part=place]")]
        embedded = len(playground.sent("POST", "/embed"))

        playground.page.locator("#panel-model input[value='edgesam-lite']").check()
        playground.wait_for_clicks(4)  # the prompt with both points once more
        places.append(playground.page.text_content("#latency [data-part=place]"))
        is_checked = playground.page.is_checked("#decode-in-browser")
        playground.click(0.3, 0.6)
        image_id = playground.sent("HEAD", "/embed/")[0].url.rsplit("/", 1)[1].partition("?")[0]
        downloads = playground.sent("GET", "/embed/")
        code, detail = playground.page.evaluate(EMBEDDING_OF_EDGETAM, [playground.url, image_id])

    assert all("422" in error for error in playground.errors), playground.errors  # Chromium writes down the refusal
    playground.errors.clear()
    assert code == "invalid-request"
    assert "edgetam" in detail
    assert is_hidden == [True, True]
    assert {body["model"] for body in asked} == {"edgetam"}
    assert not any("mask_logits" in body["prompts"][0] for body in asked[:1])  # that of the other model is not refined
    assert places == ["service", "browser"]
    assert is_checked
    assert {body["model"] for body in playground.segment_bodies()[before:] if "points" in body["prompts"][0]} == {
        "edgetam"
    }
    assert len(playground.sent("POST", "/embed")) == embedded
    assert all("model=edgetam" not in request.url for request in downloads)


def test_without_the_runtime_there_is_no_switch(playground, small):
    playground.open_file(small)

    assert playground.page.text_content("#model") == "edgesam-lite"
    assert playground.page.locator("#decoding").is_hidden()
