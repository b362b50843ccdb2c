"""`python -m service.client`: the command line, or a hint when its packages are missing."""

import sys


def main() -> int:
    """Run the command line, which ends the process; 1 when the extra is missing."""
    try:
        from service.client.command import app  # noqa: PLC0415 - the hint below is the point
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "httpx"}:
            raise
        print(f"error: the client needs {error.name}: pip install 'edgesam-service[client]'", file=sys.stderr)  # noqa: T201
        return 1
    app(prog_name="python -m service.client")
    return 0


if __name__ == "__main__":
    sys.exit(main())
