"""The catalogue: models that can be fetched, and models that are installed.

A *published* model is a checkpoint of other authors, with its addresses, length, hash and licence. An *installed* model
is a directory with a manifest, bundled with the package or made in the models directory.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
BUNDLED_DIRECTORY = Path(__file__).parent / "artifacts"
# Starting points of training. Only the repository has them: wheels and container images do not train.
CHECKPOINTS_DIRECTORY = Path(__file__).parent / "checkpoints"
DEFAULT_MODELS_DIRECTORY = Path("models")

State = Literal["bundled", "imported", "fetched", "downloaded", "available", "broken"]


class ModelStoreError(Exception):
    """An error that the user can act on; the message is one line that says what to do."""

    exit_code = 1


class UsageError(ModelStoreError):
    """The command does not do what was asked; nothing was started."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Licence:
    """Licence of a checkpoint.

    Args:
        title: Title of the licence.
        summary: Description of its conditions in our own words.
        url: Address of the binding text.
    """

    title: str
    summary: str
    url: str


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A checkpoint that other authors publish.

    Args:
        name: Name of the model in this catalogue.
        file_name: Name of the checkpoint file.
        urls: Addresses of the same file, in the order in which they are tried.
        size_bytes: Exact length of the file, in bytes.
        sha256: SHA-256 of the file, lower-case hex.
        licence: Licence of the checkpoint.
        summary: Description of the model, one line.
        training_data: Training data, as its authors state it.
    """

    name: str
    file_name: str
    urls: tuple[str, ...]
    size_bytes: int
    sha256: str
    licence: Licence
    summary: str
    training_data: str


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
    """

    name: str
    state: State
    directory: Path | None
    size_bytes: int
    licence: str
    trained: bool | None
    fingerprint: str | None
    detail: str


S_LAB = Licence(
    title="S-Lab License 1.0 (non-commercial)",
    summary=(
        "Copyright 2022 S-Lab. You may use, change and pass on the model for non-commercial purposes, as long as the "
        "copyright notice, the conditions and the disclaimer stay with it and the names of the authors are not used to "
        "promote what you make. Commercial use needs a permission from the authors. There is no warranty. The authors "
        "put the whole project under these terms; whether they meant the weights too was asked in public and not "
        "answered, so treat the weights as covered. This is a description, not the licence and not legal advice."
    ),
    url="https://github.com/chongzhou96/EdgeSAM/blob/master/LICENSE",
)


def _official_urls(file_name: str) -> tuple[str, ...]:
    return (
        f"https://huggingface.co/chongzhou/EdgeSAM/resolve/main/{file_name}",
        f"https://huggingface.co/spaces/chongzhou/EdgeSAM/resolve/main/weights/{file_name}",
    )


# Sizes and hashes as the hosting site lists them (docs/explanation/model.md, section 10).
PUBLISHED: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name="edge-sam",
            file_name="edge_sam.pth",
            urls=_official_urls("edge_sam.pth"),
            size_bytes=38_807_540,
            sha256="439b086a20ab6fba90c12cba32e0001ba3aa726da5791ff8738acdd440330991",
            licence=S_LAB,
            summary="EdgeSAM as published by its authors",
            training_data="1 % of SA-1B, distilled from SAM ViT-H (stated by its authors)",
        ),
        PublishedModel(
            name="edge-sam-3x",
            file_name="edge_sam_3x.pth",
            urls=_official_urls("edge_sam_3x.pth"),
            size_bytes=38_807_540,
            sha256="5a3e3261da9e2f4c8154410885689ae57d09cbf4cf5d0c848b9d80b6df336ece",
            licence=S_LAB,
            summary="EdgeSAM trained on three times the images, as published by its authors",
            training_data="3 % of SA-1B, distilled from SAM ViT-H (stated by its authors)",
        ),
    )
}


def check_name(name: str) -> str:
    """Return a name that is valid as a directory's name; raise UsageError for any other."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a model name: 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


def published_model(name: str) -> PublishedModel:
    """Return the published model of a name; raise UsageError, with the existing names, if there is none."""
    if check_name(name) not in PUBLISHED:
        raise UsageError(f"no published model is called {name!r}; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def published_with_hash(sha256: str | None) -> PublishedModel | None:
    """Return the published model whose checkpoint has this SHA-256; None if there is none."""
    return next((model for model in PUBLISHED.values() if model.sha256 == sha256), None)


def find_artifact(name_or_directory: str, models_directory: Path) -> Path:
    """Return the directory of an installed model.

    Args:
        name_or_directory: Name of a model, or path of a directory with a manifest. Names are looked up in the models
            directory first, then among the bundled models.
        models_directory: Directory of fetched and imported models.

    Raises:
        ModelStoreError: No model is installed under that name.
    """
    from service.manifest import MANIFEST_NAME  # noqa: PLC0415 - needs pydantic, and training only these errors

    candidates = [Path(name_or_directory)]
    if NAME_PATTERN.fullmatch(name_or_directory) is not None:
        candidates = [models_directory / name_or_directory, BUNDLED_DIRECTORY / name_or_directory, *candidates]
    for candidate in candidates:
        if (candidate / MANIFEST_NAME).is_file():
            return candidate
    hint = (
        f"run 'fetch {name_or_directory}' first"
        if name_or_directory in PUBLISHED
        else "'list' shows the models that exist"
    )
    raise ModelStoreError(f"no model at {name_or_directory!r}, neither in {models_directory} nor bundled; {hint}")


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
        return CatalogEntry(directory.name, "broken", directory, 0, "unknown", None, None, str(error))
    origin: State = "imported" if published_with_hash(manifest.source_sha256) is None else "fetched"
    return CatalogEntry(
        name=directory.name,
        state="bundled" if is_bundled else origin,
        directory=directory,
        size_bytes=sum(file.size_bytes for file in manifest.files),
        licence=manifest.licence,
        trained=manifest.trained,
        fingerprint=manifest.fingerprint,
        detail=manifest.notes or f"trained on: {manifest.training_data}",
    )


def _absent_entry(model: PublishedModel, models_directory: Path) -> CatalogEntry:
    is_downloaded = (models_directory / model.file_name).is_file()
    return CatalogEntry(
        name=model.name,
        state="downloaded" if is_downloaded else "available",
        directory=None,
        size_bytes=model.size_bytes,
        licence=model.licence.title,
        trained=True,
        fingerprint=None,
        detail=f"{model.summary}; trained on {model.training_data}",
    )
