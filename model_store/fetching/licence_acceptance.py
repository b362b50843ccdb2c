"""Shows the licence of a published model and, where it restricts the use, has the user accept it."""

import sys

import typer

from model_store.catalogue.published_model import PublishedModel
from model_store.errors import UsageError
from model_store.terminal import print_note


def require_licence(model: PublishedModel, *, is_accepted: bool) -> None:
    """Show the licence every time, and wait for an answer only on a terminal.

    Args:
        model: Entry of the catalogue.
        is_accepted: Whether the user accepts the licence by an option of the command.

    Raises:
        UsageError: The licence needs to be accepted and is not.
    """
    licence = model.licence
    use = "commercial use is allowed" if licence.commercial_use else "no commercial use"
    print_note(f"{model.name}: {licence.title}; {use}")
    print_note(licence.summary)
    print_note(f"Read it at {licence.url}")
    if is_accepted or not licence.needs_acceptance:
        return
    if sys.stdin.isatty() and _confirmed():
        return
    raise UsageError(f"the licence of {model.name} is not accepted; read it and repeat with --accept-licence")


def _confirmed() -> bool:
    try:
        return typer.confirm("Have you read the licence, and do you keep to it?", err=True)
    except typer.Abort:  # Ctrl+C or Ctrl+D at the prompt
        return False
