"""The command `edgesam`: `edgesam serve` starts the service, `edgesam models …` runs the model store's commands.

No large module is imported above, so that `edgesam --help` answers at once and `edgesam serve` needs no extra unless a
model has to be fetched.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from service import __version__
from service.extras import install_command

_STORE_PACKAGES: Final = ("typer", "rich", "httpx", "onnx")
SERVE_DESCRIPTION: Final = (
    "Serve models over HTTP. A published model that is not here is fetched (its licence is shown), converted and kept. "
    "All other settings are environment variables: docs/reference/settings.md."
)
_SERVE_HELP: Final = "serve a model over HTTP; fetches and converts it first where it is not here"
_MODELS_HELP: Final = "list, fetch, import, export, verify, evaluate and train models"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `edgesam`; None for those of the process.

    Returns:
        Exit status: 0 done, 1 failed, 2 the command cannot do what was asked. `edgesam serve` does not return once the
        service takes over the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["models"]:
            return _models(words[1:])
        return _serve(parser().parse_args(words))
    except ModuleNotFoundError as error:
        if error.name not in {*_STORE_PACKAGES, "onnxruntime"}:
            raise
        extra = "cpu" if error.name == "onnxruntime" else "store"
        print(f"error: this needs {error.name}: run: {install_command(extra)}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of all words but those after `edgesam models`."""
    result = argparse.ArgumentParser(prog="edgesam", description="Segment objects in images with one click, over HTTP.")
    result.add_argument("--version", action="version", version=f"EdgeSAM service {__version__}")
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_serve_options(commands.add_parser("serve", help=_SERVE_HELP, description=SERVE_DESCRIPTION))
    commands.add_parser("models", help=_MODELS_HELP, add_help=False)
    return result


def add_serve_options(serve: argparse.ArgumentParser) -> None:
    """Add the options of `edgesam serve`. Each one that is not given leaves the setting of the environment."""
    serve.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="Model to serve: a name that 'edgesam models list' shows, or a folder. May be repeated; the first is the "
        "default. Without it the settings decide: the bundled model.",
    )
    serve.add_argument("--host", help="Address to listen on (EDGESAM_HOST).")
    serve.add_argument("--port", type=int, help="Port to listen on (EDGESAM_PORT).")
    serve.add_argument("--redis-url", metavar="URL", help="Redis that shares embeddings (EDGESAM_REDIS_URL).")
    serve.add_argument("--threads", type=int, help="Computing threads (EDGESAM_THREADS).")
    serve.add_argument("--models-dir", metavar="FOLDER", help="Folder of fetched models (EDGESAM_STORE_DIR).")
    serve.add_argument("--mirror", metavar="URL", help="Base address to fetch from (EDGESAM_MIRROR).")
    serve.add_argument("--sha256", default="", metavar="HASH", help="SHA-256 of the checkpoint, if none is published.")
    serve.add_argument(
        "--accept-licence", action="store_true", help="I have read the licence that is shown and keep to it."
    )


def _serve(options: argparse.Namespace) -> int:
    from model_store.serve_command import ServeOptions, serve  # noqa: PLC0415 - see above

    return serve(
        ServeOptions(
            models=tuple(options.model or ()),
            host=options.host,
            port=options.port,
            redis_url=options.redis_url,
            threads=options.threads,
            models_dir=options.models_dir,
            mirror=options.mirror,
            sha256=options.sha256,
            accept_licence=options.accept_licence,
        )
    )


def _models(words: Sequence[str]) -> int:
    from model_store.cli import app  # noqa: PLC0415 - see above

    app(list(words), prog_name="edgesam models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
