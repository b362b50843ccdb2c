"""What all rooms share: one exported model with random weights, and the real service in a real process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# As `python -m service` sets them, before anything imports NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served artifact of the conformance weights, whose masks are neither empty nor full; weights in float32."""
    from support.random_model import random_model

    from model_store.export import export_model
    from model_store.model_info import ModelInfo

    directory = tmp_path_factory.mktemp("models") / "random"
    info = ModelInfo(licence="none", trained=False, source_sha256=None, training_data="none: random weights")
    export_model(random_model(), directory, name="random", info=info, weights="float32")
    return directory


@pytest.fixture(scope="session")
def service_url(artifact: Path) -> Iterator[str]:
    """The real process with default settings, shared by tests that leave no trace; without Redis."""
    from support.service_process import ServiceProcess

    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact)}) as service:
        yield service.url
