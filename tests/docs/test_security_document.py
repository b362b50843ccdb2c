"""Every test that the threat model names exists, and every threat has one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "operations" / "security.md").read_text()


def named() -> list[tuple[str, str]]:
    """Return (file, test) of the table. A test without a file belongs to the file before it. "" means no test."""
    found, path = [], ""
    for given, test in re.findall(r"`([\w/]*(?:\.py|/))?(?:::(test_\w+))?`", DOCUMENT):
        path = given or path
        if given or test:
            found.append((path, test))
    return found


@pytest.mark.parametrize(("path", "test"), named())
def test_every_test_that_the_threat_model_names_exists(path, test):
    assert (ROOT / path).exists()
    assert not test or f"def {test}(" in (ROOT / path).read_text()


def test_every_threat_has_a_test():
    rows = re.search(r"## Threats, defences and tests\n\n(.*?)\n\n", DOCUMENT, re.DOTALL)[1].splitlines()[2:]

    assert len(rows) >= 15
    assert all(re.search(r"`[\w/]+(\.py|/)", row.split("|")[3]) for row in rows)
