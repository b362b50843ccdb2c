"""Makes a model of a checkpoint and times it, with its steps shown to the user."""

from pathlib import Path
from typing import Any

import typer

from model_store import terminal
from model_store.export.from_checkpoint import make_artifact
from model_store.timings import TimingError, measure, store_timings


def make_model(source: Path | int, directory: Path, *, name: str, **rest: Any) -> None:
    """Make a model, and print where it is.

    Args:
        source: Checkpoint file, or a seed.
        directory: Folder of the model.
        name: Name of the model.
        rest: Further arguments of `make_artifact`.
    """
    with terminal.steps() as on_progress:
        manifest = make_artifact(source, directory, name=name, on_progress=on_progress, **rest)
    typer.echo(f"{name} is at {directory}, fingerprint {manifest.fingerprint}")


def time_made_model(directory: Path) -> None:
    """Time one encode and one click, and keep the times beside the model; a failure is only a note.

    Args:
        directory: Folder of a model in the served layout.
    """
    try:
        with terminal.steps() as on_progress:
            on_progress("timing one encode and one click")
            timings = measure(directory)
        store_timings(directory, timings)
    except (TimingError, OSError) as error:  # the model is complete without its times
        terminal.print_note(f"{directory.name} was not timed: {error}")
        return
    typer.echo(f"on this machine: {timings.encode_s:.2f} s for an image, {timings.click_s * 1e3:.0f} ms for a click")
