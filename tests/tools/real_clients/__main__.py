"""Drives the real labelling tools against a service: `make client-test`, or `python tests/tools/real_clients [NAME …]`.

Each file of this folder with a function `main` is such a script, and can be started by itself. Files whose name
continues that of a script are its parts. It installs its tool into
an environment below build/real-clients, starts the tool and a service on loopback, uses the tool as a person does,
compares what the tool got with /segment, prints a line for each check, and stops everything that it started. Its exit
status is not 0 if a check failed. The tools are large and are installed from a package registry, so this is no part of
`make test`.
"""

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run the named scripts, or all, one after the other, and end with the number of those that failed."""
    names = sys.argv[1:] or scripts()
    failed = [name for name in names if not passes(name)]
    print(f"{len(names) - len(failed)} of {len(names)} tools passed" + "".join(f"; failed: {name}" for name in failed))
    sys.exit(len(failed))


def passes(name: str) -> bool:
    """Run a script, and return whether its exit status was 0."""
    print(f"--- {name}", flush=True)
    return subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode == 0


def scripts() -> list[str]:
    """Return the names of the scripts. `x_page.py` is a part of the script `x.py`."""
    names = sorted(path.stem for path in HERE.glob("*.py") if defines_main(path))
    return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]


def defines_main(path: Path) -> bool:
    """Return whether a file here is a script, and not this one."""
    body = ast.parse(path.read_text()).body
    return path.stem != "__main__" and any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body)


if __name__ == "__main__":
    main()
