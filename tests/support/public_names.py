"""The names that clients, dashboards and operators depend on. `python tests/support/public_names.py` writes them.

`docs/reference/openapi.json` is the OpenAPI document with every adapter switched on. `tests/api/public_names.json` has
the names of settings, metrics with their labels, and problem codes with their statuses.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from prometheus_client import CollectorRegistry  # noqa: E402
from support.openapi_changes import breaking_changes  # noqa: E402

from service import errors  # noqa: E402
from service.api.adapters import ADAPTERS  # noqa: E402
from service.api.problems import FRAMEWORK_PROBLEMS  # noqa: E402
from service.app import create_app  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.telemetry.metrics import Metrics  # noqa: E402

OPENAPI_FILE: Final = ROOT / "docs" / "reference" / "openapi.json"
NAMES_FILE: Final = ROOT / "tests" / "api" / "public_names.json"
COMMAND: Final = "python tests/support/public_names.py"


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of a service with all adapters, as JSON gives it back."""
    app = create_app(Settings(adapters=sorted(ADAPTERS)))
    document: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    del document["info"]["version"]
    return document


def public_names() -> dict[str, Any]:
    """Return the names of settings, metrics and problems as the code has them."""
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ServiceError) and kind is not errors.ServiceError
    ]
    problems = {kind.code: [kind.status, kind.title] for kind in classes}
    problems |= {code: [status, title] for status, (code, title) in FRAMEWORK_PROBLEMS.items()}
    return {
        "settings": sorted(f"EDGESAM_{name.upper()}" for name in Settings.model_fields),
        "metrics": dict(sorted(_metrics().items())),
        "problems": dict(sorted(problems.items())),
    }


def removed_names(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what `new` lacks or has changed, one line for each name; both as from `public_names`."""
    lines = [f"setting {name} is missing" for name in old["settings"] if name not in new["settings"]]
    for kind in ("metrics", "problems"):
        for name, value in old[kind].items():
            if name not in new[kind]:
                lines.append(f"{kind}: {name} is missing")
            elif new[kind][name] != value:
                lines.append(f"{kind}: {name} was {value} and is {new[kind][name]}")
    return lines


def as_text(value: Any) -> str:
    """Return the text of a committed file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _metrics() -> dict[str, dict[str, Any]]:
    found = {}
    for metric in vars(Metrics(CollectorRegistry())).values():
        if hasattr(metric, "describe") and hasattr(metric, "_labelnames"):
            (described,) = metric.describe()
            total = "_total" if described.type == "counter" else ""
            found[f"{described.name}{total}"] = {"type": described.type, "labels": list(metric._labelnames)}
    return found


def main() -> int:
    """Write both files; refuse where that would hide that a name was removed or changed."""
    document, names = openapi_document(), public_names()
    lost: list[str] = []
    if OPENAPI_FILE.exists():
        lost += breaking_changes(json.loads(OPENAPI_FILE.read_text(encoding="utf-8")), document)
    if NAMES_FILE.exists():
        lost += removed_names(json.loads(NAMES_FILE.read_text(encoding="utf-8")), names)
    if lost:
        print("These changes break clients. Undo them, or delete the file first:", *lost, sep="\n", file=sys.stderr)
        return 1
    OPENAPI_FILE.write_text(as_text(document), encoding="utf-8")
    NAMES_FILE.write_text(as_text(names), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
