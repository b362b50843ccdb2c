"""Threads of decoding in the browser, in a real one: with isolation, without it, and where a thread cannot start."""

import pytest
from support.browser import DECODING_KEY, decode_in_browser
from support.header_proxy import HeaderProxy

MIDDLE = (0.5, 0.45)
NOTE = "#decode-in-browser-note"


def test_an_isolated_page_decodes_on_two_cores_and_says_so(visit, decoding_url, small):
    playground = visit(url=decoding_url, key=DECODING_KEY, cores=2)
    playground.open_file(small)

    decode_in_browser(playground)
    playground.click(*MIDDLE)

    assert "2 processor cores" in playground.page.text_content(NOTE)
    assert playground.page.evaluate("crossOriginIsolated")


def without_isolation(path):
    """A proxy that knows neither header."""
    return {"cross-origin-opener-policy", "cross-origin-embedder-policy"}


def without_that_of_the_threads(path):
    """A proxy that serves files below /web/runtime/ from a cache of its own."""
    return {"cross-origin-embedder-policy"} if path.startswith("/web/runtime/") else set()


@pytest.mark.parametrize(("removed", "is_isolated"), [(without_isolation, False), (without_that_of_the_threads, True)])
def test_behind_a_proxy_that_removes_headers_one_core_decodes(visit, decoding_url, small, removed, is_isolated):
    with HeaderProxy(decoding_url, removed) as proxy:
        playground = visit(url=proxy.url, key=DECODING_KEY, cores=2)
        playground.open_file(small)

        decode_in_browser(playground)
        asked = len(playground.sent("POST", "/segment"))
        playground.click(*MIDDLE)
        playground.page.click("#compare")
        playground.page.locator("#comparison[data-iou]").wait_for()

    assert playground.page.evaluate("crossOriginIsolated") == is_isolated
    assert "one processor core" in playground.page.text_content(NOTE)
    assert len(playground.sent("POST", "/segment")) == asked + 1  # of the comparison
    assert float(playground.page.get_attribute("#comparison", "data-iou")) >= 0.99
    if is_isolated:  # the browser itself writes down what it refuses
        assert all("ERR_BLOCKED_BY_RESPONSE" in error or "Uncaught" in error for error in playground.errors)
        playground.errors.clear()


def test_the_worker_may_start_the_threads_of_the_runtime_and_nothing_else(visit, decoding_url, small):
    playground = visit(url=decoding_url, key=DECODING_KEY, cores=2)
    playground.open_file(small)
    decode_in_browser(playground)
    (worker,) = (one for one in playground.page.workers if one.url.endswith("decoder_worker.js"))

    # The runtime's own `Worker` takes no other address than the runtime's. The browser's takes no string.
    refused = worker.evaluate(
        """() => {
            const original = Object.getPrototypeOf(Worker);
            const address = new URL("../runtime/ort.wasm.bundle.min.mjs", self.location).href;
            const attempts = [
                () => new original(address, { type: "module" }),
                () => new original("../edgesam.js", { type: "module" }),
                () => new original("blob:x"),
                () => trustedTypes.createPolicy("edgesam-threads", { createScriptURL: (url) => url }),
                () => trustedTypes.createPolicy("default", { createScriptURL: (url) => url }),
            ];
            return attempts.map((attempt) => {
                try { attempt(); return "allowed"; } catch (error) { return error.name; }
            });
        }"""
    )

    assert refused == ["TypeError"] * 5
