"""The commands of training, alone or under torchrun; torch is imported when one of them runs."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from model_store.catalog import ModelStoreError, UsageError
from model_store.importing import require_extra
from model_store.training.loop.progress import budget, counter

if TYPE_CHECKING:
    import torch

    from model_store.network.model import PromptableModel
    from model_store.training.data.annotations import PhotoRecord
    from model_store.training.data.sources import Source
    from model_store.training.loop.distributed import Processes
    from model_store.training.loop.run import Look, Run, RunConfig
    from model_store.training.tasks import Task

Made = TypeVar("Made")

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
Packed = Annotated[Path | None, typer.Option(help="Photos and masks that 'pack' wrote; they stay in memory.")]
Out = Annotated[Path, typer.Option(help="Folder for state, weights, log and curves; outside the repository.")]
Minutes = Annotated[float, typer.Option(min=0.0, help="Time of training.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Train so many steps instead; makes a run repeatable.")]
GoesOn = Annotated[bool, typer.Option("--continue", help="Go on with the state in --out: the rest of its budget.")]
Start = Annotated[
    Path | None, typer.Option("--from", help="Begin a fresh budget with the state in this folder (may be --out).")
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Begin with the weights of this checkpoint (.pth).")]
Stages = Annotated[str, typer.Option(help="FRAME:SHARE of the budget at which it ends, …; FRAME/FRAME takes turns.")]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Photos a step, of all processes, at --batch-frame; other frames go by area.")
]
BatchFrame = Annotated[int, typer.Option(min=32, help="The frame size that --batch is for, pixels.")]
LearningRate = Annotated[float, typer.Option(min=0.0, help="The highest.")]
Seed = Annotated[int, typer.Option(min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads of this process on a CPU; 0 leaves it to torch.")]
Bf16 = Annotated[bool, typer.Option(help="Compute in bfloat16.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the encoder; pays on a GPU.")]
Validation = Annotated[Path | None, typer.Option(help="Packed photos to measure on meanwhile.")]
LookEvery = Annotated[float, typer.Option(min=1.0, help="Seconds between measurements.")]
SaveEvery = Annotated[float, typer.Option(min=1.0, help="Seconds between saved states.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read photos; 0 reads in the training process.")]
Teacher = Annotated[Path, typer.Option(help="sam_vit_b/l/h.pth or an EdgeSAM checkpoint.")]
Features = Annotated[Path, typer.Option(help="Folder of the teacher's features; 2 MiB a photo.")]
FrameSize = Annotated[int, typer.Option(min=32, help="Side of the frame, pixels; a SAM teacher has 1024.")]


def pack(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the packed photos and masks; up to 1 MB a photo.")],
    licence_class: LicenceClass = None,
    max_side: Annotated[int, typer.Option(min=64, help="Larger photos are reduced to it, pixels.")] = 640,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 1,
) -> None:
    """Decode photos and masks once, into arrays that training maps into memory.

    [bold]Examples[/bold]

    python -m model_store pack --data data/train --data data/train-more --out out/packed
    """
    require_extra()
    from model_store.training.data.sampling import weights  # noqa: PLC0415 - the other commands need no torch
    from model_store.training.data.shelf import build_shelf  # noqa: PLC0415 - the same

    records = _records(data, licence_class)
    with counter("packing photos") as progress:
        shelf = build_shelf(records, weights, max_side=max_side, workers=workers, progress=progress)
    shelf.save(out)
    typer.echo(f"{len(shelf)} photos with {len(shelf.mask_weights)} masks are in {out}, {shelf.nbytes / 2**30:.2f} GiB")


def train(
    packed: Packed = None,
    *,
    data: Annotated[
        list[str] | None, typer.Option(help="Photos with masks, read while training; see 'pack'. Instead of --packed.")
    ] = None,
    licence_class: LicenceClass = None,
    workers: Workers = 2,
    out: Out,
    minutes: Minutes = 60.0,
    steps: Steps = None,
    goes_on: GoesOn = False,
    start: Start = None,
    weights: Weights = None,
    validation: Validation = None,
    stages: Stages = "256:1",
    batch: BatchSize = 16,
    batch_frame: BatchFrame = 256,
    learning_rate: LearningRate = 7e-4,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts a photo, half of them boxes.")] = 8,
    passes: Annotated[int, typer.Option(min=1, help="Decoder passes: the first and its corrections.")] = 2,
    whole: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of photos shown whole.")] = 0.35,
    least_batch: Annotated[int, typer.Option(min=1, help="Photos a step in each process at least.")] = 2,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    bf16: Bf16 = True,
    compile_model: Compile = False,
    look_every_s: LookEvery = 600.0,
    save_every_s: SaveEvery = 180.0,
) -> None:
    """Train on annotated masks for some minutes; may be stopped at any time and continued.

    [bold]Examples[/bold]

    python -m model_store train --packed out/packed --out out/run1 --minutes 60 --stages 256:0.7,512:1

    torchrun --nproc-per-node 2 -m model_store train --packed out/packed --out out/run1 --minutes 60 --threads 1

    python -m model_store train --packed out/packed --out out/run2 --from out/run1 --minutes 30 --stages 1024
    """
    require_extra()
    from model_store.training.data.augmentation import Augmentation  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import joined  # noqa: PLC0415 - the same
    from model_store.training.loop.validation import looking  # noqa: PLC0415 - the same
    from model_store.training.objectives.annotated import AnnotatedLoop  # noqa: PLC0415 - the same
    from model_store.training.tasks import AnnotatedTask  # noqa: PLC0415 - the same

    with joined() as processes:
        where = processes.device(_device_name(device))
        config = _config(
            out, minutes, stages, batch, learning_rate, steps=steps, seed=seed, bf16=bf16, threads=threads,
            compile_model=compile_model, look_every_s=look_every_s, save_every_s=save_every_s, batch_frame=batch_frame,
            least_batch=least_batch,
        )  # fmt: skip
        model = _student(weights, seed, where)
        source = _source(packed, data, licence_class, workers, where)
        loop = _valid(lambda: AnnotatedLoop(prompts=prompts, passes=passes))
        task = AnnotatedTask(model, source, loop, Augmentation(whole=whole))
        look = looking(validation, where) if validation else None
        _train(config, task, look=look, goes_on=goes_on, start=start, processes=processes)


def features(
    data: Data,
    *,
    teacher: Teacher,
    out: Features,
    licence_class: LicenceClass = None,
    frame_size: FrameSize = 1024,
    device: Device = "auto",
    bf16: Bf16 = True,
) -> None:
    """Compute a teacher's features once; an interrupted pass goes on where it stopped.

    [bold]Examples[/bold]

    python -m model_store features --data sa1b/ --teacher sam_vit_h_4b8939.pth --out out/features
    """
    require_extra()
    import torch  # noqa: PLC0415 - the other commands need no torch

    from model_store.training.data.teacher_features import FeatureCache, fill  # noqa: PLC0415 - the same
    from model_store.training.teacher import load_teacher  # noqa: PLC0415 - the same

    records = _records(data, licence_class)
    cache = FeatureCache(out, _names(records), teacher=teacher.name, frame_size=frame_size)
    encoder = load_teacher(teacher).image_encoder
    with counter("embedding photos") as progress:
        where = torch.device(_device_name(device))
        fill(cache, records, encoder, frame_size=frame_size, device=where, bf16=bf16, progress=progress)
    typer.echo(f"features of {len(records)} photos are in {out}")


def distill(
    data: Data,
    *,
    stage: Annotated[
        Literal["encoder", "prompts"],
        typer.Option(help="encoder: learn the teacher's features; prompts: learn its masks, prompts in the loop."),
    ],
    teacher: Teacher,
    teacher_features: Features,
    out: Out,
    licence_class: LicenceClass = None,
    frame_size: FrameSize = 1024,
    division: Annotated[
        Literal["each", "crossed"],
        typer.Option(help="Of the feature loss: each photo by its own size, or crossed as EdgeSAM's code does."),
    ] = "each",
    decoder: Annotated[
        Literal["teacher", "own"],
        typer.Option(help="What stage 'prompts' begins with: the teacher's prompt encoder and decoder, or --weights'."),
    ] = "teacher",
    max_prompts: Annotated[int, typer.Option(min=1, help="Prompts a photo.")] = 16,
    workers: Workers = 2,
    minutes: Minutes = 60.0,
    steps: Steps = None,
    goes_on: GoesOn = False,
    start: Start = None,
    weights: Weights = None,
    batch: Annotated[int, typer.Option(min=1, help="Photos a step, of all processes.")] = 4,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="The highest; default: EdgeSAM's, by batch / 512.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    bf16: Bf16 = True,
    compile_model: Compile = False,
    save_every_s: SaveEvery = 180.0,
) -> None:
    """Distil a teacher: first its features into the encoder, then its masks into encoder and decoder.

    [bold]Examples[/bold]

    python -m model_store distill --stage encoder --data sa1b/ --teacher sam_vit_h_4b8939.pth
    --teacher-features out/features --out out/stage1 --minutes 600

    python -m model_store distill --stage prompts --weights out/stage1/edgesam.pth --data sa1b/
    --teacher sam_vit_h_4b8939.pth --teacher-features out/features --out out/stage2 --minutes 600
    """
    require_extra()
    from model_store.training.data.letterboxed import LetterboxedPhotos, endless_batches  # noqa: PLC0415 - the same
    from model_store.training.data.teacher_features import FeatureCache  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import joined  # noqa: PLC0415 - the same
    from model_store.training.tasks import FeatureTask, PromptTask, Task  # noqa: PLC0415 - the same
    from model_store.training.teacher import load_teacher  # noqa: PLC0415 - the same

    records = _records(data, licence_class)
    with joined() as processes:
        where = processes.device(_device_name(device))
        # EdgeSAM's rates, decay and clipping (SPEC 7.2, 7.3).
        highest, decay, clip = (1e-1, 0.01, 5.0) if stage == "encoder" else (3.2e-3, 0.05, 0.01)
        config = _config(
            out, minutes, f"{frame_size}:1", batch, learning_rate or highest * batch / 512, steps=steps, seed=seed,
            bf16=bf16, threads=threads, compile_model=compile_model, save_every_s=save_every_s,
            batch_frame=frame_size, weight_decay=decay, clip=clip, betas=(0.9, 0.999), least_batch=1,
        )  # fmt: skip
        cache = FeatureCache(teacher_features, _names(records), teacher=teacher.name, frame_size=frame_size)
        if cache.missing():
            raise ModelStoreError(f"{len(cache.missing())} photos have no features yet; run 'features' first")
        photos = LetterboxedPhotos(records, frame_size, max_prompts=max_prompts, seed=seed)
        size = config.schedule.batch_size(frame_size, processes.count)
        batches = endless_batches(photos, size, workers=workers, seed=seed, rank=processes.rank)
        model = _student(weights, seed, where)
        model.prompt_encoder.frame_size = frame_size
        master = load_teacher(teacher)
        master.prompt_encoder.frame_size = frame_size
        if stage == "prompts" and decoder == "teacher":
            model.prompt_encoder.load_state_dict(master.prompt_encoder.state_dict())
            model.mask_decoder.load_state_dict(master.mask_decoder.state_dict())
        task: Task
        if stage == "encoder":
            task = FeatureTask(model, batches, cache, division=division)
        else:
            task = PromptTask(model, master.to(where), batches, cache)
        _train(config, task, look=None, goes_on=goes_on, start=start, processes=processes)


def granularity(
    checkpoint: Annotated[Path, typer.Argument(help="The EdgeSAM checkpoint whose encoder the module looks at.")],
    *,
    packed: Packed = None,
    data: Annotated[list[str] | None, typer.Option(help="Photos with masks, read while training.")] = None,
    licence_class: LicenceClass = None,
    workers: Workers = 2,
    out: Out,
    minutes: Minutes = 60.0,
    steps: Steps = None,
    goes_on: GoesOn = False,
    start: Start = None,
    stages: Stages = "512:1",
    batch: BatchSize = 8,
    batch_frame: BatchFrame = 512,
    learning_rate: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    bf16: Bf16 = True,
    save_every_s: SaveEvery = 180.0,
) -> None:
    """Train the granularity module, which proposes the box that goes with a click, on a frozen encoder.

    [bold]Examples[/bold]

    python -m model_store granularity out/run1/edgesam.pth --packed out/packed --out out/boxes --minutes 60
    """
    require_extra()
    from model_store.checkpoint import load_checkpoint  # noqa: PLC0415 - the other commands need no torch
    from model_store.network.granularity_module import granularity_module  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import joined  # noqa: PLC0415 - the same
    from model_store.training.tasks import GranularityTask  # noqa: PLC0415 - the same

    with joined() as processes:
        where = processes.device(_device_name(device))
        config = _config(
            out, minutes, stages, batch, learning_rate, steps=steps, seed=seed, bf16=bf16, threads=threads,
            save_every_s=save_every_s, batch_frame=batch_frame,
        )  # fmt: skip
        source = _source(packed, data, licence_class, workers, where)
        model = load_checkpoint(checkpoint).to(where)
        task = GranularityTask(model, _valid(lambda: granularity_module(model.image_encoder)).to(where), source)
        _train(config, task, look=None, goes_on=goes_on, start=start, processes=processes)


def pieces(
    source: Annotated[Path, typer.Argument(help="A folder: data, or a run with a state; or pieces, to join them.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pieces, or for what they make.")],
    join: Annotated[bool, typer.Option("--join", help="Make the folder of its pieces.")] = False,
    mebibytes: Annotated[int, typer.Option(min=1, help="Size of a piece of data; states go in pieces of 14.")] = 48,
) -> None:
    """Take data or the state of a run along to another machine, in files of bounded size.

    A run goes on with `--from` a folder of state pieces as it does with the state itself.

    [bold]Examples[/bold]

    python -m model_store pieces data/train --out pieces/train

    python -m model_store pieces pieces/train --join --out data/train

    python -m model_store pieces out/run1 --out pieces/run1
    """
    require_extra()
    from model_store.training.loop.state import STATE_NAME, load_state, split_state  # noqa: PLC0415 - the same
    from model_store.training.pieces import join_folder, split_folder  # noqa: PLC0415 - the other commands need no torch

    if join:
        join_folder(source, out)
        typer.echo(f"the pieces of {source} are the folder {out}")
        return
    if (source / STATE_NAME).is_file():
        paths: Sequence[Path] = split_state(load_state(source), out)
    else:
        paths = split_folder(source, out, piece_bytes=mebibytes * 2**20)
    typer.echo(f"{source} is in {len(paths)} files in {out}")


def _train(
    config: "RunConfig", task: "Task", *, look: "Look | None", goes_on: bool, start: Path | None, processes: "Processes"
) -> None:
    from model_store.training.loop.run import WEIGHTS_NAME, Run  # noqa: PLC0415 - the other commands need no torch

    if goes_on and start:
        raise UsageError("--continue goes on with a budget, --from begins a new one; give one of them")
    with budget() as show:
        run = Run(config, task, look=look, processes=processes, show=show if processes.is_first else _unseen)
        if goes_on or start:
            run.continue_from(start or config.folder, fresh_budget=start is not None)
        if processes.is_first:
            config.folder.mkdir(parents=True, exist_ok=True)
            (config.folder / "config.json").write_text(json.dumps(config.described(), indent=2))
        with _stopped_by_signals(run):
            run.train()
    if processes.is_first:
        typer.echo(f"weights are in {config.folder / WEIGHTS_NAME} after {run.minutes:.1f} minutes, {run.step} steps")


@contextmanager
def _stopped_by_signals(run: "Run") -> Iterator[None]:
    """SIGINT and SIGTERM end the run after its step, with its state saved."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda _number, _frame: run.stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _config(
    out: Path, minutes: float, stages: str, batch: int, learning_rate: float, *, threads: int, batch_frame: int = 256,
    least_batch: int = 2, **others: Any,
) -> "RunConfig":  # fmt: skip
    import torch  # noqa: PLC0415 - the other commands need no torch

    from model_store.training.loop.run import RunConfig  # noqa: PLC0415 - the same
    from model_store.training.loop.schedule import Schedule, parse_stages  # noqa: PLC0415 - the same

    if threads:
        torch.set_num_threads(threads)
    schedule = _valid(
        lambda: Schedule(
            parse_stages(stages), batch=batch, batch_frame=batch_frame, least_batch=least_batch,
            learning_rate=learning_rate,
        )
    )  # fmt: skip
    if not minutes and not others.get("steps"):
        raise UsageError("give --minutes or --steps")
    return RunConfig(folder=out, minutes=minutes, schedule=schedule, **others)


