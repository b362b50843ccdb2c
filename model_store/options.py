"""Options that commands of several packages share."""

from pathlib import Path
from typing import Annotated

import typer

ModelsDir = Annotated[
    Path,
    typer.Option("--models-dir", envvar="EDGESAM_STORE_DIR", help="Folder of fetched and imported models."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
