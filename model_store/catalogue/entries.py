"""The catalogue: models that can be fetched, and models that are installed.

A *published* model is a checkpoint of other authors, with its addresses, length, hash and licence. An *installed* model
is a directory with a manifest, bundled with the package or made in the models directory.
"""

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from model_store.catalogue.published import PUBLISHED, known_licence, published_with_hash
from model_store.catalogue.published_model import PublishedModel, Quality
from model_store.errors import ModelStoreError, UsageError
from model_store.program import store_command
from model_store.timings import Timings, stored_timings
from service.licences import allows_commercial_use

if TYPE_CHECKING:
    from service.manifest import Manifest

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PACKAGE = Path(__file__).parents[1]
BUNDLED_DIRECTORY = _PACKAGE / "artifacts"
# Starting points of training. Only the repository has them: wheels and container images do not train.
CHECKPOINTS_DIRECTORY = _PACKAGE / "checkpoints"
DEFAULT_MODELS_DIRECTORY = Path("models")

ENCODE_OBJECTIVE_S: Final = 2.5
"""The service's latency objective for an image (docs/operations/reliability.md), in seconds."""
TIME_LIMIT_VARIABLE: Final = "EDGESAM_EMBED_TIMEOUT_S"
DEFAULT_TIME_LIMIT_S: Final = 60.0  # the service's; the model store may not import its settings

# Other names of SAM 2's sizes: abbreviations, and none. SAM 2.0 has the sizes of SAM 2.1.
_SAM2_NAME = re.compile(r"sam-?2(?:\.[01])?-?(.*)")
_SAM2_SIZES: Final = {
    "": "tiny", "t": "tiny", "s": "small", "b": "base-plus", "b+": "base-plus", "base": "base-plus",
    "base+": "base-plus", "l": "large",
}  # fmt: skip

State = Literal["bundled", "imported", "fetched", "downloaded", "available", "broken"]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One line of the list.

    Args:
        name: Name of the model.
        state: State of the model: bundled (came with the package), fetched (made from a published checkpoint), imported
            (made from another file), downloaded (the published checkpoint is here, not yet exported), available (can be
            fetched) or broken (a directory whose manifest cannot be read).
        directory: Directory of the artifact; None while there is none.
        size_bytes: Bytes of the artifact's files, or of the checkpoint while there is no artifact.
        licence: Title of the licence.
        trained: Whether the weights were trained; None if that is not known.
        fingerprint: Fingerprint of the artifact; None while there is none.
        detail: Short description, or the reason why the model is broken.
        purpose: Use of the model in one sentence; the reason why the model is broken.
        commercial_use: Whether the licence allows commercial use; None if that is not known.
        licence_label: Short title of the licence for tables; "own terms" for others than the catalogue's.
        quality: Figures with their sources: published ones, or those of the manifest.
        timings: Times on this machine; None while they are not known.
        warning: Reason why the model is too slow here; empty for none.
        command: Command that makes the model ready to serve; empty for an installed one.
        is_size_exact: Whether `size_bytes` is exact.
        is_hash_needed: Whether the user has to state the SHA-256, since none is published.
        is_hash_copied: Whether the SHA-256 in the catalogue is that of copies by others, not one of the authors.
    """

    name: str
    state: State
    directory: Path | None
    size_bytes: int
    licence: str
    trained: bool | None
    fingerprint: str | None
    detail: str
    purpose: str = ""
    commercial_use: bool | None = None
    licence_label: str = ""
    quality: tuple[Quality, ...] = ()
    timings: Timings | None = None
    warning: str = ""
    command: str = ""
    is_size_exact: bool = True
    is_hash_needed: bool = False
    is_hash_copied: bool = False

    @property
    def is_here(self) -> bool:
        """Whether the model is installed."""
        return self.directory is not None


def check_name(name: str) -> str:
    """Return a name that is valid as a directory's name; raise UsageError for any other."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a model name: 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


