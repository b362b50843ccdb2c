"""The model store's commands: list, fetch, import, export, verify, info.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 asked for what cannot be.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from model_store import catalog, importing, terminal
from model_store.catalog import ModelStoreError, UsageError
from model_store.evaluation.command import evaluate
from model_store.evaluation.ranking.command import calibrate
from model_store.importing import Form
from model_store.model_info import UNTRAINED_LICENCE, ModelInfo, info_of, published_info
from model_store.target import check_target
from model_store.training import command as training
from model_store.training import distill_command
from service.manifest import ManifestError, load_manifest

ModelsDir = Annotated[
    Path,
    typer.Option("--models-dir", envvar="EDGESAM_STORE_DIR", help="Where fetched and imported models are kept."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WeightsOption = Annotated[
    Literal["float16", "float32"],
    typer.Option(help="What large weights are stored in; float16 halves the files, computing stays float32."),
]
UpsampleOption = Annotated[
    Literal["bicubic", "bilinear"] | None,
    typer.Option(
        help="How the encoder enlarges its last stage. Default: bicubic as in EdgeSAM's PyTorch model; for the "
        "official layout bilinear as in its published ONNX files."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")]
AcceptLicence = Annotated[
    bool, typer.Option("--accept-licence", help="I have read the licence that is shown and keep to it.")
]
LicenceText = Annotated[
    str, typer.Option("--licence", help="Terms of these weights; required for files that are not in the catalogue.")
]
TrainingData = Annotated[str, typer.Option(help="What the weights were trained on, for the manifest.")]
Measured = Annotated[
    list[str] | None, typer.Option(help="A measured quality as NAME=VALUE, for the manifest; may be repeated.")
]
Notes = Annotated[str, typer.Option(help="Anything its users should know, for the manifest.")]


class Commands(TyperGroup):
    """Turns what a person can act on into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ModelStoreError as error:
            message, exit_code = str(error), error.exit_code
        except ManifestError as error:
            message, exit_code = str(error), 1
        except BrokenPipeError:  # whoever read our output has gone; typer ends quietly
            raise
        except OSError as error:
            message, exit_code = f"{error.filename or 'the system'}: {error.strerror or error}", 1
        except KeyboardInterrupt:
            message, exit_code = "interrupted; repeat the command and a download goes on where it stopped", 1
        typer.echo("error: " + " ".join(message.split()), err=True)
        raise typer.Exit(exit_code)


app = typer.Typer(
    cls=Commands,
    help="Get, make and check the models that the service runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command("list")
def list_models(models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY, *, as_json: AsJson = False) -> None:
    """Show the models that are here and those that can be fetched.

    [bold]Examples[/bold]

    python -m model_store list

    python -m model_store list --json
    """
    entries = catalog.catalog(models_dir)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2, default=str))
        return
    terminal.print_catalog(entries)
    for entry in entries:
        if entry.state == "broken":
            typer.echo(f"warning: {entry.detail}", err=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A model that 'list' shows as available.")],
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
    *,
    url: Annotated[
        list[str] | None,
        typer.Option(help="Fetch from here instead of the official places; may be repeated, tried in order."),
    ] = None,
    accept_licence: AcceptLicence = False,
    export: Annotated[bool, typer.Option(help="Make a model for the service of it, which needs torch.")] = True,
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    force: Force = False,
) -> None:
    """Download a published checkpoint and make a model for the service of it.

    An interrupted download goes on where it stopped. Length and SHA-256 are checked whatever the place it came from.

    [bold]Examples[/bold]

    python -m model_store fetch edge-sam --accept-licence

    python -m model_store fetch edge-sam-3x --accept-licence --no-export --models-dir /srv/models

    python -m model_store fetch edge-sam --accept-licence --url https://mirror.example/edge_sam.pth
    """
    from model_store.fetch import fetch as fetch_file  # noqa: PLC0415 - the other commands need no httpx

    model = catalog.published_model(name)
    _require_licence(model, accepted=accept_licence)
    form = Form(weights=weights, upsample_mode=upsample_mode)
    directory = models_dir / name
    if export and not force and importing.is_made_of(directory, model.sha256, form):
        typer.echo(f"{name} is already at {directory}")
        return
    if export:
        importing.require_extra()
        check_target(directory, force=force)
    with terminal.download_bar(model.file_name) as progress:
        checkpoint = fetch_file(
            tuple(url or model.urls),
            models_dir / model.file_name,
            size_bytes=model.size_bytes,
            sha256=model.sha256,
            progress=progress,
            notice=terminal.say,
        )
    if not export:
        typer.echo(f"{name} is downloaded: {checkpoint}")
        return
    _make(checkpoint, directory, name=name, info=published_info(model), form=form)


