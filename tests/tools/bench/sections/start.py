"""Time from the start of the process until it is ready."""

from time import perf_counter

from support.service_process import ServiceProcess
from tools.bench.connection import Connection, request
from tools.bench.samples import COLUMNS, Samples
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench


def measure(bench: Workbench) -> Section:
    """Start the service with default settings and the bundled model until /readyz answers, a few times."""
    samples = Samples()
    for _ in range(bench.effort.starts):
        started = perf_counter()
        with ServiceProcess(bench.service_settings) as service, Connection(service.url) as client:
            client.ask(request("GET", "/readyz"))
            samples.ms.append((perf_counter() - started) * 1000.0)
    return Section(
        "Cold start",
        """
            Time from the start of the process to the first 200 of `/readyz`, with the bundled model and default
            settings.
            """,
        [Table("", ["", *COLUMNS], [["process start to ready", *samples.cells()]])],
        {"start.ready_ms": samples.p50},
    )
