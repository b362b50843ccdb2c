"""Makes a model of a checkpoint and times it, with its steps shown to the user."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from model_store import terminal
from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY
from model_store.export.from_checkpoint import ExportOptions, make_artifact
from model_store.export.model_info import ModelInfo
from model_store.extras import require_model_extra, require_store_extra
from model_store.program import program
from model_store.timings import TimingError, measure, store_timings
from service.manifest import Manifest


def require_converter(options: ExportOptions) -> None:
    """Check that the packages which a conversion with these options needs are installed, before any work begins.

    Raises:
        ModelStoreError: A package is missing. The message names the command that installs it.
    """
    if _needs_torch(options):
        require_model_extra()
    else:
        require_store_extra()


def convert_model(
    checkpoint: Path, directory: Path, *, name: str, info: ModelInfo, options: ExportOptions, architecture: str | None
) -> None:
    """Make a model of a checkpoint, without torch where that is possible, and print where it is.

    Args:
        checkpoint: Checkpoint file.
        directory: Folder of the model.
        name: Name of the model.
        info: Facts about the weights, for the manifest.
        options: Number format and interpolation.
        architecture: Name of the architecture; None for the one that the file shows.
    """
    if _needs_torch(options):
        make_model(checkpoint, directory, name=name, info=info, options=options)
        return
    require_store_extra()
    from model_store.export.convert import convert_checkpoint  # noqa: PLC0415 - the other commands need no onnx

    with terminal.steps() as on_progress:
        manifest = convert_checkpoint(
            checkpoint,
            directory,
            name=name,
            info=info,
            architecture=architecture,
            weights=options.weights,
            on_progress=on_progress,
        )
    _print_made(manifest, directory)


@dataclass(frozen=True, slots=True)
class EncoderFile:
    """An ONNX encoder of somebody else.

    Args:
        path: ONNX file.
        image_size: Side of its input, in pixels; None for the one that the graph states.
        input_layout: What it takes: `frame` is normalised and padded, `image` has pixel values of 0 to 255.
    """

    path: Path
    image_size: Literal[512, 1024] | None
    input_layout: Literal["frame", "image"]


def combine_model(
    encoder: EncoderFile,
    decoder: Path,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    options: ExportOptions,
    architecture: str | None,
) -> None:
    """Make a model of an ONNX encoder and the decoder of a checkpoint, and print where it is.

    Args:
        encoder: ONNX encoder.
        decoder: Checkpoint whose decoder the model gets.
        directory: Folder of the model.
        name: Name of the model.
        info: Facts about the weights, for the manifest.
        options: Number format of the decoder's weights.
        architecture: Name of the decoder's architecture; None for the one that the file shows.
    """
    require_store_extra()
    from model_store.export.encoder_import import convert_encoder  # noqa: PLC0415 - the other commands need no onnx

    with terminal.steps() as on_progress:
        manifest = convert_encoder(
            encoder.path,
            decoder,
            directory,
            name=name,
            info=info,
            image_size=encoder.image_size,
            input_layout=encoder.input_layout,
            architecture_name=architecture,
            weights=options.weights,
            on_progress=on_progress,
            on_warning=lambda text: terminal.print_note(f"warning: {text}"),
        )
    _print_made(manifest, directory)


def make_model(source: Path | int, directory: Path, *, name: str, **rest: Any) -> None:
    """Make a model with torch, and print where it is.

    Args:
        source: Checkpoint file, or a seed.
        directory: Folder of the model.
        name: Name of the model.
        rest: Further arguments of `make_artifact`.
    """
    with terminal.steps() as on_progress:
        manifest = make_artifact(source, directory, name=name, on_progress=on_progress, **rest)
    _print_made(manifest, directory)


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


def print_serve_command(name: str, models_dir: Path) -> None:
    """Print the command that serves a model, if this process was started as `edgesam`.

    Args:
        name: Name of the model.
        models_dir: Folder of models.
    """
    if (command := program()) is not None:
        found_by = name if models_dir == DEFAULT_MODELS_DIRECTORY else str(models_dir / name)
        typer.echo(f"serve it: {command} serve --model {shlex.quote(found_by)}")


def _needs_torch(options: ExportOptions) -> bool:
    """Return whether the graphs have another form than those that are stored without weights."""
    return options.layout != "served" or options.upsample_mode == "bilinear"


def _print_made(manifest: Manifest, directory: Path) -> None:
    typer.echo(f"{manifest.name} is at {directory}, fingerprint {manifest.fingerprint}")
