"""Checkpoints: all arrays of a network in a file, loaded strictly, and initial weights from a seed.

Keys and files: docs/explanation/model.md, sections 4 and 6.

Two kinds of file are read. A `.safetensors` file of this project says in its metadata which architecture it holds. A
PyTorch file (`.pth`) does not; its keys determine the architecture.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.architectures import DEFAULT_ARCHITECTURE, UnknownArchitectureError
from model_store.network.architectures import ENCODERS
from model_store.network.encoders.image_encoder import ImageEncoder, UnsupportedByEncoderError, UpsampleMode
from model_store.network.granularity_module import GranularityModule, granularity_module
from model_store.network.model import PromptableModel, build_model

# Smaller tensors save too little to be rounded: biases, norms, embeddings and the positional matrix stay float32.
FLOAT16_MIN_ELEMENTS = 4096

SAFETENSORS = ".safetensors"
ARCHITECTURE_KEY = "architecture"

_NAMED_KEYS = 5


class CheckpointError(ValueError):
    """The file does not contain the expected weights; the message names the keys that are wrong."""


@dataclass(frozen=True, slots=True)
class _Content:
    """Arrays by name, and the name of the architecture if the file states it."""

    arrays: Mapping[str, Any]
    architecture: str | None = None


def load_checkpoint(path: str | Path, *, upsample_mode: UpsampleMode | None = None) -> PromptableModel:
    """Return the model of a checkpoint file, in eval mode on the CPU.

    Args:
        path: Checkpoint file: of `save_checkpoint`, an official ``.pth`` file, or a training checkpoint whose ``model``
            entry holds all arrays. Only arrays and plain containers are read, no code of the file runs.
        upsample_mode: Interpolation of the encoder, which is not part of the file, see ``ImageEncoder``; None keeps the
            encoder's own.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The file is damaged, or its keys, shapes or values are not those of its architecture.
    """
    content = _read(path)
    try:
        return model_from_state_dict(
            content.arrays, architecture_name=content.architecture, upsample_mode=upsample_mode
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_granularity(path: str | Path, encoder: ImageEncoder) -> GranularityModule:
    """Return the granularity module of a file that its training has written, in eval mode on the CPU.

    Args:
        path: PyTorch file. It does not state with which encoder the module was trained; with others its boxes mean
            nothing.
        encoder: Encoder whose stages the module reads.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The encoder does not support the module, the file is no PyTorch file, or its keys, shapes or
            values are not those of the module.
    """
    state = _read(path).arrays
    try:
        module = granularity_module(encoder)
        _check(module.state_dict(), state, "a granularity module")
    except (CheckpointError, UnsupportedByEncoderError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    module.load_state_dict(state, strict=True)
    return module.eval()


def save_checkpoint(model: PromptableModel, path: str | Path, *, float16: bool = False) -> None:
    """Write the model's arrays to a file.

    Args:
        model: Model in training form, on any device.
        path: File to write. `.safetensors` states the architecture; any other suffix gives a PyTorch file with the bare
            keys, which EdgeSAM's own tools read.
        float16: Whether to store arrays of 4096 elements and more as float16.

    Raises:
        CheckpointError: The model is deployed. Folding cannot be undone, so such a file could not be loaded.
    """
    if model.is_deployed:
        raise CheckpointError("A deployed model has no checkpoint form; save the model it was made from.")
    arrays = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    if float16:
        arrays = {
            key: value.half() if value.is_floating_point() and value.numel() >= FLOAT16_MIN_ELEMENTS else value
            for key, value in arrays.items()
        }
    if Path(path).suffix == SAFETENSORS:
        import safetensors.torch  # noqa: PLC0415 - PyTorch files are written without it

        # The library's own writer makes files that only their owner may read.
        Path(path).write_bytes(safetensors.torch.save(arrays, {ARCHITECTURE_KEY: model.architecture.name}))
    else:
        torch.save(arrays, path)


def model_from_state_dict(
    state: Mapping[str, Any], *, architecture_name: str | None = None, upsample_mode: UpsampleMode | None = None
) -> PromptableModel:
    """Return the model of a state dict, in eval mode.

    Args:
        state: Arrays by name, with exactly the keys of the architecture, 821 for an official EdgeSAM file.
            Floating-point arrays may be of any precision; they are cast to float32.
        architecture_name: Name of the architecture; None takes the one that shares most keys with `state`.
        upsample_mode: Interpolation of the encoder, see ``ImageEncoder``; None leaves the encoder's own.

    Raises:
        CheckpointError: Names the first keys that are missing, unexpected, of a wrong shape or not finite, or the
            architecture that is not known here.
    """
    try:
        name = architecture_name or _likeliest_architecture(state)
        model = build_model(name)
        if upsample_mode is not None:
            model.image_encoder.set_upsample_mode(upsample_mode)
    except (UnknownArchitectureError, UnsupportedByEncoderError) as error:
        raise CheckpointError(str(error)) from error
    article = "an EdgeSAM" if name == DEFAULT_ARCHITECTURE else f"an {name}"
    state = _without_unused(state, model.image_encoder)
    _check(model.state_dict(), state, f"{article} checkpoint")
    model.load_state_dict(state, strict=True)
    return model.eval()


def seeded_model(seed: int, name: str = DEFAULT_ARCHITECTURE, *, frame_size: int = 1024) -> PromptableModel:
    """Return an untrained model in train mode, the same for the same seed, without using torch's global random state.

    Batch norm weights are 1, but smaller for the last of each residual block
    (docs/explanation/model.md, section 2.2); the positional matrix is normal; everything else has PyTorch's defaults.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, frame_size=frame_size)


