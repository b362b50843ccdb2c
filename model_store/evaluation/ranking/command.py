"""`calibrate` on the command line: fits and chooses the rule that orders a model's masks, without torch."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from model_store import catalog, terminal
from model_store.evaluation.options import (
    Data,
    MaxInstances,
    MaxPhotos,
    ModelsDir,
    Only,
    Processes,
    Threads,
    read_photos,
    threads_each,
)
from model_store.manifest_file import replace_manifest
from model_store.training.loop.progress import counter
from service.manifest import MANIFEST_NAME, Manifest, Ranking, load_manifest

if TYPE_CHECKING:
    from model_store.evaluation.ranking.choosing import Choices
    from model_store.evaluation.ranking.outputs import ClickOutputs
    from model_store.training.data.annotations import PhotoRecord

_PRESENT = "the manifest's rule"
_HEADER = (
    "rule", "parameters", "mean IoU, %", "IoU ≥ 0.8, %", "output 0 first, %", "score: error", "score: correlation",
)  # fmt: skip


def calibrate(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    data: Data,
    *,
    check: Annotated[
        list[str] | None,
        typer.Option(help="Photos that only measure the fitted rules and choose nothing; may be repeated."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the chosen rule into the model's manifest.json.")
    ] = False,
    rule: Annotated[
        str | None, typer.Option(help="Choose the rule of this name in the table, instead of the plainest of the best.")
    ] = None,
    models_dir: ModelsDir = catalog.DEFAULT_MODELS_DIRECTORY,
    only: Only = None,
    max_photos: MaxPhotos = None,
    max_instances: MaxInstances = None,
    processes: Processes = 1,
    threads: Threads = 0,
) -> None:
    """Choose the rule that orders the four masks of a click, so that the best one comes first.

    Each candidate is fitted on some of the photos and measured on others. The chosen one is the plainest that is as
    good as the best. Its score is an estimate of the IoU. Choose on photos that the model was not trained on.

    [bold]Examples[/bold]

    python -m model_store calibrate models/plants-7 --data data/validation --max-instances 4

    python -m model_store calibrate models/plants-7 --data data/validation --check data/heldout --processes 2 --write
    """
    # Here and not above: the other commands start faster.
    from model_store.evaluation.protocol import Protocol  # noqa: PLC0415
    from model_store.evaluation.ranking.candidates import candidate_named  # noqa: PLC0415
    from model_store.evaluation.ranking.choosing import choices_of, cross_validated, winner  # noqa: PLC0415
    from model_store.evaluation.ranking.outputs import click_outputs  # noqa: PLC0415

    wanted = None if rule is None else candidate_named(rule)
    directory = catalog.find_artifact(model, models_dir)
    manifest = load_manifest(directory)
    protocol = Protocol(max_instances=max_instances, max_photos=max_photos)

    def ask(photos: "Sequence[PhotoRecord]") -> "ClickOutputs":
        with counter("asking photos") as progress:
            return click_outputs(
                directory,
                photos,
                protocol,
                processes=processes,
                threads=threads_each(threads, processes),
                progress=progress,
            )

    # All of them are read before the first is asked: a wrong place is then said at once.
    chosen_on, checked_on = read_photos(data, only), {place: read_photos([place], None) for place in check or []}
    outputs = ask(chosen_on)
    measured = cross_validated(outputs)
    rules = {candidate: candidate.fit(outputs) for candidate in measured}
    rows = [(_PRESENT, "", choices_of(manifest.ranking, outputs))]
    rows += [(candidate.name, str(candidate.parameters), choices) for candidate, choices in measured.items()]
    _print(f"Cross-validated on {len(outputs)} objects", rows, outputs)
    for place, photos in checked_on.items():
        held_out = ask(photos)
        rows = [(_PRESENT, "", choices_of(manifest.ranking, held_out))]
        rows += [(one.name, str(one.parameters), choices_of(rule, held_out)) for one, rule in rules.items()]
        _print(f"Fitted on these and checked on {len(held_out)} objects of {place}", rows, held_out)
    chosen = wanted or winner(measured, outputs)
    typer.echo(f"chosen: {chosen.name} ({_in_words(rules[chosen])})")
    if write:
        replace_manifest(directory, with_ranking(manifest, rules[chosen]))
        typer.echo(f"written to {directory / MANIFEST_NAME}")


def with_ranking(manifest: Manifest, ranking: Ranking) -> Manifest:
    """The manifest with another rule, in the lowest format version that can say it."""
    version = Manifest.lowest_version(
        encoder=manifest.encoder,
        ranking=ranking,
        upsample_mode=manifest.upsample_mode,
        has_granularity=manifest.granularity is not None,
    )
    members = {**manifest.model_dump(), "ranking": ranking.model_dump(), "format_version": version}
    return Manifest.model_validate(members)


def _print(title: str, rows: "Sequence[tuple[str, str, Choices]]", outputs: "ClickOutputs") -> None:
    from model_store.evaluation.ranking.choosing import best_choices  # noqa: PLC0415 - the other commands start faster

    cells = []
    for name, parameters, one in rows:
        found = one.calibration()
        # A score that does not vary has no correlation.
        correlation = "–" if math.isnan(found.correlation) else f"{found.correlation:.2f}"
        cells.append((name, parameters, *_shares(one), f"{found.error:.3f}", correlation))
    cells.append(("the best of four", "", *_shares(best_choices(outputs)), "", ""))
    terminal.print_table(title, _HEADER, cells)


def _shares(choices: "Choices") -> tuple[str, str, str]:
    return f"{100 * choices.miou:.1f}", f"{100 * choices.good:.1f}", f"{100 * choices.output_0:.1f}"


def _in_words(ranking: Ranking) -> str:
    bias = ", ".join(f"{value:g}" for value in ranking.bias)
    return f"bias {bias}; stability {ranking.stability:g}; predicted IoU {ranking.predicted_iou:g}"
