"""One run of the bench: the sections in order, over one workbench."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from tools.bench.effort import FULL, QUICK, TINY, Effort
from tools.bench.machine import Machine
from tools.bench.report import Document, document
from tools.bench.section import Section
from tools.bench.sections import (
    click,
    embed,
    graphs,
    load,
    many,
    memory,
    peer,
    replicas,
    start,
    tiers,
    training,
    uploads,
)
from tools.bench.workbench import Workbench

# Memory comes before what fills the memory tier, and what starts more processes comes last.
SECTIONS: dict[str, Callable[[Workbench], Section]] = {
    "graphs": graphs.measure,
    "training": training.measure,
    "memory": memory.measure,
    "click": click.measure,
    "many": many.measure,
    "embed": embed.measure,
    "load": load.measure,
    "uploads": uploads.measure,
    "peer": peer.measure,
    "replicas": replicas.measure,
    "tiers": tiers.measure,
    "start": start.measure,
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
    """Measure some sections; all that was started has ended when this returns.

    Args:
        effort: of `EFFORTS`.
        names: of `SECTIONS`.
        provider: what our service computes with.
        precision: what it computes in.
        progress: is told each step in a few words.
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
