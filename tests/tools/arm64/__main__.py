"""Tests of the native library on an emulated arm64 processor, and its counted instructions. See the Makefile.

Usage:
    python tests/tools/arm64 test WHEEL [PYTEST-ARGUMENT…]
    python tests/tools/arm64 count --compiler "COMMAND OF A CROSS COMPILER"
    python tests/tools/arm64 cpuinfo
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from count import count_instructions
from root import PROCESSOR, ROOT, SetupError, cpuinfo, environment, install_library, make_root, python

# The native library: decoder, masks and what they are made from. Emulation takes about 20 times as long.
TESTS = (
    "tests/native",
    "tests/sam/test_masks.py",
    "tests/sam/test_mask_pieces.py",
    "tests/sam/test_enlarged_pieces.py",
)


def run_tests(wheel: Path, arguments: list[str]) -> int:
    """Run the tests with the library of a wheel. Returns pytest's status."""
    root = make_root()
    library = install_library(wheel)
    command = [python(root), "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or TESTS)]
    print(f"{library.name} of {wheel.name} on an emulated {PROCESSOR}: {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment(root), check=False).returncode


def main(arguments: list[str]) -> int:
    """Run one of the commands. Returns the exit status."""
    try:
        match arguments:
            case ["test", wheel, *rest]:
                return run_tests(Path(wheel), rest)
            case ["count", "--compiler", compiler]:
                return count_instructions(compiler.split())
            case ["cpuinfo"]:
                print(cpuinfo(), end="")
                return 0
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
