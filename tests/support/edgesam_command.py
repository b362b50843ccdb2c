"""The command `edgesam` in a process, with packages that cannot be imported where a test wants that."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "edgesam_cli")


def edgesam(
    *words: Any, without: tuple[str, ...] = (), cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as its script does, and return what it printed.

    Args:
        *words: Words after `edgesam`.
        without: Packages that cannot be imported.
        cwd: Folder with the packages of this repository, in which it runs.
        **environment: Variables beside those of this process, without its settings.
    """
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({list(without)!r})); sys.argv[0] = 'edgesam'\n"
        "from edgesam_cli.main import main; sys.exit(main())"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGESAM_")}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env={**kept, "no_proxy": "*", **environment},
    )  # fmt: skip
