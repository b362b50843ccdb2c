"""The command `skeletons`, for releases of this project."""

from typing import Annotated

import typer

from model_store import terminal
from model_store.architectures import ARCHITECTURES
from model_store.errors import UsageError
from model_store.extras import require_model_extra


def skeletons(
    architectures: Annotated[
        list[str] | None,
        typer.Argument(help="Names of architectures. Default: all, which takes several minutes and 7 GB of memory."),
    ] = None,
) -> None:
    """Trace the graphs of architectures and write them, without weights, into this package.

    A release needs this after a change of a network or of a graph. A test compares the files with the networks.

    [bold]Examples[/bold]

    edgesam models skeletons

    edgesam models skeletons mobile-sam repvit-sam
    """
    names = architectures or []
    if unknown := [name for name in names if name not in ARCHITECTURES]:
        raise UsageError(f"{unknown[0]!r} is not a known architecture; there are {', '.join(ARCHITECTURES)}")
    require_model_extra()
    from model_store.export.skeletons.making import write_skeletons  # noqa: PLC0415 - torch takes seconds to import

    with terminal.steps() as on_progress:
        paths = write_skeletons(names, on_progress)
    for path in paths:
        typer.echo(f"{path.name}: {path.stat().st_size} bytes")
