"""Environments of the real tools: each has its own, because it needs other versions of packages than the service."""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


def tool_python(name: str, requirement: str) -> Path:
    """Return the Python of a tool's environment. The tool is installed with the first call.

    Args:
        name: Name of the folder below build/real-clients.
        requirement: Requirement of the tool with its version, as for pip.
    """
    folder = ROOT / "build" / "real-clients" / name
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirement:
        print(f"installing {requirement}; this takes some minutes", flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
        installed.write_text(requirement)
    return python


def run_inside(python: Path, script: str, *arguments: str, timeout_s: float = 300.0) -> Any:
    """Run a script of this folder with the Python of a tool, and return the JSON of its last line.

    Args:
        python: Python of the tool's environment.
        script: File name of the script.
        *arguments: Arguments of the script.
        timeout_s: Longest duration, in seconds.

    Raises:
        RuntimeError: The script failed.
    """
    # -P: the folder of the script has files with the names of the tools.
    command = [python, "-P", HERE / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{script} {' '.join(arguments)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def check(title: str, *, holds: bool, seen: object) -> None:
    """Print what was checked and seen, and end the script if it does not hold."""
    print(f"{'ok    ' if holds else 'FAILED'}  {title}: {seen}", flush=True)
    if not holds:
        sys.exit(1)
