"""What code, tests and documents cite is in the repository."""

from pathlib import Path

import pytest
from support.citations import broken_citations, headings_of, tracked_texts, unknown_documents

ROOT = Path(__file__).parents[2]
TEXTS = dict(tracked_texts(ROOT))
MODEL = "docs/explanation/model.md"


def test_every_cited_document_and_section_exists():
    broken = {str(path): found for path, text in TEXTS.items() if (found := broken_citations(text, ROOT))}

    assert broken == {}


def test_no_document_is_cited_that_the_repository_does_not_have():
    unknown = {str(path): found for path, text in TEXTS.items() if (found := unknown_documents(text))}

    assert unknown == {}


def test_code_cites_the_document_of_the_networks():
    citing = [path for path, text in TEXTS.items() if path.suffix in {".py", ".c", ".h"} and MODEL in text]

    assert len(citing) > 30


def test_no_two_sections_of_the_networks_document_have_one_number():
    headings = headings_of(ROOT / MODEL)

    assert len(headings.numbers) == len(headings.titles) - 1  # all but the title of the page


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with one document."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text(
        "# Guide\n\n## 2 Layers\n\n### 2.5 Folding, exactly\n\n```sh\n# 9 no heading\n```\n\n#### 7.4a Clicks\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "see {}/guide.md",
        "({}/guide.md, section 2.5).",
        "({}/guide.md 2.5)",
        "{}/guide.md, sections 2 to 2.5, and 12 more",
        "{}/guide.md, sections 2, 2.5 and 7.4a.",
        '{}/guide.md, section "2 Layers"',
        "[guide](../{}/guide.md#25-folding-exactly)",
        "    # as in {}/guide.md,\n    # section 2.5",
        "https://example.org/{}/elsewhere.md, section 12",
    ],
)
def test_a_right_citation_is_accepted(text: str, repository: Path):
    assert broken_citations(text.format("docs"), repository) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("see {}/absent.md", "no such file"),
        ("({}/guide.md, section 2.6).", "no section 2.6"),
        ("({}/guide.md 9)", "no section 9"),
        ("{}/guide.md, sections 2 to 3", "no section 3"),
        ("{}/guide.md, sections 2 and 7.4", "no section 7.4"),
        ('{}/guide.md, section "Layers"', "no such title"),
        ("[guide](../{}/guide.md#26)", "no such anchor"),
        ("    # as in {}/guide.md,\n    # section 2.6", "no section 2.6"),
        (" * as in {}/guide.md,\n * section 2.6", "no section 2.6"),
    ],
)
def test_a_broken_citation_is_found(text: str, reason: str, repository: Path):
    (found,) = broken_citations(text.format("docs"), repository)

    assert reason in found


@pytest.mark.parametrize("text", ["({} 3.1)", "see {} 4.", "as\n{}\n# 3 says", "EDGESAM_{}.md"])
@pytest.mark.parametrize("name", ["SPEC", "DESIGN"])
def test_a_citation_of_an_absent_document_is_found(text: str, name: str):
    assert unknown_documents(text.format(name)) != []
