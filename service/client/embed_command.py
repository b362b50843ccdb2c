"""The client's command that embeds an image or a folder, so that the first prompt does not wait."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import RETRY_S, TIMEOUT_S
from .command import main
from .command_options import DEFAULT_URL, ApiKey, BandsOption, Jobs, LevelsOption, ModelName, Retry, Timeout, Url

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def embed(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Image file, or folder of images with its sub-folders.")],
    *,
    jobs: Jobs = 4,
    levels: LevelsOption = "auto",
    bands: BandsOption = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: ModelName = None,
    timeout: Timeout = TIMEOUT_S,
    retry: Retry = RETRY_S,
) -> None:
    """Embed an image, or all images of a folder. Images that the service knows are not sent again.

    The exit status is 0 where all images are embedded.
    """
    is_folder = path.is_dir()
    main(
        None if is_folder else path,
        folder=path if is_folder else None,
        jobs=jobs,
        levels=levels,
        bands=bands,
        url=url,
        api_key=api_key,
        model=model,
        timeout=timeout,
        retry=retry,
    )
