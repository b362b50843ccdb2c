"""A run on disk: everything that continues it exactly, in one file or in pieces that travel."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model_store.catalog import ModelStoreError

STATE_NAME = "state.pt"
INDEX_NAME = "state.json"
PIECE_BYTES = 14 * 2**20
"""Below 16 MiB, the largest file that comes back from a borrowed machine."""


class StateError(ModelStoreError):
    """The folder holds no state that can be continued; the message says why."""


def save_state(state: Mapping[str, Any], folder: Path) -> Path:
    """Write a state, in one step: a run that is killed meanwhile leaves the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{STATE_NAME}.new"
    torch.save(dict(state), fresh)
    fresh.replace(folder / STATE_NAME)
    return folder / STATE_NAME


def load_state(folder: Path) -> dict[str, Any]:
    """The state of a folder: the one file, or the pieces of `split_state` where it is absent.

    Raises:
        StateError: neither is there, or a piece is missing or damaged.
    """
    if (folder / STATE_NAME).is_file():
        state: dict[str, Any] = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True)
        return state
    if not (folder / INDEX_NAME).is_file():
        raise StateError(f"{folder} holds no {STATE_NAME} and no {INDEX_NAME}")
    index = json.loads((folder / INDEX_NAME).read_text())
    parts = []
    for piece in index["pieces"]:
        path = folder / piece["file"]
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != piece["sha256"]:
            raise StateError(f"{path} is missing or damaged")
        parts.append(data)
    state = torch.load(io.BytesIO(b"".join(parts)), map_location="cpu", weights_only=True)
    return _widened(state)


def split_state(state: Mapping[str, Any], folder: Path, *, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """Write a state as pieces for the way between machines.

    The optimiser's moments and the difference of the mean to the weights go as bfloat16, the weights as they are: a run
    goes on as well, though not bit for bit, and 96 MB instead of 154 travel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(_narrowed(state), buffer)
    data = buffer.getvalue()
    pieces, paths = [], []
    for number, start in enumerate(range(0, len(data), piece_bytes)):
        piece = data[start : start + piece_bytes]
        path = folder / f"state-{number:02d}.bin"
        path.write_bytes(piece)
        pieces.append({"file": path.name, "sha256": hashlib.sha256(piece).hexdigest()})
        paths.append(path)
    (folder / INDEX_NAME).write_text(json.dumps({"pieces": pieces}, indent=2))
    return [*paths, folder / INDEX_NAME]


def _narrowed(state: Mapping[str, Any]) -> dict[str, Any]:
    narrow = dict(state)
    model = state["model"]
    narrow["average"] = {
        key: (value - model[key]).bfloat16() if value.is_floating_point() else value
        for key, value in state["average"].items()
    }
    narrow["optimiser"] = {
        **state["optimiser"],
        "state": {
            index: {
                name: value.bfloat16() if name in {"exp_avg", "exp_avg_sq"} else value for name, value in one.items()
            }
            for index, one in state["optimiser"]["state"].items()
        },
    }
    return narrow | {"is_narrow": True}


def _widened(state: dict[str, Any]) -> dict[str, Any]:
    if not state.pop("is_narrow", False):
        return state
    model = state["model"]
    state["average"] = {
        key: model[key] + value.float() if value.is_floating_point() else value
        for key, value in state["average"].items()
    }
    for one in state["optimiser"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            if name in one:
                one[name] = one[name].float()
    return state
