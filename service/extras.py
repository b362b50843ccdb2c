"""The command that installs a missing extra, for error messages."""

import sys
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "edgesam-service"
_ROOT: Final = Path(__file__).parent.parent
# The packages of this repository; they are never what is missing.
_OURS: Final = frozenset({"service", "model_store", "edgesam_cli"})


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of pyproject.toml into the environment of this process.

    In a clone the command names the clone. Elsewhere it names the distribution: pip finds it installed, and fetches the
    packages of the extra alone. Paths are relative to the current directory where they are below it.

    Args:
        extra: Name of the extra, such as `cpu`.
    """
    python = _relative(Path(sys.executable))
    if (_ROOT / "pyproject.toml").is_file():
        return f"{python} -m pip install -e '{_relative(_ROOT)}[{extra}]'"
    return f"{python} -m pip install '{DISTRIBUTION}[{extra}]'"


def missing_package(error: ModuleNotFoundError, extra: str) -> str:
    """Return the message about a package that cannot be imported, with the command that installs it.

    Args:
        error: Error of the import.
        extra: Extra that a command needs. ONNX Runtime and torch have extras of their own.

    Raises:
        ModuleNotFoundError: One of our own modules is missing, which is a mistake of the program.
    """
    if error.name is None or error.name.partition(".")[0] in _OURS:
        raise error
    own_extra = {"onnxruntime": "cpu", "torch": "model", "onnx": "store"}.get(error.name.partition(".")[0], extra)
    return f"this needs {error.name}; run: {install_command(own_extra)}"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
