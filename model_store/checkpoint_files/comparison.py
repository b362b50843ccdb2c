"""Compares the arrays of a checkpoint with those of its architecture; an error names the keys that differ."""

from collections.abc import Container, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.architectures import DEFAULT_ARCHITECTURE, Architecture
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import ENCODER, is_unused, may_be_absent

_NAMED_KEYS = 5


class ArrayForm(Protocol):
    """Shape and number format of an array, such as "float32"."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...


def content_name(architecture: Architecture) -> str:
    """Return the words for a checkpoint of an architecture in messages."""
    name = "EdgeSAM" if architecture.name == DEFAULT_ARCHITECTURE else architecture.name
    return f"{'an' if name[0] in 'aeiouE' else 'a'} {name} checkpoint"


def used_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys of a file without those that no network of the family uses."""
    return [key for key in keys if not is_unused(key)]


def check_arrays(
    expected: Mapping[str, ArrayForm],
    found: Mapping[str, ArrayForm],
    name: str,
    *,
    others: Iterable[str] = (),
    optional: Container[str] = (),
) -> None:
    """Compare keys, shapes and number formats. Any floating-point format may stand for any other.

    Args:
        expected: Arrays of the architecture by key.
        found: Arrays of the file by key.
        name: Words for what was expected, such as "an EdgeSAM checkpoint".
        others: Keys of the file whose values are no arrays.
        optional: Keys of expected arrays that may be absent, beside counters of training.

    Raises:
        CheckpointError: Names the first keys that are missing, unexpected, no arrays, of a wrong shape or format.
    """
    others = list(others)
    keys = [*found, *others]
    present = set(keys)
    shared = {key: array for key, array in found.items() if key in expected}
    problems = [
        _named(
            "missing",
            (key for key in expected if not (key in present or key in optional or may_be_absent(key))),
        ),
        _named("unexpected", (key for key in keys if key not in expected)),
        _named("not arrays", (key for key in others if key in expected)),
        _named(
            "of a wrong shape",
            (
                f"{key} {list(value.shape)} instead of {list(expected[key].shape)}"
                for key, value in shared.items()
                if tuple(value.shape) != tuple(expected[key].shape)
            ),
        ),
        _named(
            "of a wrong type",
            (
                f"{key} {value.dtype} instead of {expected[key].dtype}"
                for key, value in shared.items()
                if _kind(value.dtype) != _kind(expected[key].dtype)
            ),
        ),
    ]
    _raise_for(problems, name, hint=_hint(expected, keys))


def check_finite(arrays: Mapping[str, NDArray[Any]], keys: Iterable[str], name: str) -> None:
    """Read arrays and check that every number is finite, also as float32, in which the graphs compute.

    Args:
        arrays: Arrays by key.
        keys: Keys of the arrays to check.
        name: Words for what was expected, such as "an EdgeSAM checkpoint".

    Raises:
        CheckpointError: Names the first arrays with a number that is infinite or none at all.
    """
    _raise_for([_named("not finite", (key for key in keys if not is_finite(arrays[key])))], name)


def is_finite(array: NDArray[Any]) -> bool:
    """Return whether every number of an array is finite as float32."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32, copy=False)).all())


def _raise_for(problems: list[str], name: str, *, hint: str = "") -> None:
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(f"not {name}: " + "; ".join(found) + "." + hint)


def _kind(dtype: str) -> str:
    """Return "complex", "float" or "" for integers and truth values."""
    return next((kind for kind in ("complex", "float") if kind in dtype), "")


def _named(problem: str, keys: Iterable[str]) -> str:
    """Return a text like "3 missing: a, b, c" with at most five names; empty without keys."""
    listed = [key[:200] for key in keys]
    if not listed:
        return ""
    rest = len(listed) - _NAMED_KEYS
    more = f", and {rest} more" if rest > 0 else ""
    return f"{len(listed)} {problem}: {', '.join(listed[:_NAMED_KEYS])}{more}"


def _hint(expected: Mapping[str, ArrayForm], keys: list[str]) -> str:
    """Return a sentence about the file's likely content, for common mistakes; empty for none."""
    if keys and all(key.startswith(("fpn.", "rpn_head.")) for key in keys):
        return " This looks like a granularity module, which is used together with a checkpoint, not instead of one."
    if keys and all(f"{ENCODER}{key}" in expected for key in keys):
        return " This looks like a stage 1 training checkpoint: the image encoder alone, without the decoder."
    if keys and all(key in expected for key in keys) and not any(key.startswith(ENCODER) for key in keys):
        return " It has no image encoder: such a decoder is used together with an encoder, see 'import --encoder'."
    prefix = keys[0].partition(".")[0] + "." if keys else ""
    with_prefix = [key for key in keys if key.startswith(prefix)]
    if with_prefix and all(key.removeprefix(prefix) in expected for key in with_prefix):
        return f" The keys have a prefix {prefix[:100]!r} that an official file does not have."
    return ""
