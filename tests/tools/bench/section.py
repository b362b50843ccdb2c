"""Results of a section: tables for the report, and values for the targets and the plot."""

from dataclasses import dataclass, field

Cell = str | int | float | None
"""None is a value that was not measured."""


@dataclass(slots=True)
class Table:
    """A table. Its first column is text."""

    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """A section of the report.

    Args:
        title: Heading.
        notes: Explanation of the tables, as paragraphs that are separated by empty lines.
        tables: Tables.
        values: Measured values by name. Names are unique over all sections.
    """

    title: str
    notes: str
    tables: list[Table] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
