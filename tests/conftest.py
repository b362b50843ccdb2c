"""Fixtures of all test suites: exported models with random weights, and the service in a process of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from prometheus_client import CollectorRegistry
from support.made_once import made_once
from support.redis_server import RedisServer

from service.telemetry.metrics import Metrics

# As `python -m service` sets them, before anything imports NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# On a busy machine any example can take longer than Hypothesis's deadline of 200 ms.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model artifact with random float32 weights, whose masks are neither empty nor full."""
    return made_once(tmp_path_factory, "random-model", _export_random) / "random"


@pytest.fixture(scope="session")
def proposing_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`artifact` with the granularity module, exported from two files by the command line."""
    return made_once(tmp_path_factory, "proposing-model", _export_proposing) / "proposing"


@pytest.fixture(scope="session")
def edgetam_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EdgeTAM with seeded weights, converted from a checkpoint with the keys of the published one."""
    return made_once(tmp_path_factory, "edgetam-model", _convert_edgetam) / "edgetam"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis that all tests of a process share."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def metrics() -> Metrics:
    """Metrics in a registry of their own."""
    return Metrics(CollectorRegistry())


@pytest.fixture(scope="session")
def service_url(artifact: Path) -> Iterator[str]:
    """Address of a service with default settings and without Redis, shared by tests that change nothing."""
    from support.service_process import ServiceProcess

    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact)}) as service:
        yield service.url


@pytest.fixture(scope="session")
def two_models_url(artifact: Path) -> Iterator[str]:
    """Address of a service with the bundled model and, second, the one of `artifact`; with all adapters."""
    from support.service_process import ServiceProcess

    from service.settings import BUNDLED_MODEL

    settings = {
        "EDGESAM_MODELS": f"{BUNDLED_MODEL},{artifact}",
        "EDGESAM_ADAPTERS": "cvat,label-studio,roboflow,x-anylabeling",
    }
    with ServiceProcess(settings) as service:
        yield service.url


def _export_random(folder: Path) -> None:
    from support.random_model import random_model
    from support.torch_threads import torch_on_one_thread

    from model_store.export.artifact import export_model
    from model_store.export.model_info import ModelInfo

    info = ModelInfo(licence="none", trained=False, source_sha256=None, training_data="none: random weights")
    with torch_on_one_thread():
        export_model(random_model(), folder / "random", name="random", info=info, weights="float32")


def _export_proposing(folder: Path) -> None:
    import torch
    from support.random_model import random_granularity, random_model
    from support.torch_threads import torch_on_one_thread
    from typer.testing import CliRunner

    from model_store.checkpoint import save_checkpoint
    from model_store.cli import app

    checkpoint, module, directory = folder / "edgesam.pth", folder / "boxes.pth", folder / "proposing"
    model = random_model()
    save_checkpoint(model, checkpoint)
    torch.save(random_granularity(model).state_dict(), module)
    order = ["export", checkpoint, "--granularity", module, "--out", directory, "--licence", "none", "--untrained"]
    with torch_on_one_thread():
        result = CliRunner().invoke(app, [*map(str, order), "--weights", "float32"])
    assert result.exit_code == 0, result.output


def _convert_edgetam(folder: Path) -> None:
    from support.sam2_weights import write_sam2_checkpoint
    from support.torch_threads import torch_on_one_thread

    from model_store.export.convert import convert_checkpoint
    from model_store.export.model_info import ModelInfo

    info = ModelInfo(licence="Apache-2.0", trained=False, training_data="none: seeded weights")
    checkpoint = write_sam2_checkpoint("edgetam", folder / "edgetam.pt")
    with torch_on_one_thread():
        convert_checkpoint(checkpoint, folder / "edgetam", name="edgetam", info=info, architecture="edgetam")
