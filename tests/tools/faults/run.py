"""Runs experiments one after the other."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from tools.bench.machine import Machine
from tools.faults import bad_input, client_faults, isolation, overload, process_faults, redis_faults, staying
from tools.faults.outcome import Outcome
from tools.faults.scene import FULL, QUICK, Scene

from service.settings import BUNDLED_MODEL

EXPERIMENTS = {
    "redis": redis_faults.measure,
    "process": process_faults.measure,
    "clients": client_faults.measure,
    "input": bad_input.measure,
    "isolation": isolation.measure,
    "overload": overload.measure,
    "staying": staying.measure,
}


def run(
    names: Sequence[str],
    *,
    quick: bool,
    model: Path = BUNDLED_MODEL,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Return the outcomes in the order of names.

    Args:
        names: Names in `EXPERIMENTS`.
        quick: Whether the short form is run.
        model: Folder of the served artifact.
        progress: Function that gets a short text after each experiment.
    """
    outcomes = []
    for name in names:
        started, where = perf_counter(), Machine.here().sentence()
        effort = QUICK if quick else FULL
        with tempfile.TemporaryDirectory(prefix="faults-") as folder, Scene(effort, Path(folder), model) as scene:
            outcomes.append(EXPERIMENTS[name](scene, quick=quick))
        outcomes[-1].where = where
        progress(f"{name}: {perf_counter() - started:.0f} s, {len(outcomes[-1].broken)} promises broken")
    return outcomes
