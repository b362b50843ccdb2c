"""`make capacity` measures costs, tests the model on four replicas and writes the tables of operations/capacity.md."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # replaces this folder, whose modules belong to the package `capacity`

from support.service_client import Scrape, open_client  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402
from tools.bench.machine import Machine  # noqa: E402 - the path comes first
from tools.capacity.experiment import Setup, run  # noqa: E402
from tools.capacity.report import costs_of, write  # noqa: E402


def main() -> None:
    """Run the experiment, print the results and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "docs" / "operations" / "capacity.md"
    parser.add_argument("--document", type=Path, default=default, help="document whose tables are replaced")
    document = parser.parse_args().document
    where = f"Written by `make capacity`: {Machine.here().sentence()}."
    with ServiceProcess({}) as service, open_client(service.url) as client:
        process_mib = Scrape(client).value("process_resident_memory_bytes") / 2**20
    setup = Setup()
    times, outcomes = run(setup)
    for outcome in outcomes:
        print(outcome)
    costs = costs_of(times, process_mib=process_mib)
    write(document, where=where, setup=setup, times=times, outcomes=outcomes, costs=costs)


if __name__ == "__main__":
    main()
