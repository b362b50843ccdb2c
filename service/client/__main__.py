"""Entry point of the command line: `python -m service.client`, `python -m edgesam_client` and `edgesam-client`."""

import sys


def main() -> int:
    """Run the command line, which ends the process. Return 1 if one of its packages is missing."""
    try:
        from .command import app  # noqa: PLC0415 - a missing package gets the hint below
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "httpx"}:
            raise
        print(f"error: the command needs {error.name}: pip install httpx typer rich", file=sys.stderr)  # noqa: T201
        return 1
    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