def _without_unused(state: Mapping[str, Any], encoder: ImageEncoder) -> Mapping[str, Any]:
    """Return a state without the arrays that official files contain although the encoder has no use for them."""
    unused = tuple(f"image_encoder.{prefix}" for prefix in encoder.unused_keys)
    return {key: value for key, value in state.items() if not str(key).startswith(unused)} if unused else state


def _likeliest_architecture(state: Mapping[str, Any]) -> str:
    """Return the architecture that shares most keys with a state; the default where none shares any."""
    shared = dict.fromkeys((DEFAULT_ARCHITECTURE, *ENCODERS), 0)
    for name in shared:
        with torch.device("meta"):
            shared[name] = len(build_model(name).state_dict().keys() & state.keys())
    return max(shared, key=lambda name: shared[name])


def _read(path: str | Path) -> _Content:
    if Path(path).suffix == SAFETENSORS:
        return _read_safetensors(Path(path))
    with Path(path).open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # broken bytes raise errors of many types, OSError included
            raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {_first_line(error)}") from error
    try:
        return _Content(_unwrapped(content))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_safetensors(path: Path) -> _Content:
    import safetensors  # noqa: PLC0415 - PyTorch files are read without it

    with path.open("rb"):  # an absent file is an OSError here as it is for PyTorch files
        pass
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return _Content({key: file.get_tensor(key) for key in file.keys()}, metadata.get(ARCHITECTURE_KEY))  # noqa: SIM118 - the file is no mapping
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {_first_line(error)}") from error


def _unwrapped(content: object) -> Mapping[str, Any]:
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"a mapping of names to arrays was expected, not {type(content).__name__}.")
    return content


def _check(expected: Mapping[str, Tensor], state: Mapping[str, Any], content_name: str) -> None:
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
            "of a wrong type",
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
        raise CheckpointError(f"not {content_name}: " + "; ".join(found) + "." + _hint(expected, state))


def _named(problem: str, keys: Iterable[str]) -> str:
    """Return a text like "3 missing: a, b, c" with at most five names; empty without keys."""
    listed = list(keys)
    if not listed:
        return ""
    rest = len(listed) - _NAMED_KEYS
    more = f", and {rest} more" if rest > 0 else ""
    return f"{len(listed)} {problem}: {', '.join(listed[:_NAMED_KEYS])}{more}"


def _hint(expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Return a sentence about the file's likely content, for common mistakes; empty for none."""
    keys = [str(key) for key in state]
    if keys and all(key.startswith(("fpn.", "rpn_head.")) for key in keys):
        return " This looks like a granularity module, which is used together with a checkpoint, not instead of one."
    if keys and all(f"image_encoder.{key}" in expected for key in keys):
        return " This looks like a stage 1 training checkpoint: the image encoder alone, without the decoder."
    prefix = keys[0].split(".")[0] + "." if keys else ""
    if keys and all(key.removeprefix(prefix) in expected for key in keys if key.startswith(prefix)):
        return f" The keys have a prefix {prefix!r} that an official file does not have."
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
