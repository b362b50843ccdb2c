"""The command `export`: graphs of a checkpoint, or of initial weights, in any folder. Needs torch."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from model_store.catalogue.entries import check_name, file_sha256
from model_store.errors import ModelStoreError, UsageError
from model_store.export.from_checkpoint import ExportOptions
from model_store.export.model_info import ModelInfo, info_of_untrained
from model_store.export.output_folder import check_output_folder
from model_store.make_model import make_model
from model_store.options import (
    AcceptLicence,
    Card,
    Force,
    LicenceText,
    Measured,
    Notes,
    Summary,
    TrainingData,
    UpsampleOption,
    WeightsOption,
)
from model_store.stated_facts import accepted_info, check_words, measured_values


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
        typer.Option(help="Architecture when --untrained has no file, such as edgesam-lite. A file shows its own."),
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
    summary: Summary = "",
    card: Card = "",
    force: Force = False,
) -> None:
    """Write the ONNX graphs of a checkpoint into any folder.

    [bold]Examples[/bold]

    edgesam models export edge_sam.pth --accept-licence --layout official --out onnx/edge-sam

    edgesam models export best.pth --licence "our own" --measured miou_box=0.74 --out models/plants-7

    edgesam models export out/run1/model.safetensors --granularity out/boxes/granularity.pth --licence "our own"
    --out models/plants-8

    edgesam models export --untrained --seed 0 --out models/edgesam-untrained
    """
    if checkpoint is None and trained:
        raise UsageError("give a checkpoint, or --untrained for initial weights")
    if granularity is not None and layout != "served":
        raise UsageError("--granularity needs --layout served; other tools do not know the module")
    name = check_name(name or out.resolve().name)
    check_output_folder(out, force=force)
    check_words(summary, card, licence, training_data, notes)
    values = measured_values(measured)
    if checkpoint is None:
        info = info_of_untrained(seed, licence=licence, training_data=training_data, measured=values, notes=notes)
        info = dataclasses.replace(info, summary=summary, card=card)
    else:
        stated = ModelInfo(
            licence, trained, training_data or "not stated", measured=values, notes=notes, summary=summary, card=card
        )
        info = accepted_info(checkpoint, stated, accept_licence=accept_licence)
    if granularity is not None:
        if not granularity.is_file():
            raise ModelStoreError(f"{granularity}: no such file")
        info = dataclasses.replace(info, granularity_sha256=file_sha256(granularity))
    make_model(
        seed if checkpoint is None else checkpoint,
        out,
        name=name,
        info=info,
        options=ExportOptions(layout=layout, weights=weights, upsample_mode=upsample_mode),
        architecture=architecture,
        granularity=granularity,
    )
