"""The commands of distillation: a teacher's features, then its masks; torch is imported when one of them runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_store.catalog import ModelStoreError
from model_store.importing import require_extra
from model_store.training import options
from model_store.training.command import check_target, run_task
from model_store.training.loop.progress import counter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_store.training.data.annotations import PhotoRecord
    from model_store.training.tasks import Task

Teacher = Annotated[Path, typer.Option(help="sam_vit_b/l/h.pth or an EdgeSAM checkpoint.")]
Features = Annotated[Path, typer.Option(help="Folder of the teacher's features; 2 MiB a photo.")]
TeacherFrame = Annotated[int, typer.Option(min=32, help="Side of the frame, pixels; a SAM teacher has 1024.")]


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
    """Compute a teacher's features once; an interrupted pass goes on where it stopped.

    [bold]Examples[/bold]

    python -m model_store features --data sa1b/ --teacher sam_vit_h_4b8939.pth --out out/features
    """
    require_extra()
    from model_store.training.data.teacher_features import FeatureCache, fill  # noqa: PLC0415 - needs torch
    from model_store.training.loop.distributed import DistributedContext  # noqa: PLC0415 - the same
    from model_store.training.teacher import load_teacher  # noqa: PLC0415 - the same

    where = options.prepare_process(DistributedContext(), device, threads=0, nice=0)
    records = options.read_training_records(data, licence_class)
    cache = FeatureCache(out, _names(records), teacher=teacher.name, frame_size=frame_size)
    encoder = load_teacher(teacher).image_encoder
    with counter("embedding photos") as progress:
        bf16 = options.is_bfloat16(precision, where)
        fill(cache, records, encoder, frame_size=frame_size, device=where, bf16=bf16, progress=progress)
    typer.echo(f"features of {len(records)} photos are in {out}")


def distill(
    data: options.Data,
    *,
    stage: Annotated[
        Literal["encoder", "prompts"],
        typer.Option(help="encoder: learn the teacher's features; prompts: learn its masks, prompts in the loop."),
    ],
    teacher: Teacher,
    teacher_features: Features,
    out: options.Out,
    resume: options.Resume = None,
    goes_on: options.Continue = False,
    architecture: Annotated[
        str | None, typer.Option(help="What to train: edgesam (the default without --resume) or edgesam-lite.")
    ] = None,
    frame_size: TeacherFrame = 1024,
    division: Annotated[
        Literal["each", "crossed"],
        typer.Option(help="Of the feature loss: each photo by its own size, or crossed as EdgeSAM's code does."),
    ] = "each",
    decoder: Annotated[
        Literal["teacher", "own"],
        typer.Option(help="What stage 'prompts' begins with: the teacher's prompt encoder and decoder, or --resume's."),
    ] = "teacher",
    max_prompts: Annotated[int, typer.Option(min=1, help="Prompts a photo.")] = 16,
    minutes: options.Minutes = 60.0,
    steps: options.Steps = None,
    batch: options.BatchSize = 4,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Highest learning rate; default: EdgeSAM's, by batch / 512.")
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

    python -m model_store distill --stage encoder --data sa1b/ --teacher sam_vit_h_4b8939.pth
    --teacher-features out/features --out out/stage1 --minutes 600

    python -m model_store distill --stage prompts --resume out/stage1/model.safetensors --data sa1b/
    --teacher sam_vit_h_4b8939.pth --teacher-features out/features --out out/stage2 --minutes 600
    """
    require_extra()
    from model_store.training.data.teacher_features import FeatureCache  # noqa: PLC0415 - needs torch
    from model_store.training.loop.device import to_device  # noqa: PLC0415 - the same
    from model_store.training.loop.distributed import distributed_context  # noqa: PLC0415 - the same
    from model_store.training.loop.optimiser import OptimiserConfig  # noqa: PLC0415 - the same
    from model_store.training.resume import starting_point  # noqa: PLC0415 - the same
    from model_store.training.tasks import FeatureTask, PromptTask  # noqa: PLC0415 - the same
    from model_store.training.teacher import load_teacher  # noqa: PLC0415 - the same

    check_target(out, resume=resume, goes_on=goes_on)
    records = options.read_training_records(data, licence_class)
    with distributed_context() as context:
        where = options.prepare_process(context, device, threads=threads, nice=nice)
        # EdgeSAM's rates, decay and clipping (docs/explanation/model.md, sections 7.2, 7.3).
        highest, decay, clip = (1e-1, 0.01, 5.0) if stage == "encoder" else (3.2e-3, 0.05, 0.01)
        config = options.make_config(
            out, minutes, steps, highest=learning_rate or highest * batch / 512, warm_up=warm_up, fall=1.0,
            device=where, precision=precision, seed=seed, save_every_s=save_every,
            optimiser=OptimiserConfig(weight_decay=decay, betas=(0.9, 0.999), clip=clip),
        )  # fmt: skip
        cache = FeatureCache(teacher_features, _names(records), teacher=teacher.name, frame_size=frame_size)
        if cache.missing():
            raise ModelStoreError(f"{len(cache.missing())} photos have no features yet; run 'features' first")
        batches = options.photo_batches(
            records, frame_size, batch=batch, max_prompts=max_prompts, workers=workers, seed=seed, device=where,
            context=context,
        )  # fmt: skip
        source = out if goes_on else resume
        start = starting_point(source, architecture or (None if source else "edgesam"), seed=seed)
        options.check_frame_size(start.model, frame_size)
        model, master = start.model, load_teacher(teacher)
        model.prompt_encoder.frame_size = master.prompt_encoder.frame_size = frame_size
        if stage == "prompts" and decoder == "teacher":
            model.prompt_encoder.load_state_dict(master.prompt_encoder.state_dict())
            model.mask_decoder.load_state_dict(master.mask_decoder.state_dict())
        to_device(model, where)
        task: Task[Any]
        if stage == "encoder":
            task = FeatureTask(model, batches, cache, division=division)
        else:
            task = PromptTask(model, master.to(where), batches, cache)
        run_task(config, task, context, state=start.state, goes_on=goes_on, is_trained=start.is_trained)


def _names(records: "Sequence[PhotoRecord]") -> list[str]:
    return [str(record.path) for record in records]
