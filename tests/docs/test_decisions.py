"""The decision files in docs/decisions are complete, numbered, and listed once in the index."""

import re
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
INDEX = FOLDER / "README.md"
DECISIONS = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
SECTIONS = ["Context", "Options", "Decision", "Consequences"]
MAINTAINER = r"^\*\*What a maintainer has to know because of this:\*\* \S"


def title_of(path: Path) -> str:
    """Return the first heading of a decision, without its number."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix(f"# {path.name[:4]}. ")


def links_in(path: Path) -> list[str]:
    """Return the targets of a document's links to decision files, in their order."""
    return re.findall(r"\]\((\d{4}-[^)#]+\.md)\)", path.read_text(encoding="utf-8"))


def parametrized(name: str) -> pytest.MarkDecorator:
    """Run a test once for each decision, with the file's name as id."""
    return pytest.mark.parametrize(name, DECISIONS, ids=[path.stem for path in DECISIONS])


def test_numbers_are_consecutive():
    numbers = [int(path.name[:4]) for path in DECISIONS]

    assert numbers == list(range(1, len(DECISIONS) + 1))
    assert len(numbers) >= 62


def test_every_decision_is_in_the_index_exactly_once():
    listed = Counter(links_in(INDEX))

    assert listed == Counter(path.name for path in DECISIONS)


def test_titles_are_unique():
    titles = Counter(title_of(path).lower() for path in DECISIONS)

    assert [title for title, count in titles.items() if count > 1] == []


@parametrized("path")
def test_the_index_shows_number_and_title_of_the_decision(path: Path):
    number = path.name[:4]

    assert f"- [{number}. {title_of(path)}]({path.name})" in INDEX.read_text(encoding="utf-8")


@parametrized("path")
def test_a_decision_has_date_status_sections_and_maintainer_line(path: Path):
    text = path.read_text(encoding="utf-8")

    assert text.startswith(f"# {path.name[:4]}. "), "the heading begins with the number of the file name"
    assert re.search(r"^- Date: \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    assert re.search(r"^- Status: (accepted|superseded by \[\d{4}\]\(\d{4}-[^)]+\.md\))$", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    for section in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        assert section.strip(), "a section is empty"
    assert len(re.findall(MAINTAINER, text, re.MULTILINE)) == 1


@parametrized("path")
def test_links_between_decisions_lead_to_the_number_that_they_name(path: Path):
    text = path.read_text(encoding="utf-8")

    links = re.findall(r"\[(?:[Dd]ecision\s+)?(\d{4})\]\(([^)]+)\)", text)

    assert [(number, target) for number, target in links if not (FOLDER / target).is_file()] == []
    assert [(number, target) for number, target in links if not target.startswith(f"{number}-")] == []


@parametrized("path")
def test_a_superseded_decision_names_a_later_one(path: Path):
    replaced = re.search(r"^- Status: superseded by \[(\d{4})\]", path.read_text(encoding="utf-8"), re.MULTILINE)

    assert replaced is None or int(replaced[1]) > int(path.name[:4])
