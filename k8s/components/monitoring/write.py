"""Writes what is made of other files here: the PrometheusRule of rules.yaml, and the board of board.py."""

import json
from pathlib import Path

from board import board

HERE = Path(__file__).parent

HEAD = """\
# Written by `make monitoring` from rules.yaml: change that.
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
    """Every file that is made, and what stands in it."""
    rules = (HERE / "rules.yaml").read_text()
    groups = rules[rules.index("groups:\n") :]
    return {
        HERE / "prometheus-rule.yaml": HEAD + "".join(f"  {line}" if line.strip() else line for line in lines(groups)),
        HERE / "dashboards" / "edgesam.json": json.dumps(board(), indent=1, ensure_ascii=False) + "\n",
    }


def lines(text: str) -> list[str]:
    """With their ends."""
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    for path, content in derived().items():
        path.write_text(content)
