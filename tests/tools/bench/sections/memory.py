"""Memory of a cached image."""

from pathlib import Path

from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

MIB = 2**20
_WARM_IMAGES = 2


def measure(bench: Workbench) -> Section:
    """Measure the growth of the process while it caches images in memory."""
    connection = bench.connect(bench.service.url)
    pid = bench.service.process.pid
    for _ in range(_WARM_IMAGES):
        bench.embed(connection, bench.effort.small)
    before = _resident_bytes(pid)
    for _ in range(bench.effort.kept_images):
        bench.embed(connection, bench.effort.small)
    growth = (_resident_bytes(pid) - before) / bench.effort.kept_images / MIB
    state = bench.clicks(bench.cpus).state
    rows = [
        ["prepared state, as the memory tier counts it", state.nbytes / MIB],
        ["of it the embedding", state.embedding.nbytes / MIB],
        [f"growth of the process per image, over {bench.effort.kept_images} images", growth],
        ["the process before them", before / MIB],
    ]
    return Section(
        "Memory",
        """
            Resident memory of the service process, from `/proc`, after two images that fill its buffers.
            """,
        [Table("", ["", "MiB"], rows)],
        {"memory.state_mib": state.nbytes / MIB, "memory.growth_mib": growth, "memory.base_mib": before / MIB},
    )


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024
