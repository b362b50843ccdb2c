"""Executed instructions of the native library on arm64: by NEON, and by the same C code without vector instructions.

QEMU logs each block of instructions that it executes, and each block once with its instructions. A job's number is the
difference between a run with one call and one without. It does not depend on the machine, so it stands in for times.
"""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from root import PROCESSOR, ROOT, SetupError

SOURCES = ROOT / "service" / "native" / "csrc"
JOBS = {"decode": "one click, four masks", "prepare": "an image of float16 tokens", "masks": "a mask at 1600 × 1200"}
# The folder `plain` holds an arm_neon.h in plain C.
PLAIN = ["-mcpu=generic-neon", "-D__ARM_NEON=1", f"-I{Path(__file__).parent / 'plain'}"]
VARIANTS = {"NEON": ["-mcpu=generic"], "plain C": PLAIN}

_BLOCK = re.compile(rb"0x([0-9a-f]+):  [0-9a-f]{8}  ")


def count_instructions(compiler: list[str]) -> int:
    """Print a table of the instructions of each job. It takes some minutes.

    Args:
        compiler: Command of clang for aarch64 Linux, for instance `zig cc -target aarch64-linux-musl`.

    Returns:
        The exit status.

    Raises:
        SetupError: Compiling fails, or a program fails.
    """
    print(f"| job | {' | '.join(VARIANTS)} | ratio |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        programs = [_compile(compiler, options, Path(folder) / name) for name, options in VARIANTS.items()]
        for job, meaning in JOBS.items():
            counts = [_executed(program, job, 1) - _executed(program, job, 0) for program in programs]
            millions = " | ".join(f"{count / 1e6:.1f} million" for count in counts)
            print(f"| {job}: {meaning} | {millions} | {counts[1] / counts[0]:.1f} |", flush=True)
    return 0


def _compile(compiler: list[str], options: list[str], program: Path) -> Path:
    flags = ["-std=gnu11", "-O3", "-g0", "-static", f"-I{SOURCES}", *options]
    sources = [str(Path(__file__).with_name("count.c")), *map(str, sorted(SOURCES.glob("*.c")))]
    done = subprocess.run(
        [*compiler, *flags, *sources, "-lm", "-pthread", "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SetupError(done.stderr[-2000:])
    return program


def _executed(program: Path, job: str, times: int) -> int:
    """Return the number of instructions that a run executes."""
    command = ["qemu-aarch64-static", "-cpu", PROCESSOR, "-d", "in_asm,exec,nochain", str(program), job, str(times)]
    sizes: Counter[int] = Counter()
    runs: Counter[bytes] = Counter()
    block = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith(b"Trace"):
                runs[line[line.index(b"/") + 1 : line.index(b"/") + 17]] += 1
            elif line.startswith(b"IN:"):
                block = 0
            elif found := _BLOCK.match(line):
                block = block or int(found[1], 16)
                if int(found[1], 16) == block:
                    sizes[block] = 0
                sizes[block] += 1
    if running.returncode != 0:
        raise SetupError(f"{program.name} {job}: status {running.returncode}")
    return sum(sizes[int(address, 16)] * count for address, count in runs.items())
