"""The command that installs a missing extra, for error messages."""

import sys
from pathlib import Path

_CHECKOUT = Path(__file__).parent.parent


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of pyproject.toml into the environment of this process.

    The package is on no registry, so the command names the checkout. Paths are relative to the current directory where
    they are below it.

    Args:
        extra: Name of the extra, such as `cpu`.
    """
    python, checkout = _relative(Path(sys.executable)), _relative(_CHECKOUT)
    return f"{python} -m pip install -e '{checkout}[{extra}]'"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
