"""The device of a training process: how it computes, how much fits into its memory, and how a model lies there."""

from collections.abc import Sequence

import torch

from model_store.network.model import PromptableModel
from model_store.training.data.windows import WindowSize
from model_store.training.loop.distributed import DistributedContext
from service.sam.transforms import FRAME_SIZE

# Activations of one prompt on a whole frame, in float32; measured on a CPU with 6 prompts, at all sizes of windows.
_GIB_PER_PROMPT = 0.15
# The rest is for weights, moments and what an allocator cannot use.
_SHARE_OF_MEMORY = 0.7
# Larger batches would make too few steps: a batch 16 times as large needs fewer steps, but not 16 times fewer.
_LARGEST_SCALE = 16


def use_device(name: str, context: DistributedContext | None = None) -> torch.device:
    """Return a device, ready to train on.

    Args:
        name: auto, cpu, cuda or cuda:1; auto takes CUDA where it is.
        context: This process among the processes of the run; None for one that is alone.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = (context or DistributedContext()).device(name)
    if device.type == "cuda":  # matrix products in TF32: fast, and exact enough where bfloat16 is
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device


def scale_of_batches(asked: int | None, device: torch.device, windows: Sequence[WindowSize], *, prompts: int) -> int:
    """Return the factor of all batches.

    Args:
        asked: What the command asks for. None: 1 on a CPU, and as much as fits into the memory of a GPU, 16 at most.
        device: Device of the run.
        windows: Sizes of the windows, with the batches that are scaled.
        prompts: Prompts of a window.
    """
    if asked is not None:
        return asked
    if device.type != "cuda":
        return 1
    frames = max(size.batch * (size.pixels / FRAME_SIZE) ** 2 for size in windows)
    memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    fitting = int(_SHARE_OF_MEMORY * memory_gib / (_GIB_PER_PROMPT * frames * prompts))
    return min(max(fitting, 1), _LARGEST_SCALE)


def to_device(model: PromptableModel, device: torch.device) -> PromptableModel:
    """Move a model to its device, kernels laid out as the frames are: channels last."""
    for value in model.parameters():
        if value.ndim == 4 and value.shape[2] > 1:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return model.to(device)
