"""What a section of the bench hands to the report: tables for people, values for the targets and the plot."""

from dataclasses import dataclass, field

Cell = str | int | float | None
"""None is a figure that was not measured."""


@dataclass(slots=True)
class Table:
    """Rows under columns; the first column is text."""

    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """One part of the report.

    Args:
        title: its heading.
        notes: what has to be known to read the tables; paragraphs between empty lines, broken anywhere.
        values: figures by name, unique over all sections.
    """

    title: str
    notes: str
    tables: list[Table] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
