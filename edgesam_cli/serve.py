"""`edgesam serve`: makes sure that the models are here, then hands the process over to the service."""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, find_artifact
from model_store.catalogue.published import PUBLISHED
from model_store.command_errors import EXPECTED, line_and_exit_code
from model_store.errors import ModelStoreError
from service.extras import install_command

_STORE_DIR_VARIABLE = "EDGESAM_STORE_DIR"
_MODELS_DIR_SETTING = "EDGESAM_MODELS_DIR"
_MIRROR_VARIABLE = "EDGESAM_MIRROR"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of the command; None leaves the setting of the environment.

    Args:
        models: Names or folders of the models, the default one first; empty for those of the settings.
        settings: Values of settings by environment variable, for those that an option replaces.
        models_dir: Folder of fetched models.
        mirror: Base address to fetch from.
        sha256: SHA-256 of the checkpoint to fetch; empty for the catalogue's.
        accept_licence: Whether the user accepts the licence of the model to fetch.
    """

    models: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    models_dir: str | None = None
    mirror: str | None = None
    sha256: str = ""
    accept_licence: bool = False


def serve(options: ServeOptions) -> int:
    """Fetch the models that are not here, and replace this process by the service.

    Args:
        options: Options of the command.

    Returns:
        Exit status where the service is not started: 1 or 2. Otherwise the function does not return.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        print(f"error: serving needs onnxruntime; run: {install_command('cpu')}", file=sys.stderr)
        return 2
    try:
        directories = [_present(name, options) for name in options.models]
    except EXPECTED as error:
        line, exit_code = line_and_exit_code(error)
        print(line, file=sys.stderr)
        return exit_code
    environment = service_environment(os.environ, options, directories)
    sys.stdout.flush()
    sys.stderr.flush()
    return os.execve(sys.executable, [sys.executable, "-m", "service"], environment)  # noqa: S606 - our own module, no shell


def service_environment(
    environment: Mapping[str, str], options: ServeOptions, directories: Sequence[Path]
) -> dict[str, str]:
    """Return the environment of the service.

    Args:
        environment: Environment of this process.
        options: Options of the command.
        directories: Folders of the models, the default one first; empty for those of the settings.
    """
    result = {**environment, **options.settings}
    # As in `make serve`: glibc reads it when a process starts.
    result.setdefault("MALLOC_ARENA_MAX", "1")
    # Where POST /models/reload looks models up.
    result.setdefault(_MODELS_DIR_SETTING, str(models_directory(environment, options.models_dir)))
    if directories:
        result.pop("EDGESAM_MODELS", None)
        result["EDGESAM_MODEL_DIR"] = str(directories[0])
    if len(directories) > 1:
        result["EDGESAM_MODELS"] = ",".join(str(directory.absolute()) for directory in directories)
    return result


def models_directory(environment: Mapping[str, str], option: str | None = None) -> Path:
    """Return the folder of models: of the option, of the model store's variable, or of the service's."""
    stated = option or environment.get(_STORE_DIR_VARIABLE) or environment.get(_MODELS_DIR_SETTING)
    return Path(stated or DEFAULT_MODELS_DIRECTORY)


def _present(name: str, options: ServeOptions) -> Path:
    """Return the folder of a model, after fetching and converting a published one that is not here.

    Raises:
        ModelStoreError: There is no such model, or it cannot be fetched or converted.
    """
    models_dir = models_directory(os.environ, options.models_dir)
    try:
        return find_artifact(name, models_dir)
    except ModelStoreError:
        if name not in PUBLISHED:
            raise
    from model_store.export.from_checkpoint import ExportOptions  # noqa: PLC0415 - needed only here
    from model_store.fetching.fetch_command import Source, fetch_model  # noqa: PLC0415 - needs the extra `store`
    from model_store.make_model import time_made_model  # noqa: PLC0415 - the same

    source = Source(mirror=options.mirror or os.environ.get(_MIRROR_VARIABLE, ""), sha256=options.sha256)
    fetch_model(
        PUBLISHED[name], models_dir, source, ExportOptions(), accept_licence=options.accept_licence, force=False
    )
    time_made_model(models_dir / name)
    return find_artifact(name, models_dir)
