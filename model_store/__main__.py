"""`python -m model_store`: the command line, or a hint when its packages are missing."""

import sys


def main() -> int:
    """Run the command line, which ends the process; 1 when the extra is missing."""
    try:
        from model_store.cli import app  # noqa: PLC0415 - the hint below is the point
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "httpx"}:
            raise
        print(f"error: the model store needs {error.name}: pip install 'edgesam-service[model]'", file=sys.stderr)
        return 1
    app(prog_name="python -m model_store")
    return 0


if __name__ == "__main__":
    sys.exit(main())
