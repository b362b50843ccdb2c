"""Checks that the packages of an optional extra are installed, before any work begins."""

import importlib.util

from model_store.errors import ModelStoreError
from service.extras import install_command

STORE_PACKAGES = ("onnx",)
MODEL_PACKAGES = ("torch", "onnx")


def require_store_extra() -> None:
    """Check that onnx is installed; converting a checkpoint needs it.

    Raises:
        ModelStoreError: It is missing. The message names the command that installs it.
    """
    _require(STORE_PACKAGES, "converting a checkpoint", "store")


def require_model_extra() -> None:
    """Check that torch and onnx are installed; exporting, training and running checkpoints need them.

    Raises:
        ModelStoreError: A package is missing. The message names the package and the command that installs it.
    """
    _require(MODEL_PACKAGES, "making a model with torch", "model")


def _require(packages: tuple[str, ...], purpose: str, extra: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModelStoreError(f"{purpose} needs {package}, which is not installed; run: {install_command(extra)}")
