"""The README's tables as the code has them. `python tests/support/doc_tables.py` prints them to paste."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent.parent)]

from prometheus_client import CollectorRegistry  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402

from service import errors  # noqa: E402
from service.api.problems import FRAMEWORK_PROBLEMS  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.telemetry.metrics import Metrics  # noqa: E402


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
    """One row for each problem: code, status, meaning."""
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ServiceError) and kind is not errors.ServiceError
    ]
    rows = [(kind.status, kind.code, " ".join((kind.__doc__ or "").split()).replace("|", "")) for kind in classes]
    rows += [(status, code, f"{title}.") for status, (code, title) in FRAMEWORK_PROBLEMS.items()]
    for status, code, meaning in sorted(rows):
        yield f"| {status} | `{code}` | {meaning} |"


if __name__ == "__main__":
    for rows in (setting_rows(), metric_rows(), problem_rows()):
        print("\n".join(rows), end="\n\n")
