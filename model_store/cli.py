"""The model store's command line: every command is registered here; `list`, `verify` and `info` are defined here.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 the command cannot do what was asked.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from model_store import terminal
from model_store.catalogue import model_list
from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, catalog, find_artifact
from model_store.command_errors import EXPECTED, line_and_exit_code
from model_store.errors import UsageError
from model_store.evaluation.command import evaluate
from model_store.evaluation.everything.command import calibrate_everything
from model_store.evaluation.ranking.command import calibrate
from model_store.export.command import export
from model_store.export.skeletons.command import skeletons
from model_store.fetching.fetch_command import fetch
from model_store.import_command import import_checkpoint
from model_store.options import AsJson, InstalledModel, Mirror, ModelsDir
from model_store.training.command import granularity, train
from model_store.training.distill_command import distill, features
from service.manifest import load_manifest


class Commands(TyperGroup):
    """Commands whose expected errors are printed as one line and end the process with an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the command line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has ended; typer then ends without a message
            raise
        except EXPECTED as error:
            line, exit_code = line_and_exit_code(error)
        typer.echo(line, err=True)
        raise typer.Exit(exit_code)


app = typer.Typer(
    cls=Commands,
    help="Fetch, make and check the models that the service runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command("list")
def list_models(models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY, *, as_json: AsJson = False) -> None:
    """Show the models that are here and those that can be fetched, with purpose, size, licence and quality.

    [bold]Examples[/bold]

    edgesam models list

    edgesam models list --json
    """
    entries = catalog(models_dir)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2, default=str))
        return
    model_list.print_catalog(entries)
    for entry in entries:
        if entry.warning or entry.state == "broken":
            typer.echo(f"warning: {entry.name}: {entry.warning or entry.detail}", err=True)


app.command()(fetch)
app.command("import")(import_checkpoint)
app.command()(export)


@app.command()
def verify(
    model: InstalledModel,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    *,
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Also compare answers to some prompts on one image with published ones."),
    ] = False,
    image: Annotated[
        Path | None, typer.Option(help="File of the image for --scores. Default: it is downloaded.")
    ] = None,
    mirror: Mirror = "",
) -> None:
    """Compare every file of a model with its manifest and run each graph once.

    With --scores, the model also answers prompts on truck.jpg, an image of SAM's examples. A table shows the published
    scores beside those of the model. The exit code is 1 where one differs by more than the tolerance. There are
    published scores for edgetam and sam2.1-tiny.

    [bold]Examples[/bold]

    edgesam models verify edge-sam

    edgesam models verify /srv/models/edge-sam

    edgesam models verify edgetam --scores

    edgesam models verify edgetam --scores --image truck.jpg
    """
    from model_store.export.verify import verify_artifact  # noqa: PLC0415 - the other commands need no ONNX Runtime

    if image is not None and not scores:
        raise UsageError("--image needs --scores")
    directory = find_artifact(model, models_dir)
    with terminal.steps() as on_progress:
        on_progress(f"checking {directory}")
        manifest = verify_artifact(directory)
    typer.echo(
        f"{manifest.name} is complete and runs: {len(manifest.graphs)} graphs, fingerprint {manifest.fingerprint}"
    )
    if scores:
        from model_store.scores.command import verify_scores  # noqa: PLC0415 - the same

        verify_scores(directory, manifest, image=image, mirror=mirror)


@app.command()
def info(
    model: InstalledModel,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    *,
    as_json: AsJson = False,
) -> None:
    """Show a model's manifest.

    [bold]Examples[/bold]

    edgesam models info edge-sam

    edgesam models info models/edge-sam --json
    """
    directory = find_artifact(model, models_dir)
    manifest = load_manifest(directory)
    if as_json:
        members = {**manifest.model_dump(mode="json"), "fingerprint": manifest.fingerprint}
        typer.echo(json.dumps(members, indent=2))
        return
    terminal.print_manifest(directory, manifest)


for command in (train, features, distill, granularity, evaluate, calibrate, calibrate_everything, skeletons):
    app.command()(command)
