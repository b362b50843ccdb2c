"""The command `edgesam`: hands the words of the command line to the command that they name.

Only the module of that command is imported, so that `edgesam --help` answers at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from edgesam_cli.arguments import SETTING_OPTIONS, parser
from service.extras import missing_package

INTERRUPTED: Final = 130
# Scripts for shells set it when they ask for completions; Typer derives it from the command's name.
COMPLETION_VARIABLE: Final = "_EDGESAM_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `edgesam`; None for those of the process.

    Returns:
        Exit status: 0 done, 1 failed, 2 the command cannot do what was asked, 130 interrupted. `edgesam serve` does not
        return once the service takes over the process. Commands that Typer reads end the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else ""
    try:
        if COMPLETION_VARIABLE in os.environ or words == ["--install-completion"] or name == "--show-completion":
            return _complete(words)
        if name in _COMMANDS:
            return _COMMANDS[name](words[1:])
        return _serve(words)
    except ModuleNotFoundError as error:
        if COMPLETION_VARIABLE in os.environ:
            return 1  # a message would stand in the line that is typed
        print(f"error: {missing_package(error, _EXTRAS.get(name, 'cpu'))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED


def _serve(words: Sequence[str]) -> int:
    given = parser().parse_args(words)
    from edgesam_cli.serve import ServeOptions, serve  # noqa: PLC0415 - needs pydantic, which help does not

    values = {option.variable: getattr(given, option.setting) for option in SETTING_OPTIONS}
    return serve(
        ServeOptions(
            models=tuple(given.model or ()),
            settings={variable: str(value) for variable, value in values.items() if value is not None},
            models_dir=given.models_dir,
            mirror=given.mirror,
            sha256=given.sha256,
            accept_licence=given.accept_licence,
        )
    )


def _models(words: Sequence[str]) -> int:
    from model_store.cli import app  # noqa: PLC0415 - needs the extra `store`

    app(list(words), prog_name="edgesam models")
    return 0


def _keys(words: Sequence[str]) -> int:
    from service.keys import main as keys  # noqa: PLC0415 - needs pydantic

    return keys(words, program="edgesam keys")


def _segment(words: Sequence[str]) -> int:
    from service.client.command import app  # noqa: PLC0415 - needs the extra `client`

    app(list(words), prog_name="edgesam segment")
    return 0


def _embed(words: Sequence[str]) -> int:
    from service.client.embed_command import app  # noqa: PLC0415 - needs the extra `client`

    app(list(words), prog_name="edgesam embed")
    return 0


def _complete(words: Sequence[str]) -> int:
    from edgesam_cli.completion import edgesam  # noqa: PLC0415 - needs an extra with Typer

    if len(words) > 1 and COMPLETION_VARIABLE not in os.environ:  # Typer's own option takes no name of a shell
        os.environ[COMPLETION_VARIABLE] = f"source_{words[1]}"
    edgesam()(list(words), prog_name="edgesam")
    return 0


_COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "models": _models,
    "keys": _keys,
    "segment": _segment,
    "embed": _embed,
}
# The extra that a command needs, where that is not `cpu`.
_EXTRAS: Final = {
    "models": "store",
    "segment": "client",
    "embed": "client",
    "--install-completion": "client",
    "--show-completion": "client",
}
