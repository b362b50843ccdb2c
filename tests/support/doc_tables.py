"""The tables of documents as the code has them; `python tests/support/doc_tables.py` writes them there."""

import argparse
import inspect
import math
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

import edgesam_cli.arguments  # noqa: E402
import model_store.cli  # noqa: E402
import service.client.command  # noqa: E402
import service.client.embed_command  # noqa: E402
import service.keys  # noqa: E402
from model_store.architectures import ARCHITECTURES  # noqa: E402
from model_store.catalogue.published import PUBLISHED  # noqa: E402
from model_store.catalogue.published_model import COCO_AP, SA_23_FIVE_CLICKS, SA_23_ONE_CLICK, PublishedModel  # noqa: E402
from service import errors  # noqa: E402
from service.api.problems import FRAMEWORK_PROBLEMS  # noqa: E402
from service.native.decoder import PACKED_SHAPE  # noqa: E402
from service.sam.embedding import S0_SHAPE, S1_SHAPE, TOKENS_SHAPE  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.telemetry.metrics import Metrics  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
MODEL_SPEED = ROOT / "docs" / "operations" / "model-speed.md"
_MIB = 2**20


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
    yield from _argparse_section(
        "serve", edgesam_cli.arguments.SERVE_DESCRIPTION, edgesam_cli.arguments.add_serve_options
    )
    yield from _command_section("segment", get_command(service.client.command.app))
    yield from _command_section("embed", get_command(service.client.embed_command.app))
    yield from _argparse_section("keys new", service.keys.NEW_DESCRIPTION, service.keys.add_new_options)
    yield from _argparse_section("keys check", service.keys.CHECK_DESCRIPTION, service.keys.add_check_arguments)
    store = get_command(model_store.cli.app)
    assert isinstance(store, TyperGroup)
    for name, command in store.commands.items():
        yield from _command_section(f"models {name}", command)


def _argparse_section(
    title: str, description: str, add_arguments: Callable[[argparse.ArgumentParser], None]
) -> Iterator[str]:
    """The section of a command that argparse reads, because Typer is an extra."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    yield from ("", f"## edgesam {title}", "", description, "", "| option | meaning |", "|---|---|")
    for action in parser._actions:
        shown = f"`{action.option_strings[0]}`" if action.option_strings else action.dest.upper()
        yield f"| {shown} | {action.help}{_choices(action)} |"


def _choices(action: argparse.Action) -> str:
    return f" One of {', '.join(map(str, action.choices))}." if action.choices else ""


def _command_section(title: str, command: Any) -> Iterator[str]:
    summary = (command.help or "").split("\n\n")[0]
    yield from ("", f"## edgesam {title}", "", " ".join(summary.split()), "")
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


def model_rows() -> Iterator[str]:
    """One row for each published model: licence, download, times of model-speed.md, quality, memory of an image."""
    speeds = _speeds()
    for model in PUBLISHED.values():
        speed = speeds.get(model.architecture, {})
        in_memory, in_redis = _image_mib(model.architecture)
        cells = [
            f"`{model.name}`",
            model.licence.short_title,
            f"{model.approximate_bytes / 1e6:.0f}",
            speed.get("encode ms, 2 threads", "-"),
            speed.get("click ms, 2 threads", "-"),
            _clicks(model),
            next((f"{figure.value}" for figure in model.quality if figure.measure == COCO_AP), "-"),
            f"{in_memory:.0f}",
            f"{in_redis:.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _speeds() -> dict[str, dict[str, str]]:
    """Return the cells of the first table of model-speed.md by architecture and column."""
    lines = [line for line in MODEL_SPEED.read_text().partition("\n## ")[0].splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}


def _clicks(model: PublishedModel) -> str:
    figures = {figure.measure: figure.value for figure in model.quality}
    if SA_23_ONE_CLICK not in figures:
        return "-"
    return f"{figures[SA_23_ONE_CLICK]}, {figures[SA_23_FIVE_CLICKS]}"


def _image_mib(architecture: str) -> tuple[float, float]:
    """Return the MiB of an image with float16 embeddings and the decoder in C: in memory, and in Redis."""
    has_maps = ARCHITECTURES[architecture].mask_decoder == "sam2"
    kept = [TOKENS_SHAPE, *((S1_SHAPE, S0_SHAPE) if has_maps else ())]
    embedding = sum(2 * math.prod(shape) for shape in kept)
    return (embedding + 2 * math.prod(PACKED_SHAPE)) / _MIB, embedding / _MIB


PAGES: Mapping[str, tuple[str, str, Callable[[], Iterator[str]]]] = {
    "settings": ("settings.md", "| variable | default | meaning |\n|---|---|---|\n", setting_rows),
    "metrics": ("metrics.md", "| metric | kind | labels | meaning |\n|---|---|---|---|\n", metric_rows),
    "problems": ("problems.md", "| status | code | meaning |\n|---|---|---|\n", problem_rows),
    "commands": ("cli.md", "", command_rows),
    "models": (
        "../how-to/compare-models.md",
        (
            "| model | licence | download MB | encode ms | click ms "
            "| clicks mIoU | COCO AP | memory MiB | Redis MiB |\n"
            "|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
        ),
        model_rows,
    ),
}
"""By name of a table: the page that has it, from docs/reference, its header, and its rows."""


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
