"""One run of the benchmark: the sections in order, with one workbench."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from tools.bench.effort import FULL, QUICK, TINY, Effort
from tools.bench.machine import Machine
from tools.bench.report import Document, document
from tools.bench.section import Section
from tools.bench.sections import (
    browser,
    click,
    embed,
    everything,
    everything_clicks,
    graphs,
    load,
    many,
    memory,
    openvino,
    osam,
    peer,
    replicas,
    sam2,
    start,
    tiers,
    training,
    uploads,
)
from tools.bench.workbench import Workbench

# `memory` comes before sections that fill the memory tier. Sections that start more processes come last.
SECTIONS: dict[str, Callable[[Workbench], Section]] = {
    "graphs": graphs.measure,
    "sam2": sam2.measure,
    "openvino": openvino.measure,
    "training": training.measure,
    "memory": memory.measure,
    "click": click.measure,
    "many": many.measure,
    "embed": embed.measure,
    "load": load.measure,
    "uploads": uploads.measure,
    "everything": everything.measure,
    "everything_clicks": everything_clicks.measure,
    "peer": peer.measure,
    "osam": osam.measure,
    "replicas": replicas.measure,
    "tiers": tiers.measure,
    "start": start.measure,
    "browser": browser.measure,
}
EFFORTS: dict[str, Effort] = {"full": FULL, "quick": QUICK, "tiny": TINY}


def run(
    effort: str,
    names: Sequence[str],
    *,
    provider: str = "cpu",
    precision: str = "float32",
    progress: Callable[[str], None] = lambda _: None,
) -> Document:
    """Measure some sections. All started processes have ended when this returns.

    Args:
        effort: Name in `EFFORTS`.
        names: Names in `SECTIONS`.
        provider: EDGESAM_PROVIDER of our service.
        precision: EDGESAM_PRECISION of our service.
        progress: Function that gets a short text at each step.
    """
    machine, started = Machine.here(), monotonic()
    sections = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Workbench(EFFORTS[effort], Path(folder), provider=provider, precision=precision) as bench,
    ):
        progress("making the models")
        _ = bench.models
        for name in (name for name in SECTIONS if name in names):
            progress(f"{name}, after {monotonic() - started:.0f} s")
            sections[name] = SECTIONS[name](bench)
        model = bench.described()
    return document(machine, sections, effort=effort, model=model, seconds=monotonic() - started)
