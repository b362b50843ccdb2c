"""Citations of documents in code, tests and documents: which there are, and which lead nowhere.

A citation is the path of a document from the repository's root, ``docs/….md``. After it may come sections by number
(``, section 2.5``, ``, sections 3.1 to 3.4`` or only `` 2.5``), a section by title (``, section "Title"``) or an anchor
(``#title``). It may go over the end of a line, also in a comment.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NUMBER = r"\d+(?:\.\d+)?[a-z]?\b"
_NUMBERS = rf"{_NUMBER}(?:(?:, | and | to ){_NUMBER})*"
_CITATION = re.compile(
    r"(?<![\w/.-])(?:\.{1,2}/)*(?P<path>docs/[\w./-]*\w\.md)(?:#(?P<anchor>[\w-]+))?"
    rf"""[`)]*(?:,? sections? (?P<numbers>{_NUMBERS})| (?P<short>{_NUMBERS})|,? section "(?P<title>[^"]+)")?"""
)
# [text](target), ![text](target), and the attributes src and href of HTML.
_LINK = re.compile(r"(?:\]\(|\b(?:src|href)=\")(?!\w+:)(?P<path>[^)#\s\"]*)(?:#(?P<anchor>[^)\s\"]+))?(?:\)|\")")
# Documents that the repository never had.
_UNKNOWN_DOCUMENT = re.compile(r"\b(?:EDGESAM_)?(?:SPEC|DESIGN)(?: \d+(?:\.\d+)*|\.md)")
_LINE_END = re.compile(r"[ \t]*\n[ \t]*(?:(?:#|//|/?\*+)[ \t]+)?")


@dataclass(frozen=True, slots=True)
class Headings:
    """Headings of a document.

    Attributes:
        titles: Titles as they are written.
        numbers: Section numbers, such as ``2.5``.
        anchors: Anchors that links may use.
    """

    titles: frozenset[str]
    numbers: frozenset[str]
    anchors: frozenset[str]


def tracked_texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the path from `root` and the text of each tracked file in UTF-8."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        try:
            yield Path(name), (root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # binary, or deleted in the working tree


def unknown_documents(text: str) -> list[str]:
    """Return the citations of documents that the repository never had."""
    return _UNKNOWN_DOCUMENT.findall(_LINE_END.sub(" ", text))


def broken_citations(text: str, root: Path) -> list[str]:
    """Return the citations whose document or section does not exist below `root`, each with the reason."""
    found = []
    for citation in _CITATION.finditer(_LINE_END.sub(" ", text)):
        path = root / citation["path"]
        if not path.is_file():
            found.append(f"{citation[0]}: there is no such file")
            continue
        cited = re.findall(_NUMBER, citation["numbers"] or citation["short"] or "")
        headings = headings_of(path)
        found += [f"{citation[0]}: there is no section {one}" for one in cited if one not in headings.numbers]
        if citation["title"] and citation["title"] not in headings.titles:
            found.append(f"{citation[0]}: there is no such title")
        if citation["anchor"] and citation["anchor"] not in headings.anchors:
            found.append(f"{citation[0]}: there is no such anchor")
    return found


def broken_links(document: Path) -> list[str]:
    """Return the relative links of a Markdown file that lead to no file or no anchor, each with the reason."""
    found = []
    for link in _LINK.finditer(_without_code(document.read_text(encoding="utf-8"))):
        target = document.parent / link["path"] if link["path"] else document
        if not target.exists():
            found.append(f"{link[0]}: there is no such file")
        elif link["anchor"] and target.suffix == ".md" and link["anchor"] not in headings_of(target).anchors:
            found.append(f"{link[0]}: there is no such anchor")
    return found


@cache
def headings_of(document: Path) -> Headings:
    """Return the headings of a Markdown file."""
    text = _without_code(document.read_text(encoding="utf-8"))
    titles = re.findall(r"^#{1,6} (.+?) *$", text, re.MULTILINE)
    numbers = [match[0] for title in titles if (match := re.match(_NUMBER, title))]
    return Headings(frozenset(titles), frozenset(numbers), frozenset(_anchor(title) for title in titles))


def _without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)


def _anchor(title: str) -> str:
    """The anchor that GitHub makes of a title."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
