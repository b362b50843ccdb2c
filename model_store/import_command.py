"""The command `import`: a checkpoint on this machine, or an ONNX encoder with a decoder, becomes a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, check_name
from model_store.errors import UsageError
from model_store.export.from_checkpoint import ExportOptions
from model_store.export.model_info import ModelInfo
from model_store.export.output_folder import check_output_folder
from model_store.make_model import EncoderFile, combine_model, convert_model, print_serve_command, time_made_model
from model_store.options import (
    AcceptLicence,
    Card,
    Force,
    LicenceText,
    Measured,
    ModelsDir,
    Notes,
    Summary,
    Timing,
    Trained,
    TrainingData,
    UpsampleOption,
    WeightsOption,
)
from model_store.stated_facts import accepted_info, check_words, encoder_info, measured_values


def import_checkpoint(
    file: Annotated[
        Path | None,
        typer.Argument(help="Checkpoint of any architecture of the SAM family: .safetensors, .pt or .pth."),
    ] = None,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    *,
    name: Annotated[str, typer.Option(help="Name that the model gets.")],
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file of an image encoder with the output (1, 256, 64, 64), in place of FILE. For SAM 2 and "
            "EdgeTAM it has two more: (1, 64, 128, 128) and (1, 32, 256, 256)."
        ),
    ] = None,
    decoder: Annotated[
        Path | None, typer.Option(help="Checkpoint with the decoder of the same model. Needed with --encoder.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the encoder's input, 512 or 1024. Default: the one that its graph states."),
    ] = None,
    input_layout: Annotated[
        Literal["frame", "image"],
        typer.Option(
            help="Input of the encoder. frame: normalised and padded. image: pixel values of 0 to 255, which its graph "
            "normalises and pads."
        ),
    ] = "frame",
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
    summary: Summary = "",
    card: Card = "",
    weights: WeightsOption = "float16",
    upsample_mode: UpsampleOption = None,
    timing: Timing = True,
    force: Force = False,
) -> None:
    """Make a model for the service from a checkpoint on this machine, or from an ONNX encoder and a checkpoint.

    The architecture is recognised by the keys of the file. It is loaded strictly: an error names the keys that are
    missing, unexpected or of a wrong shape. Published files are recognised by their hash. For all other files, state
    the licence. PyTorch is not needed.

    [bold]Examples[/bold]

    edgesam models import mobile_sam.pt --name mobile-sam

    edgesam models import tiny.pth --name my-tiny --architecture tiny-sam --licence "our own"

    edgesam models import run7/best.pth --name plants-7 --licence "our own, internal use"

    edgesam models import --encoder encoder.onnx --decoder sam_vit_b_01ec64.pth --name b-onnx --licence "our own"

    edgesam models import --encoder tiny.encoder.onnx --decoder sam2.1_hiera_tiny.pt --name t --licence "our own"
    """
    check_name(name)
    directory = models_dir / name
    if (file is None) == (encoder is None) or (encoder is None) != (decoder is None):
        raise UsageError("give a checkpoint, or --encoder and --decoder")
    check_output_folder(directory, force=force)
    check_words(summary, card, licence, training_data, notes)
    stated = ModelInfo(
        licence,
        trained,
        training_data or "not stated",
        measured=measured_values(measured),
        notes=notes,
        summary=summary,
        card=card,
    )
    options = ExportOptions(weights=weights, upsample_mode=upsample_mode)
    if file is not None:
        info = accepted_info(file, stated, accept_licence=accept_licence)
        convert_model(file, directory, name=name, info=info, options=options, architecture=architecture or None)
    elif encoder is not None and decoder is not None:
        info = encoder_info(encoder, decoder, stated, accept_licence=accept_licence)
        parts = EncoderFile(encoder, _side(image_size), input_layout)
        combine_model(
            parts, decoder, directory, name=name, info=info, options=options, architecture=architecture or None
        )
    if timing:
        time_made_model(directory)
    print_serve_command(name, models_dir)


def _side(image_size: int | None) -> Literal[512, 1024] | None:
    if image_size is None:
        return None
    if image_size == 512:
        return 512
    if image_size == 1024:
        return 1024
    raise UsageError(f"--image-size takes 512 or 1024, not {image_size}")
