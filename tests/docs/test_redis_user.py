"""The Redis user in the explanation of caching is the one that deployments create."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "explanation" / "caching-and-deletion.md").read_text(encoding="utf-8")


def rights(text: str) -> list[str]:
    """Return the rights of the only user `edgesam` in a text, without its password."""
    (line,) = re.findall(r"^user edgesam on (.*)$", text, re.MULTILINE)
    return [word for word in line.split()[1:] if word.startswith(("~", "&", "+", "-"))]


@pytest.mark.parametrize("path", ["docker/make-secrets", "k8s/make-secrets"])
def test_the_documented_redis_user_has_the_rights_that_deployments_grant(path: str):
    granted = re.sub(r"\$\(.*?\)", "", (ROOT / path).read_text(encoding="utf-8"))

    assert rights(PAGE) == rights(granted)


def test_every_right_of_the_documented_redis_user_is_explained():
    table = PAGE.partition("| right | needed for |")[2]

    explained = set(re.findall(r"`([~&+][^`]*)`", table))

    assert set(rights(PAGE)) - {"-@all"} <= explained
