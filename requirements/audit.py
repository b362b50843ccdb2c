"""Audit of the pinned dependencies: withdrawn releases and published vulnerabilities.

`make audit` runs it with an interpreter that has pip-audit. Exit status: 0 no findings, 1 findings, 2 incomplete,
because an index or the vulnerability service did not answer for every pin.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent / "serve.lock"
_TIMEOUT_S = 300


def main() -> int:
    """Ask the index and the vulnerability service, and print their findings."""
    pins = re.findall(r"^[\w.-]+==", LOCK.read_text(), re.MULTILINE)
    print(f"{len(pins)} pins in {LOCK.name}")
    status = 0
    for ask in (_withdrawn, _vulnerable):
        found, unknown = ask()
        for line in found:
            print(f"FOUND    {line}")
        for line in unknown:
            print(f"UNKNOWN  {line}")
        status = max(status, 2 if unknown else 1 if found else 0)
    print(("nothing is known against them", "something is known against them", "not everything could be asked")[status])
    return status


def _withdrawn() -> tuple[list[str], list[str]]:
    """Return releases that their authors have withdrawn (PEP 592), from the configured index. Installs nothing."""
    order = ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--require-hashes"]
    asked = _run("pip", *order, "--report", "-", "-r", str(LOCK))
    try:
        items = json.loads(asked.stdout)["install"]
    except ValueError:
        return [], [f"the index does not answer: {_last_line(asked.stderr)}"]
    names = (f"{item['metadata']['name']} {item['metadata']['version']}" for item in items if item.get("is_yanked"))
    return [f"{name} was withdrawn" for name in names], []


def _vulnerable() -> tuple[list[str], list[str]]:
    """Return published vulnerabilities, from PyPI's service."""
    order = ["--requirement", str(LOCK), "--require-hashes", "--no-deps", "--disable-pip", "--timeout", "10"]
    asked = _run("pip_audit", *order, "--format", "json", "--progress-spinner", "off")
    try:
        items = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        return [], [f"the vulnerability service does not answer: {_last_line(asked.stderr)}"]
    found = [
        f"{item['name']} {item['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no release'}"
        for item in items
        for flaw in item.get("vulns", ())
    ]
    unknown = [f"{item['name']}: {item['skip_reason'].split(':')[0]}" for item in items if "skip_reason" in item]
    return found, unknown


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


if __name__ == "__main__":
    sys.exit(main())
