"""Options that the commands of training share, and functions that apply them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from model_store.errors import ModelStoreError, UsageError

if TYPE_CHECKING:
    import torch

    from model_store.network.model import PromptableModel
    from model_store.training.data.annotations import PhotoRecord
    from model_store.training.loop.distributed import DistributedContext
    from model_store.training.loop.run import RunConfig
    from model_store.training.tasks import BatchFactory

Made = TypeVar("Made")

Precision = Literal["auto", "float32", "bfloat16"]

Data = Annotated[
    list[str],
    typer.Option(
        help="Photos with masks: a folder with annotations.jsonl, an SA-1B folder, or COCO-style annotations.json"
        "[:IMAGES]. May be repeated."
    ),
]
LicenceClass = Annotated[list[str] | None, typer.Option(help="Licence class of the photos to take. May be repeated.")]
Out = Annotated[
    Path, typer.Option(help="Folder for state, checkpoints, log and curves. Keep it outside the repository.")
]
Minutes = Annotated[float, typer.Option(min=0.0, help="Budget in minutes of training.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Budget in steps instead of minutes, which makes a run repeatable.")
]
Continue = Annotated[bool, typer.Option("--continue", help="Continue the run in --out with the rest of its budget.")]
Resume = Annotated[
    str | None,
    typer.Option(
        help="Starting point of a new budget: the folder of a run (with its moments), a checkpoint (.safetensors or "
        ".pth), or the name of a bundled model."
    ),
]
LearningRateOption = Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")]
WarmUp = Annotated[
    int, typer.Option(min=0, help="Number of steps of the learning rate's warm-up. A run with moments has none.")
]
Fall = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Last share of the budget, in which the learning rate decays.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of batches, prompts and initial weights.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(min=0, help="Number of threads of this process on a CPU. 0 leaves it to torch.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Number format of computing. auto: bfloat16 on CUDA, float32 on a CPU.")
]
Nice = Annotated[int, typer.Option(min=0, max=19, help="CPU niceness, 0 to 19. 19 has the lowest priority.")]
SaveEvery = Annotated[float, typer.Option("--save-every", min=1.0, help="Seconds between saved states.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Number of processes that make batches, for each training process. 0 makes them in it. "
                 "Default: 1, with CUDA the number of cores."),
]  # fmt: skip
FrameSize = Annotated[int, typer.Option(min=32, help="Side of the frame, in pixels.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of photos of a step, over all processes.")]


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

    Args:
        out: Folder of the run.
        minutes: Budget in minutes of training.
        steps: Budget in steps instead of minutes; None for none.
        highest: Highest learning rate.
        warm_up: Number of steps of the warm-up.
        fall: Last share of the budget, in which the learning rate decays, 0..1.
        device: Device of the run.
        precision: Number format of computing.
        others: Other members of `RunConfig`.

    Raises:
        UsageError: An option is out of its range.
    """
    from model_store.training.loop.run import RunConfig  # noqa: PLC0415 - the command line starts without torch
    from model_store.training.loop.schedule import LearningRate  # noqa: PLC0415 - the same

    if not minutes and not steps:
        raise UsageError("give --minutes or --steps")
    rate = as_usage_error(lambda: LearningRate(highest, warm_up_steps=warm_up, fall=fall))
    bfloat16 = is_bfloat16(precision, device)
    return RunConfig(folder=out, minutes=minutes, steps=steps, learning_rate=rate, bfloat16=bfloat16, **others)


def is_bfloat16(precision: Precision, device: "torch.device") -> bool:
    """Return whether to compute in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def prepare_process(context: "DistributedContext", device: str, *, threads: int, nice: int) -> "torch.device":
    """Set priority and threads of this process, and return its device.

    Args:
        context: Rank and world size of this process.
        device: Name of the device.
        threads: Number of threads on a CPU; 0 leaves it to torch.
        nice: CPU niceness, 0..19.

    Raises:
        UsageError: The device does not exist.
    """
    import torch  # noqa: PLC0415 - the command line starts without torch

    from model_store.training.loop.device import use_device  # noqa: PLC0415 - the same
    from model_store.training.loop.process_priority import lower_priority  # noqa: PLC0415 - the same

    if nice:
        lower_priority(nice)
    if threads:
        torch.set_num_threads(threads)
    return as_usage_error(lambda: use_device(device, context))


def check_frame_size(model: "PromptableModel", frame_size: int) -> None:
    """Check that a model's encoder takes frames of a size, in pixels.

    Raises:
        UsageError: The encoder does not take it.
    """
    multiple = model.image_encoder.frame_multiple
    if frame_size % multiple:
        raise UsageError(f"--frame-size of {model.architecture.name} is a multiple of {multiple}, not {frame_size}")


def worker_count(workers: int | None, device: "torch.device", context: "DistributedContext") -> int:
    """Return the number of loader workers: 1 on a CPU, where they compete with training; beside a GPU all cores."""
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
) -> "BatchFactory":
    """Return the function that makes batches of letterboxed photos.

    Args:
        records: Photos with masks.
        frame_size: Side of the frame, in pixels.
        batch: Number of photos of a step, over all processes.
        max_prompts: Largest number of prompts of a photo.
        workers: Number of loader workers; None for the default of the device.
        seed: Seed of the order.
        device: Device of the run.
        context: Rank and world size of this process.
    """
    from model_store.training.data.letterboxed import LetterboxedPhotos, endless_batches  # noqa: PLC0415 - needs torch

    photos = LetterboxedPhotos(records, frame_size, max_prompts=max_prompts, seed=seed)
    size, count = max(batch // context.world_size, 1), worker_count(workers, device, context)
    return lambda first_step: endless_batches(photos, size, workers=count, seed=seed + first_step, rank=context.rank)


def read_training_records(data: list[str], licence_class: list[str] | None) -> "list[PhotoRecord]":
    """Return the photos of several data sets without those that are set aside.

    Args:
        data: Data sets, as `read_annotations` takes them.
        licence_class: Licence classes to take; None takes all.

    Raises:
        ModelStoreError: A data set cannot be read, or no photo is left.
    """
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - not all commands need it
    from model_store.training.data.set_aside import without_set_aside  # noqa: PLC0415 - the same

    records = without_set_aside(
        record for source in data for record in read_annotations(source, licence_classes=licence_class)
    )
    if not records:
        raise ModelStoreError(f"{', '.join(data)} has only photos that are set aside (training/data/set_aside.txt)")
    return records


def as_usage_error(make: Callable[[], Made]) -> Made:
    """Return the result of `make`, and turn its ValueError into a UsageError.

    Args:
        make: Function that may raise ValueError for a value of the command line.

    Raises:
        UsageError: `make` has raised a ValueError.
    """
    try:
        return make()
    except ValueError as error:
        raise UsageError(str(error)) from error
