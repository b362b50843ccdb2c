"""The commands that make a model of a checkpoint on this machine: `import` and `export`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from model_store import catalog, terminal
from model_store.catalog import ModelStoreError, UsageError
from model_store.export.from_checkpoint import ExportOptions
from model_store.export.model_info import ModelInfo, info_of_checkpoint, info_of_untrained
from model_store.export.output_folder import check_output_folder
from model_store.licence_acceptance import require_licence
from model_store.make_model import convert_model, make_model, time_made_model
from model_store.options import AcceptLicence, Force, ModelsDir, Timing, UpsampleOption, WeightsOption

LicenceText = Annotated[
    str,
    typer.Option("--licence", help="Licence of these weights. Required for files that are not in the catalogue."),
]
TrainingData = Annotated[str, typer.Option(help="Training data of the weights, for the manifest.")]
Measured = Annotated[
    list[str] | None, typer.Option(help="Measured quality as NAME=VALUE, for the manifest. May be repeated.")
]
Notes = Annotated[str, typer.Option(help="Notes for users of the model, for the manifest.")]
Trained = Annotated[bool, typer.Option("--trained/--untrained", help="Whether the weights were trained.")]


def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(help="Checkpoint of any architecture of the SAM family: .safetensors, .pt or .pth.")
    ],
    name: Annotated[str, typer.Option(help="Name that the model gets.")],
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
    *,
    architecture: Annotated[
        str,
        typer.Option(
            help="Architecture of the file. Default: the one that its keys show. TinySAM's files need tiny-sam here, "
            "because they have MobileSAM's keys."
        ),
    ] = "",
    accept_licence: AcceptLicence = False,
    licence: LicenceText = "",
    trained: Trained = True,
    training_data: TrainingData = "",
    measured: Measured = None,
    notes: Notes = "",
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    timing: Timing = True,
    force: Force = False,
) -> None:
    """Make a model for the service from a checkpoint on this machine.

    The architecture is recognised by the keys of the file. It is loaded strictly: an error names the keys that are
    missing, unexpected or of a wrong shape. Published files are recognised by their hash. For all other files, state
    the licence. PyTorch is not needed.

    [bold]Examples[/bold]

    python -m model_store import mobile_sam.pt --name mobile-sam

    python -m model_store import tiny.pth --name my-tiny --architecture tiny-sam --licence "our own"

    python -m model_store import run7/best.pth --name plants-7 --licence "our own, internal use"
    """
    catalog.check_name(name)
    check_output_folder(models_dir / name, force=force)
    stated = ModelInfo(licence, trained, training_data or "not stated", measured=_values(measured), notes=notes)
    info = _accepted_info(file, stated, accept_licence=accept_licence)
    options = ExportOptions(weights=weights, upsample_mode=upsample_mode)
    convert_model(file, models_dir / name, name=name, info=info, options=options, architecture=architecture or None)
    if timing:
        time_made_model(models_dir / name)


def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint: .safetensors of this project, or an EdgeSAM .pth.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the graphs and manifest.json.")],
    name: Annotated[str, typer.Option(help="Name in the manifest. Default: name of the folder.")] = "",
    layout: Annotated[
        Literal["served", "official"],
        typer.Option(help="served: the three graphs of this service. official: EdgeSAM's two graphs, for other tools."),
    ] = "served",
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    trained: Annotated[
        bool,
        typer.Option("--trained/--untrained", help="Whether the weights were trained. --untrained needs no file."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights when --untrained has no file.")] = 0,
    architecture: Annotated[
        str,
        typer.Option(help="Architecture when --untrained has no file: edgesam or edgesam-lite. A file states its own."),
    ] = "edgesam",
    granularity: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the granularity module, trained on this checkpoint by 'granularity'. The service then "
            "offers granularity auto."
        ),
    ] = None,
    accept_licence: AcceptLicence = False,
    licence: LicenceText = "",
    training_data: TrainingData = "",
    measured: Measured = None,
    notes: Notes = "",
    force: Force = False,
) -> None:
    """Write the ONNX graphs of a checkpoint into any folder.

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
        raise UsageError("--granularity needs --layout served; other tools do not know the module")
    name = catalog.check_name(name or out.resolve().name)
    check_output_folder(out, force=force)
    values = _values(measured)
    if checkpoint is None:
        info = info_of_untrained(seed, licence=licence, training_data=training_data, measured=values, notes=notes)
    else:
        stated = ModelInfo(licence, trained, training_data or "not stated", measured=values, notes=notes)
        info = _accepted_info(checkpoint, stated, accept_licence=accept_licence)
    if granularity is not None:
        if not granularity.is_file():
            raise ModelStoreError(f"{granularity}: no such file")
        info = dataclasses.replace(info, granularity_sha256=catalog.file_sha256(granularity))
    make_model(
        seed if checkpoint is None else checkpoint,
        out,
        name=name,
        info=info,
        options=ExportOptions(layout=layout, weights=weights, upsample_mode=upsample_mode),
        architecture=architecture,
        granularity=granularity,
    )


def _accepted_info(file: Path, stated: ModelInfo, *, accept_licence: bool) -> ModelInfo:
    info, model = info_of_checkpoint(file, stated)
    if model is not None:
        terminal.print_note(f"{file} is the published checkpoint of {model.name}")
        require_licence(model, is_accepted=accept_licence)
    return info


def _values(measured: list[str] | None) -> dict[str, float]:
    values = {}
    for item in measured or []:
        key, _, value = item.partition("=")
        try:
            values[key.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--measured takes NAME=VALUE with a number, not {item!r}") from None
    return values
