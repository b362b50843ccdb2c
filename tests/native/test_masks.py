"""The C code for masks under sanitizers. Tests of the same names in tests/sam check its results."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "service" / "native" / "csrc"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("name", ["masks", "pieces", "run_pieces"])
def test_sanitizers_find_nothing_in_masks_of_any_size(tmp_path, name):
    if sys.platform != "linux":
        pytest.skip("the C code is built on Linux alone")
    program = tmp_path / "sanitized"
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         str(Path(__file__).with_name(f"sanitized_{name}.c")), str(NATIVE / f"{name}.c"), f"-I{NATIVE}", "-lm",
         "-o", str(program)],
        check=True, timeout=300,
    )  # fmt: skip

    ended = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)

    assert ended.returncode == 0, ended.stderr