@app.command("import")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .safetensors of this project, or an EdgeSAM .pth.")],
    name: Annotated[str, typer.Option(help="What the model will be called.")],
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
    *,
    accept_licence: AcceptLicence = False,
    licence: LicenceText = "",
    trained: Annotated[bool, typer.Option("--trained/--untrained", help="Whether the weights saw training.")] = True,
    training_data: TrainingData = "",
    measured: Measured = None,
    notes: Notes = "",
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    force: Force = False,
) -> None:
    """Make a model for the service of a checkpoint on this machine.

    The file is loaded strictly: a missing, unexpected or misshapen key is an error that names it. Published files are
    recognised by their hash; for all others say what terms they are under.

    [bold]Examples[/bold]

    python -m model_store import edge_sam.pth --name edge-sam --accept-licence

    python -m model_store import run7/best.pth --name plants-7 --licence "our own, internal use"
    """
    catalog.check_name(name)
    check_target(models_dir / name, force=force)
    stated = ModelInfo(licence, trained, training_data or "not stated", measured=_numbers(measured), notes=notes)
    info = _accepted_info(file, stated, accept_licence=accept_licence)
    form = Form(weights=weights, upsample_mode=upsample_mode)
    _make(file, models_dir / name, name=name, info=info, form=form)


@app.command()
def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint: .safetensors of this project, or an EdgeSAM .pth.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Directory that will hold the graphs and manifest.json.")],
    name: Annotated[str, typer.Option(help="Name in the manifest; default: that of the directory.")] = "",
    layout: Annotated[
        Literal["served", "official"],
        typer.Option(help="The three graphs of this service, or EdgeSAM's published pair for other tools."),
    ] = "served",
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    trained: Annotated[
        bool,
        typer.Option("--trained/--untrained", help="Whether the weights saw training; untrained ones need no file."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Decides the weights where --untrained has no file.")] = 0,
    architecture: Annotated[
        str,
        typer.Option(
            help="Of the weights where --untrained has no file: edgesam or edgesam-lite. A file says its own."
        ),
    ] = "edgesam",
    granularity: Annotated[
        Path | None,
        typer.Option(
            help="What 'granularity' has trained on this checkpoint; the service then offers granularity auto."
        ),
    ] = None,
    accept_licence: AcceptLicence = False,
    licence: LicenceText = "",
    training_data: TrainingData = "",
    measured: Measured = None,
    notes: Notes = "",
    force: Force = False,
) -> None:
    """Write the ONNX graphs of a checkpoint wherever you want them.

    [bold]Examples[/bold]

    python -m model_store export edge_sam.pth --accept-licence --layout official --out onnx/edge-sam

    python -m model_store export best.pth --licence "our own" --measured miou_box=0.74 --out models/plants-7

    python -m model_store export out/run1/model.safetensors --granularity out/boxes/granularity.pth --licence "our own"
    --out models/plants-8

    python -m model_store export --untrained --seed 0 --out models/edgesam-untrained
    """
    if checkpoint is None and trained:
        raise UsageError("give a checkpoint, or --untrained for initial weights")
    if granularity is not None and layout != "served":
        raise UsageError("--granularity is for the served layout; other tools do not know the module")
    name = catalog.check_name(name or out.resolve().name)
    check_target(out, force=force)
    numbers = _numbers(measured)
    if checkpoint is None:
        info = ModelInfo(
            licence or UNTRAINED_LICENCE,
            trained=False,
            training_data=training_data or "none",
            measured=numbers,
            notes=notes or f"Initial weights of seed {seed}: what the masks show means nothing.",
        )
    else:
        stated = ModelInfo(licence, trained, training_data or "not stated", measured=numbers, notes=notes)
        info = _accepted_info(checkpoint, stated, accept_licence=accept_licence)
    if granularity is not None:
        if not granularity.is_file():
            raise ModelStoreError(f"{granularity}: no such file")
        info = dataclasses.replace(info, granularity_sha256=catalog.file_sha256(granularity))
    form = Form(layout=layout, weights=weights, upsample_mode=upsample_mode)
    _make(
        seed if checkpoint is None else checkpoint,
        out,
        name=name,
        info=info,
        form=form,
        architecture=architecture,
        granularity=granularity,
    )


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A model's name, or a directory with a manifest.json.")],
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
) -> None:
    """Compare every file with the manifest and run the graphs once.

    [bold]Examples[/bold]

    python -m model_store verify edge-sam

    python -m model_store verify /srv/models/edge-sam
    """
    from model_store.artifact import verify_artifact  # noqa: PLC0415 - the other commands need no ONNX Runtime

    directory = catalog.find_artifact(model, models_dir)
    with terminal.steps() as progress:
        progress(f"checking {directory}")
        manifest = verify_artifact(directory)
    typer.echo(f"{manifest.name} is whole and runs: {len(manifest.graphs)} graphs, fingerprint {manifest.fingerprint}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A model's name, or a directory with a manifest.json.")],
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what a model's manifest says.

    [bold]Examples[/bold]

    python -m model_store info edge-sam

    python -m model_store info models/edge-sam --json
    """
    directory = catalog.find_artifact(model, models_dir)
    manifest = load_manifest(directory)
    if as_json:
        members = {**manifest.model_dump(mode="json"), "fingerprint": manifest.fingerprint}
        typer.echo(json.dumps(members, indent=2))
        return
    terminal.print_manifest(directory, manifest)


for command in (
    training.train,
    distill_command.features,
    distill_command.distill,
    training.granularity,
    evaluate,
    calibrate,
):
    app.command()(command)


def _accepted_info(file: Path, stated: ModelInfo, *, accept_licence: bool) -> ModelInfo:
    info, model = info_of(file, stated)
    if model is not None:
        terminal.say(f"{file} is the published checkpoint of {model.name}")
        _require_licence(model, accepted=accept_licence)
    return info


def _numbers(measured: list[str] | None) -> dict[str, float]:
    numbers = {}
    for item in measured or []:
        key, _, value = item.partition("=")
        try:
            numbers[key.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--measured wants NAME=VALUE with a number, not {item!r}") from None
    return numbers


def _require_licence(model: catalog.PublishedModel, *, accepted: bool) -> None:
    """Show the terms every time; UsageError while they are not accepted."""
    terminal.say(f"{model.name}: {model.licence.title}")
    terminal.say(model.licence.summary)
    terminal.say(f"Read it at {model.licence.url}")
    if not accepted:
        raise UsageError(f"the licence of {model.name} is not accepted; read it and repeat with --accept-licence")


def _make(source: Path | int, directory: Path, *, name: str, **rest: Any) -> None:
    with terminal.steps() as progress:
        manifest = importing.make_artifact(source, directory, name=name, progress=progress, **rest)
    typer.echo(f"{name} is at {directory}, fingerprint {manifest.fingerprint}")
