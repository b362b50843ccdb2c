"""`python -m model_store`: the command line, or a hint when its packages are missing."""

import sys

from service.extras import missing_package


def main() -> int:
    """Run the command line, which ends the process; 1 when the extra is missing."""
    try:
        from model_store.cli import app  # noqa: PLC0415 - the hint below is the point

        app(prog_name="python -m model_store")
    except ModuleNotFoundError as error:  # httpx is missed only when something is fetched
        print(f"error: {missing_package(error, 'store')}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
