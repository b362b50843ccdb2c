"""The device of a training process: its settings, the batch size that fits into its memory, and memory layout."""

from collections.abc import Sequence

import torch

from model_store.network.model import PromptableModel
from model_store.training.data.windows.dataset import WindowSize
from model_store.training.loop.distributed import DistributedContext
from service.sam.transforms import FRAME_SIZE

# Memory of the activations of one prompt on a whole frame, in float32; measured on a CPU with 6 prompts, at all sizes.
_GIB_PER_PROMPT = 0.15
# The rest is for weights, moments and what an allocator cannot use.
_SHARE_OF_MEMORY = 0.7
# Larger batches would make too few steps: a batch 16 times as large needs fewer steps, but not 16 times fewer.
_LARGEST_SCALE = 16


def use_device(name: str, context: DistributedContext | None = None) -> torch.device:
    """Return a device, ready to train on.

    Args:
        name: Name of the device: auto, cpu, cuda or cuda:1; auto takes CUDA if it is available.
        context: Rank and world size of this process; None for a single process.

    Raises:
        ValueError: The device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = (context or DistributedContext()).device(name)
    if device.type == "cuda":  # TF32 makes matrix products faster, and is more exact than bfloat16
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device


def scale_of_batches(
    requested: int | None, device: torch.device, windows: Sequence[WindowSize], *, prompts: int
) -> int:
    """Return the factor by which all batches are multiplied.

    Args:
        requested: Requested factor. None: 1 on a CPU, and as much as fits into the memory of a GPU, 16 at most.
        device: Device of the run.
        windows: Sizes of the windows, with their batches.
        prompts: Number of prompts of a window.
    """
    if requested is not None:
        return requested
    if device.type != "cuda":
        return 1
    frames = max(size.batch * (size.pixels / FRAME_SIZE) ** 2 for size in windows)
    memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    fitting = int(_SHARE_OF_MEMORY * memory_gib / (_GIB_PER_PROMPT * frames * prompts))
    return min(max(fitting, 1), _LARGEST_SCALE)


def to_device(model: PromptableModel, device: torch.device) -> PromptableModel:
    """Move a model to its device, with kernels in the memory layout of the frames: channels last."""
    for value in model.parameters():
        if value.ndim == 4 and value.shape[2] > 1:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return model.to(device)
