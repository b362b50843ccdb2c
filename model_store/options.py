"""Options that commands of several modules share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, installed_names
from model_store.catalogue.published import PUBLISHED


def _installed(context: typer.Context) -> list[str]:
    return installed_names(context.params.get("models_dir") or DEFAULT_MODELS_DIRECTORY)


def _published() -> list[str]:
    return [*PUBLISHED]


InstalledModel = Annotated[
    str,
    typer.Argument(help="Name of a model, or a folder with a manifest.json.", autocompletion=_installed),
]
PublishedName = Annotated[
    str, typer.Argument(help="Name of a model that 'list' shows as available.", autocompletion=_published)
]
MeasuredModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Name or folder of a model to measure through its graphs. May be repeated.",
        autocompletion=_installed,
    ),
]
ModelsDir = Annotated[
    Path,
    typer.Option("--models-dir", envvar="EDGESAM_STORE_DIR", help="Folder of fetched and imported models."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Mirror = Annotated[
    str,
    typer.Option(
        envvar="EDGESAM_MIRROR",
        help="Base address that replaces scheme and host of the official addresses, for networks without access to "
        "them. Length and SHA-256 are checked as always.",
    ),
]
Sha256 = Annotated[
    str,
    typer.Option(
        "--sha256",
        help="SHA-256 that the file must have. Needed where the catalogue has none; otherwise it replaces the "
        "catalogue's.",
    ),
]
WeightsOption = Annotated[
    Literal["float16", "float32"],
    typer.Option(
        help="Number format of large weights in the files. float16 makes files of half the size; computing is float32."
    ),
]
UpsampleOption = Annotated[
    Literal["bicubic", "bilinear"] | None,
    typer.Option(
        help="Interpolation with which EdgeSAM's encoder enlarges its last stage. Default: bicubic, as in EdgeSAM's "
        "PyTorch model. For the official layout the default is bilinear, as in its published ONNX files."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")]
AcceptLicence = Annotated[
    bool, typer.Option("--accept-licence", help="I have read the licence that is shown and keep to it.")
]
Timing = Annotated[
    bool, typer.Option("--timing/--no-timing", help="Whether to time one encode and one click, which 'list' shows.")
]
LicenceText = Annotated[
    str,
    typer.Option("--licence", help="Licence of these weights. Required for files that are not in the catalogue."),
]
TrainingData = Annotated[str, typer.Option(help="Training data of the weights, for the manifest.")]
Measured = Annotated[
    list[str] | None, typer.Option(help="Measured quality as NAME=VALUE, for the manifest. May be repeated.")
]
Notes = Annotated[str, typer.Option(help="Notes for users of the model, for the manifest.")]
Summary = Annotated[
    str,
    typer.Option(
        help="Use of the model, in a sentence or two, for the page and /models. A command stands between backticks."
    ),
]
Card = Annotated[
    str,
    typer.Option(
        help="Model card: an address, or the name of a file that you add to the folder, such as README.md. The service "
        "then shows it."
    ),
]
Trained = Annotated[bool, typer.Option("--trained/--untrained", help="Whether the weights were trained.")]
