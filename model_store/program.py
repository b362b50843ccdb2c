"""The name under which the commands of the model store were called, for texts that name a command."""

import shutil
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = "edgesam"
MODULE_COMMAND: Final = "python -m model_store"


def store_command() -> str:
    """Return the words before a command's name, for instance `edgesam models`."""
    return MODULE_COMMAND if program() is None else f"{program()} models"


def program() -> str | None:
    """Return the command `edgesam` as a shell here finds it; None where the process was started otherwise."""
    called = Path(sys.argv[0])
    if called.name != PROGRAM:
        return None
    if shutil.which(PROGRAM) == str(called):
        return PROGRAM
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)
