"""Renders, lints or packages a Helm chart without a cluster, with Helm's own library, which only .venv/ops has.

    python helm_template.py {render|lint|package} CHART [FOLDER] < VALUES

Reads values as JSON. Prints JSON: the rendered text by template, the findings of `helm lint --strict`, or the path of
the package. An error of Helm is printed on standard error, and the exit status is 1.
"""

import json
import sys

import helm_python  # type: ignore[import-not-found]  # only in .venv/ops


def main(action: str, chart: str, *folder: str) -> object:
    """Return what is printed as JSON."""
    values = json.loads(sys.stdin.read() or "{}")
    if action == "lint":
        return helm_python.lint(chart, values, strict=True, namespace="edgesam")["messages"]
    if action == "package":
        return helm_python.package(chart, destination=folder[0])
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        return loaded.render(values, name="edgesam", namespace="edgesam")


if __name__ == "__main__":
    helm_python.disable_logging()
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except helm_python.HelmError as error:
        sys.exit(str(error))
