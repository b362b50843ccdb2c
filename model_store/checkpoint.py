"""Checkpoints as models: all arrays of a network in a file, loaded strictly, and initial weights from a seed.

Keys and files: docs/explanation/model.md, sections 4 and 6. The files themselves are read by
`model_store.checkpoint_files`, without torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.architectures import DEFAULT_ARCHITECTURE, UnknownArchitectureError, architecture
from model_store.checkpoint_files import CheckpointError, read_checkpoint, recognise
from model_store.checkpoint_files.checked import checked_checkpoint
from model_store.checkpoint_files.comparison import check_arrays, check_finite, content_name
from model_store.checkpoint_files.expected import ExpectedArray
from model_store.checkpoint_files.matching import matched_keys
from model_store.checkpoint_files.reading import ARCHITECTURE_KEY, SAFETENSORS
from model_store.checkpoint_files.rounding import FLOAT16_MIN_ELEMENTS
from model_store.checkpoint_files.sam2_names import official_name
from model_store.network.encoders.image_encoder import ImageEncoder, UnsupportedByEncoderError, UpsampleMode
from model_store.network.granularity_module import GranularityModule, granularity_module
from model_store.network.model import PromptableModel, build_model

__all__ = [
    "ARCHITECTURE_KEY",
    "CheckpointError",
    "load_checkpoint",
    "load_granularity",
    "model_from_state_dict",
    "save_checkpoint",
    "seeded_model",
]


def load_checkpoint(path: str | Path, *, upsample_mode: UpsampleMode | None = None) -> PromptableModel:
    """Return the model of a checkpoint file, in eval mode on the CPU.

    Args:
        path: Checkpoint file of any model of the family: of `save_checkpoint`, as its authors publish it, or of a
            training program, see `read_checkpoint`. No code of the file runs.
        upsample_mode: Interpolation of the encoder, which is not part of the file, see ``ImageEncoder``; None keeps the
            encoder's own.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The file is damaged, or its keys, shapes or values are not those of its architecture.
    """
    checkpoint = checked_checkpoint(path)
    try:
        return _model(checkpoint.architecture.name, checkpoint.arrays, upsample_mode)
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
    file = read_checkpoint(path)
    try:
        module = granularity_module(encoder)
        check_arrays(_forms(module.state_dict()), file.tensors, "a granularity module", others=file.others)
        check_finite(file.arrays, file.arrays, "a granularity module")
    except (CheckpointError, UnsupportedByEncoderError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    _fill(module, file.arrays)
    return module.eval()


def save_checkpoint(model: PromptableModel, path: str | Path, *, float16: bool = False) -> None:
    """Write the model's arrays to a file, under the names of official files.

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
    if model.architecture.mask_decoder == "sam2":
        arrays = {official_name(key): value for key, value in arrays.items()}
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
        state: Arrays by name, with exactly the keys of the architecture, 821 for an official EdgeSAM file. For SAM 2's
            family, the names are those of official files or of the network. Floating-point arrays may be of any
            precision; they are cast to float32.
        architecture_name: Name of the architecture; None recognises it by the keys.
        upsample_mode: Interpolation of the encoder, see ``ImageEncoder``; None leaves the encoder's own.

    Raises:
        CheckpointError: Names the first keys that are missing, unexpected, of a wrong shape or not finite, or the
            architecture that is not known here.
    """
    forms = _forms(state)
    try:
        shapes = {key: form.shape for key, form in forms.items()}
        entry = architecture(architecture_name) if architecture_name else recognise(shapes)
    except UnknownArchitectureError as error:
        raise CheckpointError(str(error)) from error
    keys = matched_keys(entry, forms, others=[str(key) for key in state if key not in forms])
    arrays = {key: state[key].detach().cpu().float().numpy() for key in keys.values()}
    check_finite(arrays, arrays, content_name(entry))
    return _model(entry.name, {own: arrays[key] for own, key in keys.items()}, upsample_mode)


def seeded_model(seed: int, name: str = DEFAULT_ARCHITECTURE, *, frame_size: int = 1024) -> PromptableModel:
    """Return an untrained model in train mode, the same for the same seed, without using torch's global random state.

    Batch norm weights are 1, but smaller for the last of each residual block
    (docs/explanation/model.md, section 2.2); the positional matrix is normal; everything else has PyTorch's defaults.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, frame_size=frame_size)


def _model(name: str, arrays: Mapping[str, NDArray[Any]], upsample_mode: UpsampleMode | None) -> PromptableModel:
    try:
        model = build_model(name)
        if upsample_mode is not None:
            model.image_encoder.set_upsample_mode(upsample_mode)
    except (UnknownArchitectureError, UnsupportedByEncoderError) as error:
        raise CheckpointError(str(error)) from error
    _fill(model, arrays)
    return model.eval()


def _fill(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy checked arrays into a module, one at a time, so that a large file is in memory once."""
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key in arrays:  # counters of training may be absent
                tensor.copy_(torch.from_numpy(np.array(arrays[key])))


def _forms(state: Mapping[str, Any]) -> dict[str, ExpectedArray]:
    """Return shape and number format of the values that are tensors."""
    return {
        str(key): ExpectedArray(tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
