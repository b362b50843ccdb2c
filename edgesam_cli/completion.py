"""Completion of the words of `edgesam` in shells. Typer does it, and installs it.

Typer completes only commands that it reads itself. So those that argparse reads are described to it here.
"""

import argparse
import inspect
import os
from collections.abc import Callable
from typing import Any, Final

import typer

from edgesam_cli.arguments import SUMMARIES, add_serve_options

# Variables in which Typer's scripts for shells pass the line: bash, then zsh, fish and PowerShell.
_LINE_VARIABLES: Final = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")


def edgesam() -> typer.Typer:
    """Return the command line as Typer sees it, for completion alone.

    The options of a command are read only where the line names it, because that imports the command.
    """
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback(no_args_is_help=True)(_root)
    line = next((os.environ[name].split() for name in _LINE_VARIABLES if name in os.environ), [])
    named = line[1] if len(line) > 1 else ""
    for name, summary in SUMMARIES.items():
        if name == named:
            _DESCRIPTIONS[name](app)
        else:
            app.command(name, help=summary)(_root)
    return app


def model_names() -> list[str]:
    """Return the names of the models that are here and of those that can be fetched."""
    from edgesam_cli.serve import models_directory  # noqa: PLC0415 - imports the catalogue, which few lines need
    from model_store.catalogue.entries import installed_names  # noqa: PLC0415 - the same
    from model_store.catalogue.published import PUBLISHED  # noqa: PLC0415 - the same

    return sorted({*installed_names(models_directory(os.environ)), *PUBLISHED})


def _root() -> None:
    """Segment objects in images with one click, over HTTP."""


def _add_serve(app: typer.Typer) -> None:
    app.command("serve")(_as_function(add_serve_options, model=model_names))


def _add_models(app: typer.Typer) -> None:
    from model_store.cli import app as models  # noqa: PLC0415 - imports the model store

    app.add_typer(models, name="models")


def _add_keys(app: typer.Typer) -> None:
    from service.keys import add_check_arguments, add_new_options  # noqa: PLC0415 - imports pydantic

    keys = typer.Typer()
    for name, add_arguments in (("new", add_new_options), ("check", add_check_arguments)):
        keys.command(name)(_as_function(add_arguments))
    app.add_typer(keys, name="keys")


def _add_segment(app: typer.Typer) -> None:
    from service.client.command import main  # noqa: PLC0415 - imports the client

    app.command("segment")(main)


def _add_embed(app: typer.Typer) -> None:
    from service.client.embed_command import embed  # noqa: PLC0415 - imports the client

    app.command("embed")(embed)


_DESCRIPTIONS: Final[dict[str, Callable[[typer.Typer], None]]] = {
    "serve": _add_serve,
    "models": _add_models,
    "keys": _add_keys,
    "segment": _add_segment,
    "embed": _add_embed,
}


def _as_function(
    add_arguments: Callable[[argparse.ArgumentParser], None], **values: Callable[[], list[str]]
) -> Callable[..., None]:
    """Return a function with the parameters that a parser reads, which Typer can complete.

    Args:
        add_arguments: Function that adds the arguments of a command to its parser.
        **values: By name of a parameter, a function that returns its values.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)

    def command(**_: Any) -> None:
        """Do nothing: the function only describes a command."""

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(action, values.get(action.dest)) for action in parser._actions]  # noqa: SLF001 - argparse has no other list
    )
    return command


def _parameter(action: argparse.Action, values: Callable[[], list[str]] | None) -> inspect.Parameter:
    choices = [str(choice) for choice in action.choices or ()]
    completion = values or ((lambda: choices) if choices else None)
    is_flag = action.nargs == 0
    if action.option_strings:
        default = typer.Option(
            False if is_flag else None, *action.option_strings, help=action.help, autocompletion=completion
        )
    else:
        default = typer.Argument(None, help=action.help, autocompletion=completion)
    return inspect.Parameter(
        action.dest, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=bool if is_flag else str
    )
