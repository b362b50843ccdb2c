"""The words that docs/glossary.md excludes appear nowhere in the repository."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
TEXT = {".py", ".md", ".c", ".h", ".js", ".mjs", ".html", ".css", ".yaml", ".toml", ".json"}
MOST_EXCEPTIONS = 10
FEWEST_WORDS = 40


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the glossary."""
    section = GLOSSARY.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


WORDS = [word.strip().strip('"') for excluded, _ in rows("Words that we do not use") for word in excluded.split(",")]
EXCEPTIONS = [
    (name.strip(" `"), "" if where == "everywhere" else where.strip("`"), reason)
    for names, where, reason in rows("Exceptions")
    for name in names.split(",")
]


def files() -> list[Path]:
    """The tracked text files, without the glossary."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    mine = {GLOSSARY, Path(__file__)}
    return [path for path in paths if path.suffix in TEXT and path.is_file() and path not in mine]


def separated(text: str) -> str:
    """Identifiers as words in lower case: `toHalf` and `to_half` are both found by `to half`."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    return re.sub(r"[_\-\s]+", " ", apart).lower()


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The files by their path in the repository."""
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files()}


@pytest.fixture(scope="module")
def words(texts) -> dict[str, str]:
    """Every file's words, without the excepted names."""
    return {path: separated(without_exceptions(path, text)) for path, text in texts.items()}


def without_exceptions(path: str, text: str) -> str:
    """The text without the names that are excepted in this file."""
    for name, where, _ in EXCEPTIONS:
        if path.startswith(where):
            text = re.sub(rf"\b{re.escape(name)}\b", " ", text)
    return text


@pytest.mark.parametrize("word", WORDS)
def test_the_word_is_not_used(words, word):
    pattern = re.compile(rf"\b{re.escape(separated(word))}\b")

    assert sorted(path for path, text in words.items() if pattern.search(text)) == []


def test_there_are_enough_words_and_few_exceptions():
    assert len(WORDS) >= FEWEST_WORDS
    assert len(EXCEPTIONS) <= MOST_EXCEPTIONS
    assert all(reason for *_, reason in EXCEPTIONS)


@pytest.mark.parametrize(("name", "where", "_"), EXCEPTIONS)
def test_every_exception_is_needed(texts, name, where, _):
    assert any(re.search(rf"\b{re.escape(name)}\b", text) for path, text in texts.items() if path.startswith(where))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("toHalf", "to half"),
        ("to_half", "to half"),
        ("has\n    gone", "has gone"),
        ("RecentDeletions", "recent deletions"),
    ],
)
def test_identifiers_and_line_ends_hide_no_word(text, words):
    assert separated(text) == words
