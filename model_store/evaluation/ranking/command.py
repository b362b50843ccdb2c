"""The command `calibrate`: fits and chooses the rule that orders a model's masks, without torch."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from model_store import terminal
from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, find_artifact
from model_store.evaluation.options import (
    Data,
    MaxInstances,
    MaxPhotos,
    Only,
    Processes,
    Threads,
    read_photos,
    threads_per_process,
)
from model_store.export.manifest_file import replace_manifest
from model_store.options import InstalledModel, ModelsDir
from service.manifest import MANIFEST_NAME, load_manifest
from service.mask_rules import Ranking

if TYPE_CHECKING:
    from model_store.evaluation.ranking.cross_validation import Choices
    from model_store.evaluation.ranking.outputs import PointOutputs
    from model_store.training.data.annotations import PhotoRecord

_CURRENT_RULE = "the manifest's rule"
_HEADER = (
    "rule", "parameters", "mean IoU, %", "IoU ≥ 0.8, %", "output 0 first, %", "score: error", "score: correlation",
)  # fmt: skip


def calibrate(
    model: InstalledModel,
    data: Data,
    *,
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="Photos that only measure the fitted rules and do not influence the choice. May be repeated."
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the chosen rule into the model's manifest.json.")
    ] = False,
    rule: Annotated[
        str | None, typer.Option(help="Name of the rule to choose, as in the table. Default: the simplest of the best.")
    ] = None,
    models_dir: ModelsDir = DEFAULT_MODELS_DIRECTORY,
    only: Only = None,
    max_photos: MaxPhotos = None,
    max_instances: MaxInstances = None,
    processes: Processes = 1,
    threads: Threads = 0,
) -> None:
    """Choose the rule that orders the four masks of a point prompt, so that the best mask comes first.

    Each candidate is fitted on some of the photos and measured on others. The simplest candidate that is as good as the
    best is chosen. Its score is an estimate of the IoU. Use photos on which the model was not trained.

    [bold]Examples[/bold]

    edgesam models calibrate models/plants-7 --data data/validation --max-instances 4

    edgesam models calibrate models/plants-7 --data data/validation --check data/heldout --processes 2 --write
    """
    # Not at the top: the other commands start faster.
    from model_store.evaluation.protocol import Protocol  # noqa: PLC0415
    from model_store.evaluation.ranking.candidates import candidate_named  # noqa: PLC0415
    from model_store.evaluation.ranking.cross_validation import best_candidate, choices_of, cross_validated  # noqa: PLC0415
    from model_store.evaluation.ranking.outputs import point_outputs  # noqa: PLC0415

    wanted = None if rule is None else candidate_named(rule)
    directory = find_artifact(model, models_dir)
    manifest = load_manifest(directory)
    protocol = Protocol(max_instances=max_instances, max_photos=max_photos)

    def measure(photos: "Sequence[PhotoRecord]") -> "PointOutputs":
        with terminal.counter("measuring photos") as on_progress:
            return point_outputs(
                directory,
                photos,
                protocol,
                processes=processes,
                threads=threads_per_process(threads, processes),
                on_progress=on_progress,
            )

    # All data sets are read before the first is measured, so that a wrong path is reported at once.
    chosen_on, checked_on = read_photos(data, only), {source: read_photos([source], None) for source in check or []}
    outputs = measure(chosen_on)
    measured = cross_validated(outputs)
    rules = {candidate: candidate.fit(outputs) for candidate in measured}
    rows = [(_CURRENT_RULE, "", choices_of(manifest.ranking, outputs))]
    rows += [(candidate.name, str(candidate.parameters), choices) for candidate, choices in measured.items()]
    _print(f"Cross-validated on {len(outputs)} objects", rows, outputs)
    for source, photos in checked_on.items():
        held_out = measure(photos)
        rows = [(_CURRENT_RULE, "", choices_of(manifest.ranking, held_out))]
        rows += [(one.name, str(one.parameters), choices_of(rule, held_out)) for one, rule in rules.items()]
        _print(f"Fitted on these and checked on {len(held_out)} objects of {source}", rows, held_out)
    chosen = wanted or best_candidate(measured, outputs)
    typer.echo(f"chosen: {chosen.name} ({_rule_text(rules[chosen])})")
    if write:
        replace_manifest(
            directory, manifest.with_ranking(rules[chosen].model_copy(update={"agreement": manifest.ranking.agreement}))
        )
        typer.echo(f"written to {directory / MANIFEST_NAME}")


def _print(title: str, rows: "Sequence[tuple[str, str, Choices]]", outputs: "PointOutputs") -> None:
    from model_store.evaluation.ranking.cross_validation import best_choices  # noqa: PLC0415 - the other commands start faster

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


def _rule_text(ranking: Ranking) -> str:
    bias = ", ".join(f"{value:g}" for value in ranking.bias)
    return f"bias {bias}; stability {ranking.stability:g}; predicted IoU {ranking.predicted_iou:g}"
