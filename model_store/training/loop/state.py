"""The state of a run on disk: one file with everything that continues the run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from model_store.errors import ModelStoreError
from model_store.training.loop.optimiser import Moments

STATE_NAME = "state.pt"


class StateError(ModelStoreError):
    """The folder contains no state that a run can continue; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that continues a run.

    Args:
        architecture: Name of the model's architecture, or of the granularity module.
        model: Weights by name.
        ema: Averaged weights by name.
        ema_steps: Number of updates of the average.
        moments: The optimiser's moments by parameter name.
        step: Number of steps in all budgets.
        images: Number of images in all budgets.
        first_step: Step at which the present budget began.
        spent_s: Seconds of training in earlier budgets.
        used_s: Seconds of training in the present budget.
        best_score: Highest validation score so far, or None before the first validation.
    """

    architecture: str
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    ema_steps: int
    moments: Moments
    step: int
    images: int
    first_step: int
    spent_s: float
    used_s: float
    best_score: float | None


def save_state(state: RunState, folder: Path) -> Path:
    """Write a state in one step: if the process is killed meanwhile, the previous state remains."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{STATE_NAME}.new"
    torch.save({field.name: getattr(state, field.name) for field in fields(state)}, fresh)
    fresh.replace(folder / STATE_NAME)
    return folder / STATE_NAME


def load_state(folder: Path) -> RunState:
    """Read the state of a run's folder. Only tensors and plain containers are unpickled, no code of the file runs.

    Raises:
        StateError: The folder contains no state, or this version cannot read it.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise StateError(f"{folder} contains no {STATE_NAME}; give the --out folder of a run that has saved its state")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes raise errors of many types
        lines = str(error).splitlines() or [type(error).__name__]
        raise StateError(f"{path} cannot be read: {lines[0]}") from error
    names = {field.name for field in fields(RunState)}
    if not isinstance(content, Mapping) or set(content) != names:
        raise StateError(f"{path} is not a state of this version; resume from the checkpoint of that run instead")
    return RunState(**content)
