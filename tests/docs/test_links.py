"""Every relative link of the documents leads to a file that the repository has, and to a heading that it has."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.documents import ROOT, anchors, pages, without_code

# [text](target), ![alt](target) and the attributes src and href of HTML.
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|\b(?:src|href)=\"([^\"]+)\"")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//")


def links(text: str) -> Iterator[str]:
    """Each target that is not on another host."""
    for markdown, html in _LINK.findall(without_code(text)):
        target = markdown or html
        if not _ELSEWHERE.match(target):
            yield target


def why_broken(path: Path, target: str, tracked: set[Path]) -> str | None:
    """What is wrong with a link of a page; None when it resolves."""
    name, _, anchor = target.partition("#")
    there = (path.parent / unquote(name)).resolve() if name else path
    if there not in tracked and not any(file.is_relative_to(there) for file in tracked):
        return f"{target}: the repository has no such file"
    if anchor and there.suffix == ".md" and anchor not in anchors(there.read_text(encoding="utf-8")):
        return f"{target}: the page has no such heading"
    return None


@pytest.fixture(scope="module")
def tracked() -> set[Path]:
    """The files that a fresh clone has, and new ones that git would add; a link to an ignored file is broken."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    return {path for name in listed.split("\0") if name and (path := (ROOT / name).resolve()).exists()}


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(path: Path, tracked: set[Path]):
    found = list(links(path.read_text(encoding="utf-8")))

    assert [reason for target in found if (reason := why_broken(path, target, tracked))] == []


def test_a_missing_file_and_a_missing_heading_are_noticed(tracked: set[Path]):
    page = ROOT / "README.md"

    assert why_broken(page, "CONTRIBUTING.md", tracked) is None
    assert "no such file" in (why_broken(page, "docs/no-such-page.md", tracked) or "")
    assert "no such heading" in (why_broken(page, "CONTRIBUTING.md#no-such-heading", tracked) or "")


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / target).resolve() for target in links(index.read_text(encoding="utf-8"))}

    # Of decisions the index lists their own index, which lists them.
    here = {path for path in index.parent.rglob("*.md") if path != index and path.parent.name != "decisions"}
    assert here - listed == set()
