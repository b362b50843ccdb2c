"""`make capacity` measures costs, tests the model on four replicas and writes the tables of operations/capacity.md.

`python tests/tools/capacity --model FOLDER` does so with another artifact, and prints the tables.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # replaces this folder, whose modules belong to the package `capacity`

from support.service_client import Scrape, open_client  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402
from tools.bench.machine import Machine  # noqa: E402 - the path comes first
from tools.capacity.experiment import Setup, run  # noqa: E402
from tools.capacity.report import costs_of, tables_of, write  # noqa: E402
from tools.capacity.sizes import image_sizes  # noqa: E402

from service.settings import BUNDLED_MODEL  # noqa: E402


def main() -> None:
    """Run the experiment, print the results and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "docs" / "operations" / "capacity.md"
    parser.add_argument("--document", type=Path, default=default, help="document whose tables are replaced")
    parser.add_argument("--model", type=Path, help="folder of another artifact; its tables are printed")
    asked = parser.parse_args()
    setup = Setup(model=BUNDLED_MODEL if asked.model is None else asked.model.absolute())
    where = f"Written by `make capacity`: {Machine.here().sentence()}."
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(setup.model)}) as service, open_client(service.url) as client:
        process_mib = Scrape(client).value("process_resident_memory_bytes") / 2**20
    times, outcomes = run(setup)
    for outcome in outcomes:
        print(outcome)
    costs = costs_of(times, image_sizes(setup.model), process_mib=process_mib)
    tables = tables_of(where=where, setup=setup, times=times, outcomes=outcomes, costs=costs)
    if asked.model is None:
        write(asked.document, tables)
    else:
        print(tables)


if __name__ == "__main__":
    main()
