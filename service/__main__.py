"""`python -m service`: serve a model over HTTP until SIGTERM or SIGINT. `--help` shows the most important settings."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final

from service import __version__
from service.extras import missing_package
from service.process import prepare_environment

if TYPE_CHECKING:
    from service.settings import Settings

# No large module is imported above. So `--help` answers at once, and a signal during the imports stops the process.

logger = logging.getLogger("service")

_IMPORTANT_SETTINGS: Final = (
    "host",
    "port",
    "model_dir",
    "models",
    "provider",
    "threads",
    "memory_cache_bytes",
    "redis_url",
    "api_keys_file",
    "adapters",
    "log_level",
    "log_format",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `python -m service`; None for those of the process.

    Returns:
        Exit status; see `service.server.run.run`. A missing package gives 2, as an unknown argument does.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_while_starting)
    try:
        from service.settings import Settings  # noqa: PLC0415 - the handlers have to be set first

        _parser(Settings).parse_args(arguments)
        prepare_environment(os.environ)
        from service.server.run import run  # noqa: PLC0415 - imports NumPy, which reads the environment
    except ModuleNotFoundError as error:
        other = " (or the extra openvino or gpu)" if error.name == "onnxruntime" else ""
        print(f"error: {missing_package(error, 'cpu')}{other}", file=sys.stderr)  # noqa: T201
        return 2
    return run()


def _stop_while_starting(number: int, _: FrameType | None) -> None:
    """Stop until the HTTP server installs its own handlers.

    Without a handler the first process of a container would ignore the signal, load its model and serve.
    """
    logger.info("stopping", extra={"signal": signal.Signals(number).name})
    sys.exit(0)


def _parser(settings: "type[Settings]") -> argparse.ArgumentParser:
    rows = []
    for name in _IMPORTANT_SETTINGS:
        field = settings.model_fields[name]
        default = "unset" if field.get_default(call_default_factory=True) in (None, []) else field.default
        rows.append(f"  EDGESAM_{name.upper()} (default: {default})\n      {field.description}")
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve a model over HTTP until SIGTERM or SIGINT (Ctrl+C).",
        epilog="Settings are environment variables; for example: EDGESAM_PORT=9000 python -m service\n"
        "The most important ones:\n\n" + "\n".join(rows) + "\n\n"
        "docs/reference/settings.md lists all settings.\n"
        "Exit status: 0 after a stop, 1 if the port cannot be bound or the start fails, "
        "2 for a wrong setting or model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"EdgeSAM service {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
