"""Generate files of this folder: the PrometheusRule from rules.yaml, and the dashboard from board.py."""

import json
from pathlib import Path

from board import board

HERE = Path(__file__).parent

HEAD = """\
# Written by `make monitoring` from rules.yaml. Do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: edgesam
  labels:
    app.kubernetes.io/name: edgesam
    app.kubernetes.io/component: monitoring
spec:
"""


def derived() -> dict[Path, str]:
    """Return the content of every generated file, by its path."""
    rules = (HERE / "rules.yaml").read_text()
    groups = rules[rules.index("groups:\n") :]
    return {
        HERE / "prometheus-rule.yaml": HEAD + "".join(f"  {line}" if line.strip() else line for line in lines(groups)),
        HERE / "dashboards" / "edgesam.json": json.dumps(board(), indent=1, ensure_ascii=False) + "\n",
    }


def lines(text: str) -> list[str]:
    """Return the lines of a text, with their line ends."""
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    for path, content in derived().items():
        path.write_text(content)
