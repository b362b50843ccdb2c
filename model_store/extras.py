"""Checks that the packages of an optional extra are installed, before any work begins."""

import importlib.util

from model_store.catalog import ModelStoreError

MODEL_PACKAGES = ("torch", "onnx")


def require_model_extra() -> None:
    """Check that torch and onnx are installed; exporting, training and running checkpoints need them.

    Raises:
        ModelStoreError: A package is missing. The message names the package and the command that installs it.
    """
    for package in MODEL_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ModelStoreError(
                f"making a model needs {package}, which is not installed; run: pip install -e '.[model]'"
            )
