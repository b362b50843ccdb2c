"""Options that the client's commands share: the service, and how images are read."""

from typing import Annotated, NamedTuple

import typer

from .values import Levels

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_JOBS = 64


class Bands(NamedTuple):
    """Numbers of the bands for red, green and blue."""

    red: int
    green: int
    blue: int


def parse_bands(text: str) -> Bands:
    """Parse `R,G,B`."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(f"{text!r} is not R,G,B")
    return Bands(*map(int, numbers))


LevelsOption = Annotated[Levels, typer.Option(help="Conversion of samples of more than 8 bits to grey levels.")]
BandsOption = Annotated[
    Bands | None,
    typer.Option(parser=parse_bands, metavar="R,G,B", help="Numbers of the bands for red, green and blue, from 1."),
]
Jobs = Annotated[int, typer.Option(min=1, max=MAX_JOBS, help="Number of concurrent uploads of a folder.")]
Url = Annotated[str, typer.Option(envvar="EDGESAM_URL", help="Address of the service.")]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="EDGESAM_API_KEY", help="API key. The variable keeps it out of the shell's history."),
]
ModelName = Annotated[
    str | None, typer.Option(help="Name of the model. Without it the first model of the service answers.")
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Time limit of one attempt, in seconds.")]
Retry = Annotated[
    float, typer.Option(min=0.0, help="Time in which a failed request is repeated, in seconds. 0: not at all.")
]
