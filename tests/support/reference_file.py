"""A file of reference arrays, whose names are `group/name`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np


class ReferenceFile:
    """The reference arrays of one model, read on first use.

    Args:
        path: NumPy archive.
        calls: Names of calls of the predictor, of which the archive may have some.
    """

    def __init__(self, path: Path, calls: Sequence[str]) -> None:
        self._path, self._calls = path, calls

    @cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays by name."""
        with np.load(self._path) as arrays:
            return dict(arrays)

    def calls(self) -> tuple[str, ...]:
        """Return the names of the predictor's calls that the archive has."""
        return tuple(call for call in self._calls if f"predict/{call}/scores" in self.arrays)

    def call(self, name: str) -> Mapping[str, np.ndarray]:
        """Return the arguments and the outputs of a call of the predictor, by name."""
        return self.group(f"predict/{name}")

    def group(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a group by their names in it."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): array for key, array in self.arrays.items() if key.startswith(prefix)}
