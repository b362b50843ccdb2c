"""The model that experiments serve: the bundled one, an artifact, or one of an architecture with seeded weights."""

from pathlib import Path

from model_store.architectures import ARCHITECTURES, architecture
from service.manifest import MANIFEST_NAME
from service.settings import BUNDLED_MODEL


class UnknownModelError(ValueError):
    """A text is neither the folder of an artifact nor the name of an architecture."""


def artifact_of(model: str | None, folder: Path) -> Path:
    """Return the folder of an artifact.

    Args:
        model: Folder of an artifact, or name of an architecture. None: the bundled model.
        folder: Folder in which the artifact of an architecture is made.

    Raises:
        UnknownModelError: `model` is neither.
    """
    if model is None:
        return BUNDLED_MODEL
    if (Path(model) / MANIFEST_NAME).is_file():
        return Path(model).absolute()
    if model not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnknownModelError(
            f"{model!r} is neither the folder of an artifact nor an architecture; there are {known}"
        )
    return _seeded(model, folder)


def _seeded(name: str, folder: Path) -> Path:
    """Make the artifact of an architecture with the weights of the reference arrays."""
    from support.family_checkpoints import write_checkpoint

    from model_store.export.convert import convert_checkpoint
    from model_store.export.model_info import ModelInfo

    checkpoint = write_checkpoint(name, folder / "checkpoint.pt")
    info = ModelInfo(licence=architecture(name).licence, trained=False, training_data="none: seeded weights")
    convert_checkpoint(checkpoint, folder / name, name=name, info=info, architecture=name)
    checkpoint.unlink()
    return folder / name