def published_model(name: str) -> PublishedModel:
    """Return the published model of a name; raise UsageError, with the existing names, if there is none."""
    if name not in PUBLISHED:
        raise UsageError(
            f"no published model is called {name!r}; {_meant(name, [*PUBLISHED])}there are {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[name]


def fetch_command(model: PublishedModel) -> str:
    """Return the command that fetches a published model, as this process was called."""
    hash_option = "" if model.sha256 else " --sha256 HASH"
    return f"{store_command()} fetch {model.name}{hash_option}"


def find_artifact(name_or_directory: str, models_directory: Path) -> Path:
    """Return the directory of an installed model.

    Args:
        name_or_directory: Name of a model, or path of a directory with a manifest. Names are looked up in the models
            directory first, then among the bundled models.
        models_directory: Directory of fetched and imported models.

    Raises:
        ModelStoreError: No model is installed under that name.
    """
    from service.manifest import MANIFEST_NAME  # noqa: PLC0415 - needs pydantic, without which the commands of training run

    candidates = [Path(name_or_directory)]
    if NAME_PATTERN.fullmatch(name_or_directory) is not None:
        candidates = [models_directory / name_or_directory, BUNDLED_DIRECTORY / name_or_directory, *candidates]
    for candidate in candidates:
        if (candidate / MANIFEST_NAME).is_file():
            return candidate
    if name_or_directory in PUBLISHED:
        hint = f"run: {fetch_command(PUBLISHED[name_or_directory])}"
    else:
        meant = _meant(name_or_directory, [*installed_names(models_directory), *PUBLISHED])
        hint = f"{meant}'{store_command()} list' shows the models that exist"
    raise ModelStoreError(f"no model at {name_or_directory!r}, neither in {models_directory} nor bundled; {hint}")


def installed_names(models_directory: Path) -> list[str]:
    """Return the names of the models that are here, those of the models directory first."""
    return [path.name for place in (models_directory, BUNDLED_DIRECTORY) for path in _artifacts(place)]


def bundled_checkpoint(name: str) -> Path | None:
    """Return the checkpoint that this repository holds under a name, or None where it holds none."""
    path = CHECKPOINTS_DIRECTORY / f"{name}.safetensors"
    return path if NAME_PATTERN.fullmatch(name) is not None and path.is_file() else None


def catalog(models_directory: Path) -> list[CatalogEntry]:
    """Return all entries: the bundled models, those of the models directory, then those that can be fetched."""
    bundled = [_installed_entry(path, is_bundled=True) for path in _artifacts(BUNDLED_DIRECTORY)]
    local = [_installed_entry(path, is_bundled=False) for path in _artifacts(models_directory)]
    present = {entry.name for entry in local}
    absent = [_absent_entry(model, models_directory) for model in PUBLISHED.values() if model.name not in present]
    return [*bundled, *local, *absent]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _meant(name: str, names: list[str]) -> str:
    """Return a question that names the closest of these names, with a space behind it; empty where none is close.

    Args:
        name: Name as the user wrote it, perhaps that of the authors' file: ``sam2.1_hiera_tiny.pt``.
        names: Names of models.
    """
    plain = name.lower().removesuffix(".pt").removesuffix(".pth").replace("_", "-").replace("-hiera", "")
    if sam2 := _SAM2_NAME.fullmatch(plain):
        plain = f"sam2.1-{_SAM2_SIZES.get(sam2[1], sam2[1])}"
    close = difflib.get_close_matches(plain, names, n=1)
    return f"did you mean {close[0]}? " if close else ""


def _artifacts(directory: Path) -> list[Path]:
    from service.manifest import MANIFEST_NAME  # noqa: PLC0415 - the same

    if not directory.is_dir():
        return []
    return [
        path
        for path in sorted(directory.iterdir())
        if NAME_PATTERN.fullmatch(path.name) is not None and (path / MANIFEST_NAME).is_file()
    ]


def _installed_entry(directory: Path, *, is_bundled: bool) -> CatalogEntry:
    from service.manifest import ManifestError, load_manifest  # noqa: PLC0415 - the same

    try:
        manifest = load_manifest(directory)
    except ManifestError as error:
        return CatalogEntry(
            directory.name, "broken", directory, 0, "unknown", None, None, str(error), purpose=str(error)
        )
    model = _published_source(directory.name, manifest)
    licence = known_licence(manifest.licence)
    timings = stored_timings(directory)
    origin: State = "imported" if model is None else "fetched"
    return CatalogEntry(
        name=directory.name,
        state="bundled" if is_bundled else origin,
        directory=directory,
        size_bytes=sum(file.size_bytes for file in manifest.files),
        licence=manifest.licence,
        trained=manifest.trained,
        fingerprint=manifest.fingerprint,
        detail=manifest.notes or f"trained on: {manifest.training_data}",
        purpose=manifest.summary
        or (model.purpose if model else manifest.notes)
        or f"Trained on: {manifest.training_data}.",
        commercial_use=allows_commercial_use(manifest.licence),
        licence_label=licence.short_title if licence else "own terms",
        quality=model.quality if model else _measured_quality(manifest),
        timings=timings,
        warning=slowness(timings),
    )


def _absent_entry(model: PublishedModel, models_directory: Path) -> CatalogEntry:
    is_downloaded = (models_directory / model.file_name).is_file()
    return CatalogEntry(
        name=model.name,
        state="downloaded" if is_downloaded else "available",
        directory=None,
        size_bytes=model.size_bytes or model.approximate_bytes,
        licence=model.licence.title,
        trained=True,
        fingerprint=None,
        detail=f"{model.purpose} Trained on {model.training_data}.",
        purpose=model.purpose,
        commercial_use=model.licence.commercial_use,
        licence_label=model.licence.short_title,
        quality=model.quality,
        command=fetch_command(model),
        is_size_exact=model.size_bytes is not None,
        is_hash_needed=model.sha256 is None,
        is_hash_copied=model.sha256_origin == "copies",
    )


def slowness(timings: Timings | None) -> str:
    """Return why a model with these times is too slow for the service on this machine; empty if it is not."""
    if timings is None:
        return ""
    try:
        limit_s = float(os.environ.get(TIME_LIMIT_VARIABLE) or DEFAULT_TIME_LIMIT_S)
    except ValueError:  # the service refuses such a setting when it starts
        limit_s = DEFAULT_TIME_LIMIT_S
    if timings.encode_s > limit_s:
        return (
            f"encoding an image takes {timings.encode_s:.0f} s here, longer than the service's limit of {limit_s:g} s: "
            f"raise {TIME_LIMIT_VARIABLE}, or serve a smaller model"
        )
    if timings.encode_s > ENCODE_OBJECTIVE_S:
        return (
            f"encoding an image takes {timings.encode_s:.1f} s here; the service's objective is {ENCODE_OBJECTIVE_S} s"
        )
    return ""


def _published_source(name: str, manifest: "Manifest") -> PublishedModel | None:
    """Return the published model that an artifact was made from; None for another checkpoint."""
    by_name = PUBLISHED.get(name)
    if by_name is not None and by_name.sha256 is None and manifest.licence.startswith(by_name.licence.title):
        return by_name  # fetched with the hash that the user stated
    return published_with_hash(manifest.source_sha256)


def _measured_quality(manifest: "Manifest") -> tuple[Quality, ...]:
    return tuple(Quality(name, value, "the model's own manifest") for name, value in manifest.measured.items())
