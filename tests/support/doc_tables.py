"""The tables of docs/reference as the code has them; `python tests/support/doc_tables.py` writes them there."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT)]

from prometheus_client import CollectorRegistry  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402
from typer.core import TyperGroup, TyperOption  # noqa: E402
from typer.main import get_command  # noqa: E402

import model_store.cli  # noqa: E402
import model_store.edgesam_command  # noqa: E402
import service.client.command  # noqa: E402
from service import errors  # noqa: E402
from service.api.problems import FRAMEWORK_PROBLEMS  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.telemetry.metrics import Metrics  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"


def setting_rows() -> Iterator[str]:
    """One row for each setting: variable, default, description."""
    for name, field in Settings.model_fields.items():
        default = field.default
        if default is PydanticUndefined:
            default = "[]"
        if isinstance(default, Path):
            default = "the bundled model"
        shown = "unset" if default is None else default
        yield f"| `EDGESAM_{name.upper()}` | {shown} | {field.description} |"


def metric_rows() -> Iterator[str]:
    """One row for each metric of ours: name, kind, labels, description."""
    metrics = Metrics(CollectorRegistry())
    for metric in vars(metrics).values():
        if not hasattr(metric, "describe") or not hasattr(metric, "_labelnames"):
            continue
        described = metric.describe()[0]
        total = "_total" if described.type == "counter" else ""
        labels = ", ".join(metric._labelnames) or "-"
        yield f"| `{described.name}{total}` | {described.type} | {labels} | {described.documentation} |"


def problem_rows() -> Iterator[str]:
    """One row for each problem: status, code, meaning."""
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ServiceError) and kind is not errors.ServiceError
    ]
    rows = [(kind.status, kind.code, " ".join((kind.__doc__ or "").split()).replace("|", "")) for kind in classes]
    rows += [(status, code, f"{title}.") for status, (code, title) in FRAMEWORK_PROBLEMS.items()]
    for status, code, meaning in sorted(rows):
        yield f"| {status} | `{code}` | {meaning} |"


def command_rows() -> Iterator[str]:
    """A section for each command: its summary, and a row for each argument and option."""
    yield from _command_section("python -m service.client", get_command(service.client.command.app))
    yield from _serve_section()
    store = get_command(model_store.cli.app)
    assert isinstance(store, TyperGroup)
    for name, command in store.commands.items():
        yield from _command_section(f"python -m model_store {name}", command)


def _serve_section() -> Iterator[str]:
    """The section of `edgesam serve`, which argparse reads because Typer is an extra."""
    serve = argparse.ArgumentParser(description=model_store.edgesam_command.SERVE_DESCRIPTION)
    model_store.edgesam_command.add_serve_options(serve)
    yield from ("", "## edgesam serve", "", serve.description or "", "")
    yield from ("| option | meaning |", "|---|---|")
    for action in serve._actions[1:]:  # the first one is --help
        yield f"| `{action.option_strings[0]}` | {action.help} |"


def _command_section(title: str, command: Any) -> Iterator[str]:
    summary = (command.help or "").split("\n\n")[0]
    yield from ("", f"## {title}", "", " ".join(summary.split()), "")
    yield from ("| option | default | meaning |", "|---|---|---|")
    for parameter in command.params:
        if isinstance(parameter, TyperOption):
            shown = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        else:
            shown = (parameter.name or "").upper()
        meaning = " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
        yield f"| {shown} | {_default(parameter)} | {meaning} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    variable = f" or `{parameter.envvar}`" if isinstance(parameter.envvar, str) else ""
    if default in (None, False, "", []):
        return f"-{variable}"
    return f"{'yes' if default is True else default}{variable}"


PAGES: Mapping[str, tuple[str, str, Callable[[], Iterator[str]]]] = {
    "settings": ("settings.md", "| variable | default | meaning |\n|---|---|---|\n", setting_rows),
    "metrics": ("metrics.md", "| metric | kind | labels | meaning |\n|---|---|---|---|\n", metric_rows),
    "problems": ("problems.md", "| status | code | meaning |\n|---|---|---|\n", problem_rows),
    "commands": ("cli.md", "", command_rows),
}
"""By name of a table: the page in docs/reference that has it, its header, and its rows."""


def table_in(page: str, name: str) -> str:
    """Return the text between the marks of a table.

    Args:
        page: Text of the page.
        name: Name of the table, as in its first mark.

    Raises:
        ValueError: the page does not have the marks once.
    """
    found = re.findall(rf"<!-- table: {name} -->\n(.*?)<!-- end -->\n", page, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the marks of the table {name} are there {len(found)} times")
    return str(found[0])


def table_of(name: str) -> str:
    """Return the text of a table as the code has it."""
    _, header, rows = PAGES[name]
    return header + "\n".join(rows()) + "\n"


def write() -> None:
    """Replace the tables in the pages."""
    for name, (file, _, _) in PAGES.items():
        path = REFERENCE / file
        page = path.read_text()
        old = f"<!-- table: {name} -->\n{table_in(page, name)}"
        path.write_text(page.replace(old, f"<!-- table: {name} -->\n{table_of(name)}"))


if __name__ == "__main__":
    write()
