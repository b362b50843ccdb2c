"""What the catalogue states about a checkpoint that other authors publish."""

from dataclasses import dataclass
from typing import Final, Literal

COCO_AP: Final = "COCO AP, boxes of a detector, %"
COCO_BOX_MIOU: Final = "COCO mIoU, annotated boxes, %"
SA_23_ONE_CLICK: Final = "SA-23 mIoU, 1 click, %"
SA_23_FIVE_CLICKS: Final = "SA-23 mIoU, 5 clicks, %"
SA_V_VIDEO: Final = "SA-V test J&F, video, %"

Sha256Origin = Literal["authors", "copies", "none"]

_NO_TERMS_FOR_WEIGHTS = "The authors put the whole project under this licence and state no other terms for the weights."
_UNKNOWN_SIZE_FACTOR = 2  # bound of a download whose exact length is not known


@dataclass(frozen=True, slots=True)
class Licence:
    """Licence of a checkpoint.

    Args:
        short_title: Title for tables.
        title: Title of the licence.
        summary: Description of its conditions in our own words.
        url: Address of the binding text.
        commercial_use: Whether the licence allows commercial use.
    """

    short_title: str
    title: str
    summary: str
    url: str
    commercial_use: bool

    @property
    def needs_acceptance(self) -> bool:
        """Whether a download waits until the user accepts the conditions. A permissive licence is only shown."""
        return not self.commercial_use


@dataclass(frozen=True, slots=True)
class Quality:
    """One published figure.

    Args:
        measure: Name of the measure, with its unit.
        value: Figure, in that unit.
        source: Document that states it.
    """

    measure: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A checkpoint that other authors publish.

    Args:
        name: Name of the model in this catalogue.
        architecture: Name of its architecture.
        file_name: Name of the checkpoint file.
        urls: Addresses of the same file, in the order in which they are tried.
        size_bytes: Exact length of the file, in bytes; None if only its approximate length is known.
        approximate_bytes: Approximate length of the file, in bytes, for tables and as the base of the bound.
        sha256: SHA-256 of the file, lower-case hex; None where none is published.
        sha256_source: Origin of the SHA-256, or the reason why there is none.
        sha256_origin: Kind of that origin: "authors" for a page of the authors, "copies" for copies by others, whose
            equality with the authors' file was not verified, or "none".
        licence: Licence of the checkpoint.
        purpose: Use of the model in one sentence.
        quality: Published figures, the one for tables first.
        training_data: Training data, as its authors state it.
        card: Address of the authors' description of the model.
    """

    name: str
    architecture: str
    file_name: str
    urls: tuple[str, ...]
    size_bytes: int | None
    approximate_bytes: int
    sha256: str | None
    sha256_source: str
    sha256_origin: Sha256Origin
    licence: Licence
    purpose: str
    quality: tuple[Quality, ...]
    training_data: str
    card: str

    @property
    def max_bytes(self) -> int:
        """The largest length that a download of another file or of unknown length may have, in bytes."""
        return self.approximate_bytes * _UNKNOWN_SIZE_FACTOR


def apache(url: str, *, about_weights: str = _NO_TERMS_FOR_WEIGHTS) -> Licence:
    """Return the Apache License 2.0 of a project.

    Args:
        url: Address of the binding text.
        about_weights: Sentence about the weights, which the authors may have put under the licence by name.
    """
    return Licence(
        short_title="Apache-2.0",
        title="Apache License 2.0",
        summary=(
            "You may use, change and pass on the model, also commercially, if the licence and the notices stay with "
            f"it. There is no warranty. {about_weights} This is a description, not the licence and not legal advice."
        ),
        url=url,
        commercial_use=True,
    )
