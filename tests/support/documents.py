"""The repository's documents: their pages and code blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def pages() -> list[Path]:
    """Return README.md, CONTRIBUTING.md and the other Markdown files of the root and of docs/, sorted."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def page(path: str) -> str:
    """Return the text of a page.

    Args:
        path: Relative to the repository, such as `docs/tutorial.md`.
    """
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language in their order, without the indentation of a list that they stand in.

    Args:
        text: Text of a page.
        language: What follows the opening fence, such as `sh`.
    """
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]
