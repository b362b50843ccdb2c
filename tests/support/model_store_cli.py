"""The model store's command line, called in this process."""

from typer.testing import CliRunner

from model_store.cli import app


def invoke(*arguments):
    """Run a command and return its exit code and output."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
