"""Every problem has a test: a test of tests/api or tests/e2e checks an answer with each class of service/errors.py."""

import ast
from pathlib import Path

import pytest

from service import errors
from service.errors import ServiceError

TESTS = Path(__file__).parent.parent


def every_error() -> list[type[ServiceError]]:
    """Return the error classes that have a code."""
    return sorted(
        (
            value
            for value in vars(errors).values()
            if isinstance(value, type) and issubclass(value, ServiceError) and value is not ServiceError
        ),
        key=lambda error: error.code,
    )


def seen_by_error() -> dict[str, set[str]]:
    """Return the tests that check each class in an answer with `assert_problem`, by class name."""
    found: dict[str, set[str]] = {}
    for path in sorted([*(TESTS / "api").glob("test_*.py"), *(TESTS / "e2e").glob("test_*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
                for name in names if "assert_problem" in names else ():
                    found.setdefault(name, set()).add(f"{path.name}::{node.name}")
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_every_problem_is_checked_in_an_answer(error):
    tests = seen_by_error().get(error.__name__, set())

    assert tests, f"no test in tests/api or tests/e2e asserts {error.__name__} with assert_problem"


def test_codes_and_titles_are_unique():
    found = every_error()

    assert len({error.code for error in found}) == len(found) == 30
    assert len({error.title for error in found}) == len(found)
    assert all(400 <= error.status < 600 for error in found)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    lines = [line.split() for line in (errors.__doc__ or "").splitlines() if "──" in line]

    drawn = {
        (name, status, code)
        for words in lines
        for name, status, code in zip(words, words[1:], words[2:], strict=False)
        if status.isdecimal() and len(status) == 3
    }

    assert drawn == {(error.__name__, str(error.status), error.code) for error in every_error()}
