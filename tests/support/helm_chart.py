"""The Helm chart k8s/chart: rendered as objects, linted and packaged."""

import functools
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.manifests import K8S, ROOT, Manifests

CHART = K8S / "chart"
Values = Mapping[str, Any]


_PYTHON = ROOT / ".venv" / "ops" / "bin" / "python"


class HelmRefused(Exception):
    """Helm refuses the values or a template. The message is Helm's."""


@functools.cache
def why_not() -> str | None:
    """Return the reason why this machine has no Helm, or None if it has."""
    if (
        _PYTHON.exists()
        and not subprocess.run([_PYTHON, "-c", "import helm_python"], capture_output=True, check=False).returncode
    ):
        return None
    return (
        "helm-python-sdk is not installed; `make ops-test` does it, except on Linux on arm64, for which it has no wheel"
    )


@functools.cache
def _helm(action: str, values: str, *folder: str, chart: Path = CHART) -> Any:
    script = Path(__file__).with_name("helm_template.py")
    done = subprocess.run(
        [str(_PYTHON), str(script), action, str(chart), *folder],
        input=values, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise HelmRefused(done.stderr)
    return json.loads(done.stdout)


def templates(values: Values, *, chart: Path = CHART) -> dict[str, str]:
    """Return the rendered text of each template by its name, with NOTES.txt.

    Args:
        values: Values that differ from the defaults.
        chart: Folder or archive of the chart.

    Raises:
        HelmRefused: Helm refuses the values.
    """
    rendered: dict[str, str] = _helm("render", json.dumps(values), chart=chart)
    return {name.rpartition("/")[2]: text for name, text in rendered.items()}


def text_of(values: Values) -> str:
    """Return all objects as YAML documents."""
    return "\n---\n".join(text for name, text in templates(values).items() if name.endswith(".yaml"))


def objects(values: Values) -> Manifests:
    """Return the objects of the chart with these values."""
    return Manifests("chart", text_of(values))


def lint(values: Values) -> list[dict[str, Any]]:
    """Return the findings of `helm lint --strict`."""
    found: list[dict[str, Any]] = _helm("lint", json.dumps(values))
    return found


def package(folder: Path) -> Path:
    """Package the chart into `folder`, and return the archive."""
    return Path(_helm("package", "{}", str(folder)))
