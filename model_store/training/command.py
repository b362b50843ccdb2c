"""The commands `train` and `granularity`, alone or under torchrun; torch is imported when one of them runs."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.errors import UsageError
from model_store.extras import require_model_extra
from model_store.training import options
from model_store.training.loop.progress import train_progress

if TYPE_CHECKING:
    from model_store.training.data.annotations import PhotoRecord
    from model_store.training.data.windows.dataset import WindowDataset, WindowSize
    from model_store.training.loop.distributed import DistributedContext
    from model_store.training.loop.run import EvalFn, Run, RunConfig
    from model_store.training.loop.state import RunState
    from model_store.training.tasks import Task

WINDOWS = "256:6:0.60,512:2:0.25,1024:1:0.15"


def train(
    data: options.Data,
    *,
    out: options.Out,
    validation: Annotated[
        list[str] | None, typer.Option(help="Photos with masks for validation during training. May be repeated.")
    ] = None,
    validation_stride: Annotated[int, typer.Option(min=1, help="Validate on every k-th of those photos.")] = 1,
    resume: options.Resume = None,
    is_continued: options.Continue = False,
    architecture: Annotated[
        str | None, typer.Option(help="Architecture: edgesam-lite (the default without --resume) or edgesam.")
    ] = None,
    minutes: options.Minutes = 60.0,
    steps: options.Steps = None,
    windows: Annotated[
        str,
        typer.Option(
            help="Window sizes as SIDE:BATCH:SHARE, …: side in pixels of the frame of 1024, windows a step in each "
            "process, share of the steps."
        ),
    ] = WINDOWS,
    end_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the budget after which the first window size is left out.")
    ] = 0.9,
    batch_scale: Annotated[
        int | None,
        typer.Option(
            min=1, help="Factor of all batches. Default: 1, with CUDA as large as its memory allows, at most 16."
        ),
    ] = None,
    boxes: Annotated[int, typer.Option(min=1, help="Number of box prompts of a window.")] = 3,
    points: Annotated[int, typer.Option(min=1, help="Number of point prompts of a window.")] = 3,
    corrections: Annotated[
        str, typer.Option(help="Shares of the steps with 0, 1, 2, … corrections. Their sum is 1.")
    ] = "0.4,0.2,0.2,0.2",
    mask_prompt: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of the corrections that use the earlier mask as a mask prompt."),
    ] = 0.4,
    learning_rate: options.LearningRateOption = 7e-4,
    warm_up: options.WarmUp = 60,
    fall: options.Fall = 0.33,
    clip: Annotated[
        float, typer.Option(min=0.0, help="Largest norm of the gradient; a longer one is scaled down.")
    ] = 3.0,
    licence_class: options.LicenceClass = None,
    workers: options.Workers = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    precision: options.PrecisionOption = "auto",
    nice: options.Nice = 0,
    validate_every: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Minutes of training between validations. Default: a fifth of --minutes, at most 20."
        ),
    ] = None,
    save_every: options.SaveEvery = 180.0,
) -> None:
    """Train on annotated masks for some minutes. A run can be stopped at any time and continued.

    [bold]Examples[/bold]

    edgesam models train --data data/train --validation data/validation --out out/run1 --minutes 150

    edgesam models train --data photos/annotations.json --resume edgesam-lite --out out/mine --minutes 10

    torchrun --nproc-per-node 2 -m model_store train --data data/train --out out/run1 --minutes 150 --nice 19

    edgesam models train --data data/train --out out/run1 --minutes 150 --continue
    """  # fmt: skip
    require_model_extra()
    from model_store.training.data.windows.dataset import parse_windows  # noqa: PLC0415 - needs torch
    from model_store.training.data.windows.loader import WindowLoader  # noqa: PLC0415 - the same
    from model_store.training.loop.device import scale_of_batches, to_device  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import distributed_context  # noqa: PLC0415 - the same
    from model_store.training.loop.optimiser import OptimiserConfig  # noqa: PLC0415 - the same
    from model_store.training.objectives.annotated import AnnotatedLoop  # noqa: PLC0415 - the same
    from model_store.training.resume import starting_point  # noqa: PLC0415 - the same
    from model_store.training.tasks import AnnotatedTask  # noqa: PLC0415 - the same

    check_run_folder(out, resume=resume, is_continued=is_continued)
    sizes = options.as_usage_error(lambda: parse_windows(windows))
    loop = options.as_usage_error(lambda: AnnotatedLoop(corrections=_shares(corrections), mask_prompt=mask_prompt))
    with distributed_context() as context:
        torch_device = options.prepare_process(context, device, threads=threads, nice=nice)
        config = options.make_config(
            out, minutes, steps, highest=learning_rate, warm_up=warm_up, fall=fall, device=torch_device,
            precision=precision, seed=seed, save_every_s=save_every,
            validate_every_s=60 * (validate_every or min(20.0, minutes / 5) or 20.0),
            optimiser=OptimiserConfig(clip=clip),
        )  # fmt: skip
        start = starting_point(out if is_continued else resume, architecture, seed=seed)
        records = options.read_training_records(data, licence_class)
        scale = scale_of_batches(batch_scale, torch_device, sizes, prompts=boxes + points)
        scaled = [replace(size, batch=size.batch * scale) for size in sizes]
        loader = WindowLoader(
            _window_datasets(records, scaled, boxes=boxes, points=points),
            seed=seed, rank=context.rank, workers=options.worker_count(workers, torch_device, context),
            end_share=end_share, pin_memory=torch_device.type == "cuda",
        )  # fmt: skip
        task = options.as_usage_error(lambda: AnnotatedTask(to_device(start.model, torch_device), loader, loop))
        eval_fn = _validation(validation, validation_stride, context) if validation else None
        run_task(
            config,
            task,
            context,
            state=start.state,
            is_continued=is_continued,
            eval_fn=eval_fn,
            is_trained=start.is_trained,
        )


def granularity(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Model whose encoder the module uses: .pth, .safetensors or the name of a bundled model."),
    ],
    *,
    data: options.Data,
    out: options.Out,
    minutes: options.Minutes = 60.0,
    steps: options.Steps = None,
    is_continued: options.Continue = False,
    resume: options.Resume = None,
    frame_size: options.FrameSize = 512,
    batch: options.BatchSize = 8,
    max_boxes: Annotated[int, typer.Option(min=1, help="Largest number of boxes of a photo.")] = 40,
    learning_rate: options.LearningRateOption = 1e-3,
    warm_up: options.WarmUp = 60,
    licence_class: options.LicenceClass = None,
    workers: options.Workers = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    precision: options.PrecisionOption = "auto",
    nice: options.Nice = 0,
    save_every: options.SaveEvery = 180.0,
) -> None:
    """Train the granularity module, which proposes boxes for point prompts, on a frozen encoder.

    [bold]Examples[/bold]

    edgesam models granularity out/run1/model.safetensors --data data/train --out out/boxes --minutes 60
    """
    require_model_extra()
    from model_store.network.granularity_module import granularity_module  # noqa: PLC0415 - the same
    from model_store.training.loop.device import to_device  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import distributed_context  # noqa: PLC0415 - the same
    from model_store.training.resume import load_weights, module_start  # noqa: PLC0415 - the same
    from model_store.training.tasks import GranularityTask  # noqa: PLC0415 - the same

    check_run_folder(out, resume=resume, is_continued=is_continued)
    with distributed_context() as context:
        torch_device = options.prepare_process(context, device, threads=threads, nice=nice)
        config = options.make_config(
            out, minutes, steps, highest=learning_rate, warm_up=warm_up, fall=1.0, device=torch_device,
            precision=precision, seed=seed, save_every_s=save_every,
        )  # fmt: skip
        model = load_weights(checkpoint)
        options.check_frame_size(model, frame_size)
        module = options.as_usage_error(lambda: granularity_module(model.image_encoder))
        state = module_start(out if is_continued else resume, module, model.image_encoder)
        records = options.read_training_records(data, licence_class)
        batches = options.photo_batches(
            records, frame_size, batch=batch, max_prompts=max_boxes, workers=workers, seed=seed, device=torch_device,
            context=context,
        )  # fmt: skip
        task = GranularityTask(to_device(model, torch_device), module.to(torch_device), batches)
        run_task(config, task, context, state=state, is_continued=is_continued, is_trained=resume is not None)


def check_run_folder(out: Path, *, resume: str | None, is_continued: bool) -> None:
    """Check that a run may write into its folder.

    Args:
        out: Folder of the run.
        resume: Value of --resume.
        is_continued: Whether --continue is given.

    Raises:
        UsageError: The options contradict each other, or another run would be lost.
    """
    from model_store.training.loop.state import STATE_NAME  # noqa: PLC0415 - the command line starts without torch

    if is_continued and resume:
        raise UsageError("--continue uses the rest of a budget, --resume starts a new budget; give only one of them")
    is_same = resume is not None and Path(resume).resolve() == out.resolve()
    if (out / STATE_NAME).exists() and not is_continued and not is_same:
        raise UsageError(
            f"{out} contains a run; --continue continues it, --resume {out} starts a new budget with its weights, "
            "and another --out leaves it alone"
        )


def run_task(
    config: "RunConfig",
    task: "Task[Any]",
    context: "DistributedContext",
    *,
    state: "RunState | None",
    is_continued: bool,
    eval_fn: "EvalFn | None" = None,
    is_trained: bool = True,
) -> None:
    """Train a task, show its progress, and print the path of its weights.

    Args:
        config: Budget and settings of the run.
        task: Task to train.
        context: Rank and world size of this process.
        state: State to continue with; None for none.
        is_continued: Whether the rest of the state's budget is used, or a new budget.
        eval_fn: Validation of the averaged weights; None for none.
        is_trained: Whether the weights are trained already.

    Raises:
        UsageError: The budget is used up.
    """
    from model_store.training.loop.run import Run  # noqa: PLC0415 - the command line starts without torch

    with train_progress() as show_progress:
        on_progress = show_progress if context.is_first else lambda _progress: None
        run = Run(config, task, eval_fn=eval_fn, context=context, on_progress=on_progress, is_trained=is_trained)
        if state is not None:
            run.load(state, fresh_budget=not is_continued)
        if run.progress >= 1.0:
            raise UsageError(
                f"the budget of {config.folder} is used up; --resume {config.folder} starts a new one with its weights"
            )
        with _stopped_by_signals(run):
            run.train()
    if context.is_first:
        weights = config.folder / task.weights_name
        typer.echo(f"weights are in {weights} after {run.minutes:.1f} minutes, {run.step} steps")


def _window_datasets(
    records: "Sequence[PhotoRecord]", sizes: "Sequence[WindowSize]", *, boxes: int, points: int
) -> "list[WindowDataset]":
    """Return a data set of augmented windows for each size."""
    from model_store.training.data.windows.augmentation import Augmentation  # noqa: PLC0415 - needs torch
    from model_store.training.data.windows.dataset import WindowDataset  # noqa: PLC0415 - the same

    augmentation = Augmentation()
    return [WindowDataset(records, size, boxes=boxes, points=points, augmentation=augmentation) for size in sizes]


def _shares(text: str) -> tuple[float, ...]:
    """Return the numbers of ``0.4,0.2,0.2,0.2``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--corrections takes shares such as 0.4,0.2,0.2,0.2, not {text!r}") from None


def _validation(data: list[str], stride: int, context: "DistributedContext") -> "EvalFn":
    """Return the validation on photos, which are divided among the processes."""
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - only for validation
    from model_store.training.loop.validation import ValidationSet, validate  # noqa: PLC0415 - needs torch

    records = [record for source in data for record in read_annotations(source)]
    photos = ValidationSet.of(records, every=stride, rank=context.rank, world_size=context.world_size)
    return lambda model: validate(model, photos, sum_over_processes=context.sum)


@contextmanager
def _stopped_by_signals(run: "Run") -> Iterator[None]:
    """End the run after its step, with its state saved, on SIGINT and SIGTERM."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda _number, _frame: run.stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
