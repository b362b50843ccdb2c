"""The starting point of a run: the state of a run, a checkpoint, a bundled model, or initial weights."""

from dataclasses import dataclass
from pathlib import Path

from model_store.architectures import ARCHITECTURES
from model_store.checkpoint import CheckpointError, load_checkpoint, load_granularity
from model_store.errors import ModelStoreError, UsageError
from model_store.network.encoders.image_encoder import ImageEncoder
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel, build_model
from model_store.training.initial import initial_model
from model_store.training.loop.state import STATE_NAME, RunState, load_state
from model_store.training.options import as_usage_error
from model_store.training.tasks import GRANULARITY
from model_store.training.trainable import training_problem

BUNDLED_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
DEFAULT_ARCHITECTURE = "edgesam-lite"
CHECKPOINT_SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The starting point of a run.

    Args:
        model: Model with its weights, on the CPU.
        state: State to load, which has its own weights; None if there is only the model.
        is_trained: Whether the weights are trained.
    """

    model: PromptableModel
    state: RunState | None = None
    is_trained: bool = True


def starting_point(resume: str | Path | None, architecture: str | None, *, seed: int) -> StartingPoint:
    """Read the starting point of a run.

    Args:
        resume: Folder of a run, checkpoint file, or name of a bundled model; a `Path` is a folder of a run. None: the
            pretrained backbone if the architecture has one, else initial weights.
        architecture: Name of the architecture. None: that of `resume`, or the default.
        seed: Seed of initial weights.

    Raises:
        UsageError: `resume` is none of these, or has another architecture, or training does not know it.
        ModelStoreError: A state or checkpoint cannot be read.
    """
    if resume is None:
        name = architecture or DEFAULT_ARCHITECTURE
        _check_trainable(name)
        return StartingPoint(as_usage_error(lambda: initial_model(seed, name)), is_trained=False)
    if isinstance(resume, Path) or (Path(resume).is_dir() and resume not in bundled_names()):
        state = load_state(Path(resume))
        if state.architecture == GRANULARITY:
            raise UsageError(f"{resume} is a run of the granularity module; the command 'granularity' resumes it")
        _check_trainable(state.architecture)
        start = StartingPoint(build_model(state.architecture), state)
    else:
        start = StartingPoint(load_weights(resume))
    found = start.model.architecture.name
    _check_trainable(found)
    if architecture is not None and architecture != found:
        raise UsageError(f"{resume} has the architecture {found}, not {architecture}; leave --architecture out")
    return start


def _check_trainable(name: str) -> None:
    """Refuse an architecture that training does not know; an unknown name is left to the network's own check."""
    if name in ARCHITECTURES and (problem := training_problem(ARCHITECTURES[name])):
        raise UsageError(problem)


def load_weights(source: str) -> PromptableModel:
    """Load a checkpoint file, or a bundled checkpoint by its name.

    Raises:
        UsageError: The source is neither.
        ModelStoreError: The file cannot be read.
    """
    path = BUNDLED_CHECKPOINTS / f"{source}.safetensors" if source in bundled_names() else Path(source)
    if not path.is_file() or path.suffix not in CHECKPOINT_SUFFIXES:
        hint = f"; give its folder, {path.parent}" if path.name == STATE_NAME else ""
        raise UsageError(
            f"{source} is neither the folder of a run, nor a checkpoint ({' or '.join(CHECKPOINT_SUFFIXES)}), "
            f"nor a bundled model ({', '.join(bundled_names()) or 'there are none here'}){hint}"
        )
    try:
        return load_checkpoint(path)
    except (CheckpointError, OSError) as error:
        raise ModelStoreError(str(error)) from error


def module_start(resume: str | Path | None, module: GranularityModule, encoder: ImageEncoder) -> RunState | None:
    """Load the starting point of a run of the granularity module.

    Args:
        resume: Folder of a run of the module, or a file of its weights (.pth), which are loaded; a `Path` is a folder.
            None: initial weights.
        module: Module to train.
        encoder: Encoder whose stages the module reads.

    Returns:
        The state to load, if `resume` is a run.

    Raises:
        UsageError: `resume` is a run of another task.
        ModelStoreError: A state or a file of weights cannot be read.
    """
    if resume is None:
        return None
    if isinstance(resume, Path) or Path(resume).is_dir():
        state = load_state(Path(resume))
        if state.architecture != GRANULARITY:
            raise UsageError(f"{resume} is a run of {state.architecture}; the command 'train' or 'distill' resumes it")
        return state
    try:
        module.load_state_dict(load_granularity(resume, encoder).state_dict())
    except (CheckpointError, OSError) as error:
        raise ModelStoreError(str(error)) from error
    return None


def bundled_names() -> list[str]:
    """Return the names of the checkpoints in the repository."""
    return sorted(path.stem for path in BUNDLED_CHECKPOINTS.glob("*.safetensors"))
