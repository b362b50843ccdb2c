"""The error of every checkpoint file that cannot be used."""

from model_store.errors import ModelStoreError


class CheckpointError(ModelStoreError):
    """The file does not contain the expected weights; the message names the keys or the content that are wrong."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
