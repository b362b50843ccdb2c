"""The model store's commands, called in this process."""

from typer.testing import CliRunner

from model_store.cli import app


def invoke(*arguments):
    """Run a command; its result has the exit code and what was printed."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
