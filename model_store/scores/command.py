"""The option `--scores` of the command `verify`: published answers beside those of an installed model."""

from pathlib import Path

from model_store import terminal
from model_store.errors import ModelStoreError
from model_store.scores.answers import decoder_kind
from model_store.scores.comparison import ComparedNumber, compared, is_other_checkpoint, published_name
from model_store.scores.image import scored_image
from model_store.scores.published import PUBLISHED_SCORES
from service.manifest import Manifest

_HEADER = ("prompt", "number", "published", "found", "difference", "tolerance", "")


def verify_scores(directory: Path, manifest: Manifest, *, image: Path | None, mirror: str) -> None:
    """Compare a model's answers with published ones, and print them.

    Args:
        directory: Folder of a verified artifact.
        manifest: Its manifest.
        image: File of the image; None to download it.
        mirror: Base address that replaces scheme and host of the image's address; empty for none.

    Raises:
        UsageError: No scores are published for the model.
        ModelStoreError: The image is missing or another one, or a number differs by more than its tolerance.
    """
    name = published_name(manifest)
    published = PUBLISHED_SCORES[name]
    if is_other_checkpoint(manifest, name):
        terminal.print_note(
            f"{manifest.name} was not made from the published checkpoint of {name}, whose scores these are: the "
            "SHA-256 of its file is another one. Scores of other weights differ."
        )
    terminal.print_note(published.image.origin)
    with terminal.steps() as on_progress:
        on_progress("reading the image" if image else f"fetching {published.image.file_name}")
        pixels = scored_image(published.image, image, mirror, resize=manifest.resize)
        on_progress(f"computing {len(published.prompts)} prompts")
        numbers = compared(directory, manifest, pixels, published)
    _print(numbers, f"{manifest.name}, decoder {decoder_kind(manifest)}; published by {published.source}")
    if wrong := [number for number in numbers if not number.agrees]:
        raise ModelStoreError(
            f"{len(wrong)} of {len(numbers)} numbers differ from the published ones by more than the tolerance, first: "
            f"{wrong[0].title}, {wrong[0].number}"
        )


def _print(numbers: list[ComparedNumber], title: str) -> None:
    rows = [
        (
            number.title,
            number.number,
            f"{number.expected:.4f}",
            f"{number.found:.4f}",
            f"{number.difference:+.4f}",
            f"{number.tolerance:g}",
            "agrees" if number.agrees else "differs",
        )
        for number in numbers
    ]
    terminal.print_table(title, _HEADER, rows)