def _valid(make: Callable[[], Made]) -> Made:
    """What `make` gives; what it refuses is the command's fault."""
    try:
        return make()
    except ValueError as error:
        raise UsageError(str(error)) from error


def _records(data: list[str], licence_class: list[str] | None) -> "list[PhotoRecord]":
    from model_store.training.data.annotations import read_annotations  # noqa: PLC0415 - the other commands need no torch

    return [record for place in data for record in read_annotations(place, licence_classes=licence_class)]


def _names(records: "Sequence[PhotoRecord]") -> list[str]:
    return [str(record.path) for record in records]


def _source(
    packed: Path | None, data: list[str] | None, licence_class: list[str] | None, workers: int, device: "torch.device"
) -> "Source":
    from model_store.training.data.shelf import open_shelf  # noqa: PLC0415 - the other commands need no torch
    from model_store.training.data.sources import ResidentSource, StreamedSource  # noqa: PLC0415 - the same

    if (packed is None) == (data is None):
        raise UsageError("give --packed or --data")
    if packed is not None:
        return ResidentSource(open_shelf(packed), device)
    return StreamedSource(_records(data or [], licence_class), device, workers=workers)


def _student(weights: Path | None, seed: int, device: "torch.device") -> "PromptableModel":
    import torch  # noqa: PLC0415 - the other commands need no torch

    from model_store.checkpoint import CheckpointError, load_checkpoint  # noqa: PLC0415 - the other commands need no torch
    from model_store.training.initial import initial_model  # noqa: PLC0415 - the same

    try:
        model = initial_model(seed) if weights is None else load_checkpoint(weights)
    except CheckpointError as error:
        raise ModelStoreError(str(error)) from error
    for value in model.parameters():
        if value.ndim == 4 and value.shape[2] > 1:  # kernels lie as the frames do, channels last
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return model.to(device)


def _device_name(device: str) -> str:
    import torch  # noqa: PLC0415 - the other commands need no torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _unseen(_share: float, _line: str) -> None:
    pass
