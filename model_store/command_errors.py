"""Errors that end a command with one line and an exit code, without a traceback."""

from typing import Final

from model_store.errors import ModelStoreError
from service.manifest import ManifestError

INTERRUPTED: Final = 130  # as shells report it: 128 and the number of SIGINT
EXPECTED: Final = (ModelStoreError, ManifestError, OSError, KeyboardInterrupt)
"""Errors that a user may meet. All others are mistakes of the program, and show their traceback."""


def line_and_exit_code(error: BaseException) -> tuple[str, int]:
    """Return the line that an expected error prints, and the exit code.

    The code is 1 where the command failed, 2 where nothing was started, and 130 after an interrupt.
    """
    if isinstance(error, ModelStoreError):
        message, exit_code = str(error), error.exit_code
    elif isinstance(error, OSError):
        message, exit_code = f"{error.filename or 'the system'}: {error.strerror or error}", 1
    elif isinstance(error, KeyboardInterrupt):
        message, exit_code = "interrupted; repeat the command to resume a download where it stopped", INTERRUPTED
    else:
        message, exit_code = str(error), 1
    return f"error: {printable(message)}", exit_code


def printable(text: str) -> str:
    """Return a text in one line without control characters, which a hostile file could send to the terminal."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
