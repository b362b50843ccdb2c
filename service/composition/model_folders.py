"""The folders of the models that the settings and a reload name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.manifest import MANIFEST_NAME, ManifestError, load_manifest
from service.settings import BUNDLED_MODEL, Settings

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # as in a manifest
_MOST_LISTED: Final = 20


class UnknownModel(ValueError):
    """No folder has a model of this name. The message lists those that there are."""


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """The places of models, from the settings.

    Args:
        order: Models to serve after the start, the default first: names and folders.
        models_dir: Folder with a subfolder for each model.
        model_dir: Folder of EDGESAM_MODEL_DIR.
    """

    order: Sequence[str | Path]
    models_dir: Path
    model_dir: Path

    @classmethod
    def of(cls, settings: Settings) -> "ModelFolders":
        """Return the places that the settings name."""
        entries = [Path(entry).expanduser() if "/" in entry else entry for entry in settings.models]
        return cls(entries or [settings.model_dir], settings.models_dir, settings.model_dir)

    def configured(self) -> list[Path]:
        """Return the folders of the models to serve after the start, the default first.

        Raises:
            UnknownModel: A name has no folder.
            ManifestError: A folder has no usable manifest, or has that of another name.
        """
        return [entry if isinstance(entry, Path) else self.folder(entry) for entry in self.order]

    def folder(self, name: str) -> Path:
        """Return the folder of a model.

        Args:
            name: Name of the model. It is no path: text of another form names no model.

        Raises:
            UnknownModel: No folder has this model.
            ManifestError: The folder has no usable manifest, or has the model of another name.
        """
        for folder in (entry for entry in self.order if isinstance(entry, Path)):
            if load_manifest(folder).name == name:
                return folder
        candidates = [place / name for place in self._places()] if _NAME.fullmatch(name) else []
        if self.model_dir.name == name:
            candidates.insert(1, self.model_dir)
        for folder in candidates:
            if (folder / MANIFEST_NAME).is_file():
                found = load_manifest(folder).name
                if found != name:
                    raise ManifestError(
                        f"{folder}: holds the model {found!r}, not {name!r}. Rename the folder, or name it in "
                        f"EDGESAM_MODELS as a folder with a slash"
                    )
                return folder
        raise UnknownModel(
            f"there is no model {name!r} in {self.models_dir} or among the bundled ones. There are: "
            f"{', '.join(self._names()) or 'none'}. `edgesam models list` shows those that can be fetched"
        )

    def _places(self) -> tuple[Path, ...]:
        return (self.models_dir, BUNDLED_MODEL.parent)

    def _names(self) -> list[str]:
        """Return the names of the folders that hold a model, at most some."""
        found = {path.parent.name for place in self._places() for path in place.glob(f"*/{MANIFEST_NAME}")}
        if (self.model_dir / MANIFEST_NAME).is_file():
            found.add(self.model_dir.name)
        return sorted(found)[:_MOST_LISTED]
