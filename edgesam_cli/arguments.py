"""Options of `edgesam serve`, and the summaries of the other commands.

argparse reads them, because Typer is an extra that serving does not need.
"""

import argparse
from typing import Final, NamedTuple

from service import __version__

SERVE_DESCRIPTION: Final = (
    "Serve models over HTTP. A published model that is not here is fetched (its licence is shown), converted and kept. "
    "All other settings are environment variables: docs/reference/settings.md, or `python -m service --help`."
)
SUMMARIES: Final = {
    "serve": "serve a model over HTTP; fetches and converts it first where it is not here",
    "models": "list, fetch, import, export, verify, evaluate and train models",
    "keys": "make an API key, or check a file of keys",
    "segment": "cut an object, or all objects, out of an image by a running service",
    "embed": "embed an image or a folder ahead of the first prompt, by a running service",
}
"""By command: the line about it in `edgesam --help`."""


class SettingOption(NamedTuple):
    """An option of `edgesam serve` that replaces a setting of the service.

    Args:
        setting: Name of the setting.
        metavar: Stand-in for the value in the help.
        help: Description, without the variable.
        value_type: Type of the value.
        choices: Values that there are; empty where there are many.
    """

    setting: str
    metavar: str | None
    help: str
    value_type: type[str] | type[int] = str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--{self.setting.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable of the setting."""
        return f"EDGESAM_{self.setting.upper()}"


SETTING_OPTIONS: Final = (
    SettingOption("host", "ADDRESS", "Address to listen on"),
    SettingOption("port", "PORT", "Port to listen on", int),
    SettingOption("redis_url", "URL", "Redis that shares embeddings"),
    SettingOption("threads", "N", "Computing threads", int),
    SettingOption("provider", None, "Execution provider", choices=("auto", "cpu", "openvino", "cuda", "tensorrt")),
    SettingOption("disk_cache_dir", "FOLDER", "Folder in which embeddings are kept over restarts"),
    SettingOption("api_keys_file", "FILE", "File of API keys, which 'edgesam keys new' makes"),
    SettingOption("adapters", "NAMES", "Labelling tools to answer, separated by commas"),
    SettingOption(
        "log_level", None, "Least severe level that is logged", choices=("debug", "info", "warning", "error")
    ),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of `edgesam`. The commands beside `serve` parse their own words."""
    result = argparse.ArgumentParser(
        prog="edgesam",
        description="Segment objects in images with one click, over HTTP.",
        epilog="`edgesam COMMAND --help` shows the options of a command. Exit status: 0 done, 1 failed, 2 the command "
        "cannot do what was asked, 130 interrupted.",
    )
    result.add_argument("--version", action="version", version=f"EdgeSAM service {__version__}")
    result.add_argument(
        "--install-completion", action="store_true", help="let this shell complete the words of this command"
    )
    result.add_argument(
        "--show-completion",
        nargs="?",
        metavar="SHELL",
        help="print the script for it, for this shell or for bash, zsh, fish or powershell",
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in SUMMARIES.items():
        if name == "serve":
            add_serve_options(commands.add_parser(name, help=summary, description=SERVE_DESCRIPTION))
        else:
            commands.add_parser(name, help=summary, add_help=False)
    return result


def add_serve_options(serve: argparse.ArgumentParser) -> None:
    """Add the options of `edgesam serve`. Each one that is not given leaves the setting of the environment."""
    serve.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="Model to serve: a name that 'edgesam models list' shows, or a folder. May be repeated; the first is the "
        "default (EDGESAM_MODEL_DIR, EDGESAM_MODELS). Without it the settings decide: the bundled model.",
    )
    for option in SETTING_OPTIONS:
        serve.add_argument(
            option.flag,
            dest=option.setting,
            type=option.value_type,
            choices=option.choices or None,
            metavar=option.metavar,
            help=f"{option.help} ({option.variable}).",
        )
    serve.add_argument("--models-dir", metavar="FOLDER", help="Folder of fetched models (EDGESAM_STORE_DIR).")
    serve.add_argument("--mirror", metavar="URL", help="Base address to fetch from (EDGESAM_MIRROR).")
    serve.add_argument("--sha256", default="", metavar="HASH", help="SHA-256 of the checkpoint, if none is published.")
    serve.add_argument(
        "--accept-licence", action="store_true", help="I have read the licence that is shown and keep to it."
    )
