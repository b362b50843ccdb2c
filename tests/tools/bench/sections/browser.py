"""Clicks that a browser decodes itself: Chromium with onnxruntime-web, on one thread and on one per core."""

import shutil
from typing import Any

from support.browser import BROWSERS, open_browser
from support.service_process import ROOT
from tools.bench.disc import disc_centre
from tools.bench.samples import COLUMNS, Samples
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

RUNTIME = ROOT / "build" / "browser-runtime"
TITLE = "Decoding in the browser"
MAX_THREADS = 4  # as in browser_decoder.js

# The page takes one thread for each core that it sees. Clicks alternate, so that load affects both alike.
_CLICKS = """async ([imageHash, point, cores, rounds]) => {
    const { Client } = await import("./web/edgesam.js");
    const { BrowserDecoder } = await import("./web/browser_decoding/browser_decoder.js");
    const client = new Client(location.href);
    const [model] = await client.models();
    const measured = [];
    for (const value of cores) {
        Object.defineProperty(navigator, "hardwareConcurrency", { value, configurable: true });
        const decoder = new BrowserDecoder(client, model);
        const own = { decoder, threads: 0, total: [], decode: [], postprocess: [] };
        decoder.onLoaded = (threads) => { own.threads = threads; };
        await decoder.open(imageHash);
        measured.push(own);
    }
    for (let round = -3; round < rounds; round++) {
        for (const { decoder, total, decode, postprocess } of measured) {
            const prompt = { points: [{ ...point, label: 1 }] };
            const { timing } = await decoder.segment(imageHash, [prompt]);
            if (round < 0) continue;
            total.push(timing.roundTripMs);
            decode.push(timing.stages.decode);
            postprocess.push(timing.stages.postprocess);
        }
    }
    return measured.map(({ decoder, ...own }) => own);
}"""


def measure(bench: Workbench) -> Section:
    """Measure one point in Chromium. Without Chromium or onnxruntime-web nothing is measured."""
    if not RUNTIME.exists() or not any(map(shutil.which, BROWSERS)):
        return Section(TITLE, "Not measured: it needs Chromium and `make browser-runtime`.")
    service = bench.start_service(EDGESAM_BROWSER_RUNTIME_DIR=str(RUNTIME))
    image_hash = bench.embed(bench.connect(service.url), bench.effort.medium)
    x, y = disc_centre(bench.effort.medium)
    cores = sorted({1, min(bench.cpus, MAX_THREADS)})
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(f"{service.url}/")
        point = {"x": float(x), "y": float(y)}
        measured = page.evaluate(_CLICKS, [image_hash, point, cores, bench.effort.rounds])
        version = browser.version
    rows: list[list[Any]] = [
        [name, own["threads"], *Samples(ms=own[name]).cells()]
        for own in measured
        for name in ("total", "decode", "postprocess")
    ]
    values = {"browser.click_one_ms": Samples(ms=measured[0]["total"]).p50}
    if len(measured) > 1:
        values["browser.click_all_ms"] = Samples(ms=measured[-1]["total"]).p50
    return Section(
        TITLE,
        f"""
            One positive point, in Chromium {version} with onnxruntime-web. The page is cross-origin isolated and takes
            one thread for each core. Without isolation it takes one thread. `postprocess` is in JavaScript: run
            lengths, the order of the masks, and logits in base64.
            """,
        [Table("", ["part of a click", "threads", *COLUMNS], rows)],
        values,
    )
