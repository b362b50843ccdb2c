"""Artifacts of SAM 2's family: seeded checkpoints that the command `import` converts where torch is absent."""

import subprocess
import sys
from pathlib import Path

from support.sam2_weights import write_sam2_checkpoint

ROOT = Path(__file__).parent.parent.parent
# A module that is None in `sys.modules` cannot be imported.
_COMMAND_LINE = "import sys; sys.modules['torch'] = None; from model_store.__main__ import main; sys.exit(main())"
_WAIT_S = 1200.0  # the largest checkpoint has 0.9 GB


def import_sam2_model(name: str, folder: Path) -> Path:
    """Write a checkpoint with the keys of the published one, import it by the command line, and return the artifact.

    Its weights are float32, as in the network that answers are compared with.

    Args:
        name: Name of the architecture, which becomes the name of the model.
        folder: Folder of checkpoint and artifact.
    """
    checkpoint = write_sam2_checkpoint(name, folder / "checkpoint.pt")
    options = ["--licence", "Apache-2.0", "--untrained", "--weights", "float32", "--no-timing"]
    command = ["import", str(checkpoint), "--name", name, "--models-dir", str(folder), *options]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND_LINE, *command],
        capture_output=True, text=True, check=False, timeout=_WAIT_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint.unlink()
    return folder / name
