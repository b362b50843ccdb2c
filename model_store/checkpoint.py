"""Checkpoints: the official 821 arrays in a file, or those of the granularity module, loaded strictly, and initial
weights from a seed (SPEC 4, 6).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.network.granularity_module import GranularityModule
from model_store.network.model import EdgeSAM, build_edge_sam
from model_store.network.repvit_encoder import UpsampleMode

_NAMED_KEYS = 5


class CheckpointError(ValueError):
    """The file does not hold the weights that were asked for; the message names what is wrong."""


def load_checkpoint(path: str | Path, *, upsample_mode: UpsampleMode = "bicubic") -> EdgeSAM:
    """The model of a checkpoint file, in eval mode on the CPU.

    Args:
        path: an official ``.pth`` file, a file of ``save_checkpoint``, or a training checkpoint whose ``model`` entry
            holds all arrays. Only tensors and plain containers are unpickled, no code of the file runs.
        upsample_mode: not part of the file, see ``ImageEncoder``.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is no PyTorch file, or its keys, shapes or values are not those of EdgeSAM.
    """
    state = _read(path)
    try:
        return model_from_state_dict(state, upsample_mode=upsample_mode)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_granularity(path: str | Path) -> GranularityModule:
    """The granularity module of a file that its training has written, in eval mode on the CPU.

    The file does not say on which encoder the module was trained; on another one its boxes mean nothing.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is no PyTorch file, or its keys, shapes or values are not those of the module.
    """
    module, state = GranularityModule(), _read(path)
    try:
        _check(module.state_dict(), state, "a granularity module")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    module.load_state_dict(state, strict=True)
    return module.eval()


def save_checkpoint(model: EdgeSAM, path: str | Path) -> None:
    """Writes the model's arrays flat, under the official keys, from the CPU.

    Raises:
        CheckpointError: the model is deployed: folding cannot be undone, so nobody could load the file.
    """
    if model.is_deployed:
        raise CheckpointError("A deployed model has no checkpoint form; save the model it was made from.")
    torch.save({key: value.cpu() for key, value in model.state_dict().items()}, path)


def model_from_state_dict(state: Mapping[str, Any], *, upsample_mode: UpsampleMode = "bicubic") -> EdgeSAM:
    """The model of a state dict, in eval mode.

    Args:
        state: exactly the 821 official keys; floating-point arrays may be of any precision, they are cast to float32.
        upsample_mode: see ``ImageEncoder``.

    Raises:
        CheckpointError: names the first keys that are missing, unexpected, of a wrong shape or not finite.
    """
    model = build_edge_sam(upsample_mode)
    _check(model.state_dict(), state, "an EdgeSAM checkpoint")
    model.load_state_dict(state, strict=True)
    return model.eval()


def seeded_model(seed: int, *, upsample_mode: UpsampleMode = "bicubic", frame_size: int = 1024) -> EdgeSAM:
    """An untrained model, in train mode, the same for the same seed; torch's global random state is left alone.

    Batch norm weights are 1, but 0 for the last of each channel mixer (SPEC 2.2); the positional matrix is normal;
    everything else has PyTorch's defaults.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_edge_sam(upsample_mode, frame_size=frame_size)


def _read(path: str | Path) -> Mapping[str, Any]:
    with Path(path).open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the bytes of a broken file lead to, OSError included
            raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {_first_line(error)}") from error
    try:
        return _unwrapped(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _unwrapped(content: object) -> Mapping[str, Any]:
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"a mapping of names to arrays was expected, not {type(content).__name__}.")
    return content


def _check(expected: Mapping[str, Tensor], state: Mapping[str, Any], what: str) -> None:
    problems = [
        _named("missing", (key for key in expected if key not in state)),
        _named("unexpected", (str(key) for key in state if key not in expected)),
    ]
    shared = {key: value for key, value in state.items() if key in expected}
    arrays = {key: value for key, value in shared.items() if isinstance(value, Tensor)}
    problems += [
        _named("not arrays", (key for key in shared if key not in arrays)),
        _named(
            "of a wrong shape",
            (
                f"{key} {list(value.shape)} instead of {list(expected[key].shape)}"
                for key, value in arrays.items()
                if value.shape != expected[key].shape
            ),
        ),
        _named(
            "of a wrong kind",
            (
                f"{key} {value.dtype} instead of {expected[key].dtype}"
                for key, value in arrays.items()
                if value.is_floating_point() != expected[key].is_floating_point() or value.is_complex()
            ),
        ),
        _named("not finite", (key for key, value in arrays.items() if not bool(torch.isfinite(value).all()))),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(f"not {what}: " + "; ".join(found) + "." + _hint(expected, state))


def _named(kind: str, keys: Iterable[str]) -> str:
    """Like "3 missing: a, b, c", at most five by name; empty when there is none."""
    listed = list(keys)
    if not listed:
        return ""
    rest = len(listed) - _NAMED_KEYS
    more = f", and {rest} more" if rest > 0 else ""
    return f"{len(listed)} {kind}: {', '.join(listed[:_NAMED_KEYS])}{more}"


def _hint(expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """What the file seems to be instead, for the mistakes that are common."""
    keys = [str(key) for key in state]
    if keys and all(key.startswith(("fpn.", "rpn_head.")) for key in keys):
        return " This looks like a granularity module, which goes with a checkpoint and not in its place."
    if keys and all(f"image_encoder.{key}" in expected for key in keys):
        return " This looks like a stage 1 training checkpoint: the image encoder alone, without the decoder."
    prefix = keys[0].split(".")[0] + "." if keys else ""
    if keys and all(key.removeprefix(prefix) in expected for key in keys if key.startswith(prefix)):
        return f" The keys have a prefix {prefix!r} that an official file does not have."
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
