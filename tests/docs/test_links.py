"""Every relative link of a document leads to a file and a heading that exist, and the index lists every page."""

import re
from pathlib import Path

import pytest
from support.citations import broken_links, tracked_texts

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path, _ in tracked_texts(ROOT) if path.suffix == ".md"]
INDEX = ROOT / "docs" / "index.md"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_every_relative_link_of_a_document_leads_somewhere(path: Path):
    assert broken_links(ROOT / path) == []


def test_a_broken_link_is_found(tmp_path: Path):
    (tmp_path / "guide.md").write_text("# Guide\n\n## 2 Layers\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](guide.md) [b](absent.md) [c](guide.md#2-layers) [d](guide.md#3) [e](#page) [f](https://a.b/c)"
        ' <img src="absent.png" alt="g" /> <a href="guide.md#guide">h</a>'
    )

    found = broken_links(page)

    reasons = [reason.split(":")[0] for reason in found]
    assert reasons == ["](absent.md)", "](guide.md#3)", "](#page)", 'src="absent.png"']


def test_the_index_lists_every_page():
    targets = re.findall(r"\]\(([^)#:]+)", INDEX.read_text(encoding="utf-8"))
    listed = {(INDEX.parent / target).resolve() for target in targets}

    # The decisions have an index of their own.
    pages = {path for path in INDEX.parent.rglob("*.md") if path != INDEX and path.parent.name != "decisions"}
    assert pages - listed == set()
