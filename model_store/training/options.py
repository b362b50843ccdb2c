"""Options that several commands of training share, and what they become."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from model_store.catalog import ModelStoreError, UsageError

if TYPE_CHECKING:
    import torch

    from model_store.network.model import PromptableModel
    from model_store.training.data.annotations import PhotoRecord
    from model_store.training.loop.distributed import DistributedContext
    from model_store.training.loop.run import RunConfig
    from model_store.training.tasks import Batches

Made = TypeVar("Made")

Precision = Literal["auto", "float32", "bfloat16"]

Data = Annotated[
    list[str],
    typer.Option(
        help="Photos with masks: a folder with annotations.jsonl, an SA-1B folder, or COCO-style annotations.json"
        "[:IMAGES]; may be repeated."
    ),
]
LicenceClass = Annotated[
    list[str] | None, typer.Option(help="Take only photos of this licence class; may be repeated.")
]
Out = Annotated[Path, typer.Option(help="Folder for state, checkpoints, log and curves; outside the repository.")]
Minutes = Annotated[float, typer.Option(min=0.0, help="Budget: minutes of training.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Budget in steps instead; makes a run repeatable.")]
Continue = Annotated[bool, typer.Option("--continue", help="Go on with the state in --out: the rest of its budget.")]
Resume = Annotated[
    str | None,
    typer.Option(
        help="Begin a new budget with this: the folder of a run (with its moments), a checkpoint (.safetensors or "
        ".pth), or the name of a bundled model."
    ),
]
LearningRateOption = Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")]
WarmUp = Annotated[int, typer.Option(min=0, help="Steps in which the learning rate rises; none with old moments.")]
Fall = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Last share of the budget, in which the learning rate falls.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of batches, prompts and initial weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads of this process on a CPU; 0 leaves it to torch.")]
PrecisionOption = Annotated[Precision, typer.Option(help="auto: bfloat16 on CUDA, float32 on a CPU.")]
Nice = Annotated[int, typer.Option(min=0, max=19, help="CPU priority; 19 takes only what others leave.")]
SaveEvery = Annotated[float, typer.Option("--save-every", min=1.0, help="Seconds between saved states.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that make batches, for each training process; 0 makes them in it. "
                 "Default: 1, with CUDA all cores."),
]  # fmt: skip
FrameSize = Annotated[int, typer.Option(min=32, help="Side of the frame, pixels.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos a step, of all processes.")]


def make_config(
    out: Path,
    minutes: float,
    steps: int | None,
    *,
    highest: float,
    warm_up: int,
    fall: float,
    device: "torch.device",
    precision: Precision,
    **others: Any,
) -> "RunConfig":
    """Return the configuration of a run.

    Raises:
        UsageError: an option is out of its range.
    """
    from model_store.training.loop.run import RunConfig  # noqa: PLC0415 - the command line starts without torch
    from model_store.training.loop.schedule import LearningRate  # noqa: PLC0415 - the same

    if not minutes and not steps:
        raise UsageError("give --minutes or --steps")
    rate = valid(lambda: LearningRate(highest, warm_up_steps=warm_up, fall=fall))
    bfloat16 = is_bfloat16(precision, device)
    return RunConfig(folder=out, minutes=minutes, steps=steps, learning_rate=rate, bfloat16=bfloat16, **others)


def is_bfloat16(precision: Precision, device: "torch.device") -> bool:
    """Return whether to compute in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def prepare_process(context: "DistributedContext", device: str, *, threads: int, nice: int) -> "torch.device":
    """Set priority and threads of this process, and return its device."""
    import torch  # noqa: PLC0415 - the command line starts without torch

    from model_store.training.loop.device import use_device  # noqa: PLC0415 - the same
    from model_store.training.loop.niceness import lower_priority  # noqa: PLC0415 - the same

    if nice:
        lower_priority(nice)
    if threads:
        torch.set_num_threads(threads)
    return valid(lambda: use_device(device, context))


def check_frame_size(model: "PromptableModel", frame_size: int) -> None:
    """Check that a model's encoder takes frames of this size.

    Raises:
        UsageError: it does not.
    """
    multiple = model.image_encoder.frame_multiple
    if frame_size % multiple:
        raise UsageError(f"--frame-size of {model.architecture.name} is a multiple of {multiple}, not {frame_size}")


def worker_count(workers: int | None, device: "torch.device", context: "DistributedContext") -> int:
    """Return the number of loader workers: on a CPU they compete with training, so one; beside a GPU all cores."""
    if workers is not None:
        return workers
    if device.type != "cuda":
        return 1
    return max(len(os.sched_getaffinity(0)) // context.local_world_size, 1)


def photo_batches(
    records: "list[PhotoRecord]",
    frame_size: int,
    *,
    batch: int,
    max_prompts: int,
    workers: int | None,
    seed: int,
    device: "torch.device",
    context: "DistributedContext",
) -> "Batches":
    """Return what makes batches of whole photos for the tasks that learn from them."""
    from model_store.training.data.letterboxed import LetterboxedPhotos, endless_batches  # noqa: PLC0415 - needs torch

    photos = LetterboxedPhotos(records, frame_size, max_prompts=max_prompts, seed=seed)
    size, count = max(batch // context.world_size, 1), worker_count(workers, device, context)
    return lambda first_step: endless_batches(photos, size, workers=count, seed=seed + first_step, rank=context.rank)


def read_training_records(data: list[str], licence_class: list[str] | None) -> "list[PhotoRecord]":
    """Return the photos of several data sets that training may see: all but those that are set aside for choices.

    Raises:
        ModelStoreError: a data set cannot be read, or nothing is left of it.
    """
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - not all commands need it
    from model_store.training.data.set_aside import without_set_aside  # noqa: PLC0415 - the same

    records = without_set_aside(
        record for place in data for record in read_annotations(place, licence_classes=licence_class)
    )
    if not records:
        raise ModelStoreError(f"{', '.join(data)} has only photos that are set aside (training/data/set_aside.txt)")
    return records


def valid(make: Callable[[], Made]) -> Made:
    """Return what `make` returns; a value that it refuses is the command's fault.

    Raises:
        UsageError: `make` has raised a ValueError.
    """
    try:
        return make()
    except ValueError as error:
        raise UsageError(str(error)) from error
