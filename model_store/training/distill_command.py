"""The commands `features` and `distill`; torch is imported when one of them runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_store import terminal
from model_store.errors import ModelStoreError
from model_store.extras import require_model_extra
from model_store.training import options
from model_store.training.command import check_run_folder, run_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_store.training.data.annotations import PhotoRecord
    from model_store.training.tasks import Task

Teacher = Annotated[
    Path, typer.Option(help="Teacher: checkpoint with SAM's mask decoder, for instance sam_vit_h_4b8939.pth.")
]
Features = Annotated[Path, typer.Option(help="Folder of the teacher's features, 2 MiB a photo.")]
TeacherFrame = Annotated[int, typer.Option(min=32, help="Side of the frame, in pixels. A SAM teacher has 1024.")]


def features(
    data: options.Data,
    *,
    teacher: Teacher,
    out: Features,
    licence_class: options.LicenceClass = None,
    frame_size: TeacherFrame = 1024,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
) -> None:
    """Compute a teacher's features once. Repeat the command to resume an interrupted pass.

    [bold]Examples[/bold]

    edgesam models features --data sa1b/ --teacher sam_vit_h_4b8939.pth --out out/features
    """
    require_model_extra()
    from model_store.training.data.teacher_features import FeatureCache, fill  # noqa: PLC0415 - needs torch
    from model_store.training.loop.distributed import DistributedContext  # noqa: PLC0415 - the same
    from model_store.training.teacher import load_teacher, teacher_image_size  # noqa: PLC0415 - the same

    torch_device = options.prepare_process(DistributedContext(), device, threads=0, nice=0)
    records = options.read_training_records(data, licence_class)
    model = load_teacher(teacher)
    image_size = teacher_image_size(model, frame_size)
    cache = FeatureCache(out, _names(records), teacher=teacher.name, frame_size=frame_size)
    with terminal.counter("embedding photos") as on_progress:
        bf16 = options.is_bfloat16(precision, torch_device)
        fill(
            cache, records, model.image_encoder, image_size=image_size, device=torch_device, bf16=bf16,
            on_progress=on_progress,
        )  # fmt: skip
    typer.echo(f"features of {len(records)} photos are in {out}")


def distill(
    data: options.Data,
    *,
    stage: Annotated[
        Literal["encoder", "prompts"],
        typer.Option(
            help="encoder: train on the teacher's features. prompts: train on its masks, with prompts in the loop."
        ),
    ],
    teacher: Teacher,
    teacher_features: Features,
    out: options.Out,
    resume: options.Resume = None,
    is_continued: options.Continue = False,
    architecture: Annotated[
        str | None, typer.Option(help="Architecture: edgesam (the default without --resume) or edgesam-lite.")
    ] = None,
    frame_size: TeacherFrame = 1024,
    division: Annotated[
        Literal["each", "crossed"],
        typer.Option(help="Divisor of the feature loss: the size of each photo, or crossed as in EdgeSAM's code."),
    ] = "each",
    decoder: Annotated[
        Literal["teacher", "own"],
        typer.Option(
            help="Prompt encoder and decoder with which stage 'prompts' starts: the teacher's, or those of --resume."
        ),
    ] = "teacher",
    max_prompts: Annotated[int, typer.Option(min=1, help="Largest number of prompts of a photo.")] = 16,
    minutes: options.Minutes = 60.0,
    steps: options.Steps = None,
    batch: options.BatchSize = 4,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Highest learning rate. Default: EdgeSAM's, times batch / 512.")
    ] = None,
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
    """Distil a teacher: first its features into the encoder, then its masks into encoder and decoder.

    [bold]Examples[/bold]

    edgesam models distill --stage encoder --data sa1b/ --teacher sam_vit_h_4b8939.pth
    --teacher-features out/features --out out/stage1 --minutes 600

    edgesam models distill --stage prompts --resume out/stage1/model.safetensors --data sa1b/
    --teacher sam_vit_h_4b8939.pth --teacher-features out/features --out out/stage2 --minutes 600
    """
    require_model_extra()
    from model_store.training.data.teacher_features import FeatureCache  # noqa: PLC0415 - needs torch
    from model_store.training.loop.device import to_device  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import distributed_context  # noqa: PLC0415 - the same
    from model_store.training.loop.optimiser import OptimiserConfig  # noqa: PLC0415 - the same
    from model_store.training.resume import starting_point  # noqa: PLC0415 - the same
    from model_store.training.tasks import FeatureTask, PromptTask  # noqa: PLC0415 - the same
    from model_store.training.teacher import load_teacher  # noqa: PLC0415 - the same

    check_run_folder(out, resume=resume, is_continued=is_continued)
    records = options.read_training_records(data, licence_class)
    with distributed_context() as context:
        torch_device = options.prepare_process(context, device, threads=threads, nice=nice)
        # EdgeSAM's rates, decay and clipping (docs/explanation/model.md, sections 7.2, 7.3).
        highest, decay, clip = (1e-1, 0.01, 5.0) if stage == "encoder" else (3.2e-3, 0.05, 0.01)
        config = options.make_config(
            out, minutes, steps, highest=learning_rate or highest * batch / 512, warm_up=warm_up, fall=1.0,
            device=torch_device, precision=precision, seed=seed, save_every_s=save_every,
            optimiser=OptimiserConfig(weight_decay=decay, betas=(0.9, 0.999), clip=clip),
        )  # fmt: skip
        cache = FeatureCache(teacher_features, _names(records), teacher=teacher.name, frame_size=frame_size)
        if cache.missing():
            raise ModelStoreError(f"{len(cache.missing())} photos have no features yet; run 'features' first")
        batches = options.photo_batches(
            records, frame_size, batch=batch, max_prompts=max_prompts, workers=workers, seed=seed, device=torch_device,
            context=context,
        )  # fmt: skip
        source = out if is_continued else resume
        start = starting_point(source, architecture or (None if source else "edgesam"), seed=seed)
        options.check_frame_size(start.model, frame_size)
        model, teacher_model = start.model, load_teacher(teacher)
        model.prompt_encoder.frame_size = teacher_model.prompt_encoder.frame_size = frame_size
        if stage == "prompts" and decoder == "teacher":
            model.prompt_encoder.load_state_dict(teacher_model.prompt_encoder.state_dict())
            model.mask_decoder.load_state_dict(teacher_model.mask_decoder.state_dict())
        to_device(model, torch_device)
        task: Task[Any]
        if stage == "encoder":
            task = FeatureTask(model, batches, cache, division=division)
        else:
            task = PromptTask(model, teacher_model.to(torch_device), batches, cache)
        run_task(config, task, context, state=start.state, is_continued=is_continued, is_trained=start.is_trained)


def _names(records: "Sequence[PhotoRecord]") -> list[str]:
    return [str(record.path) for record in records]
