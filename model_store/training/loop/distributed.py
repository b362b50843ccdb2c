"""Distributed context: rank and world size of a process that torchrun has started, and its collective operations."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

# torchrun notices a process that dies. This timeout is for a process that hangs. It is long, since a machine or its
# processes may be paused for a while, and the run should continue afterwards.
_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """Rank and world size of this process in its run.

    Args:
        rank: Rank of this process. Rank 0 writes files; the other ranks only compute.
        world_size: Number of processes; 1 without torchrun.
        local_rank: Rank of this process on its machine, which is also the index of its GPU.
        local_world_size: Number of processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return the device of this process: its own GPU if the name has no index.

        Args:
            name: Name of the device: cpu, cuda or cuda:1.

        Raises:
            ValueError: The device does not exist.
        """
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ValueError(f"{name} is not a device; give cpu, cuda or cuda:1") from error
        if device.type != "cuda":
            return device
        device = torch.device("cuda", self.local_rank if device.index is None else device.index)
        count = torch.cuda.device_count()
        if device.index >= count:
            raise ValueError(f"{name} cannot be used: torch finds {count} GPUs for process {self.local_rank}")
        torch.cuda.set_device(device)
        return device

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sums over all processes, by name; every process must pass the same names."""
        if self.world_size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=_exchange_device())
        distributed.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def average(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its mean over all processes."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
            tensor /= self.world_size

    def average_buffers(self, model: nn.Module) -> None:
        """Average running statistics in one exchange, since each process is trained with other images."""
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.world_size == 1 or not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        self.average(flat)
        for buffer, mean in zip(buffers, torch.split(flat, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view(buffer.shape))

    def barrier(self) -> None:
        """Wait until all processes reach this call."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def distributed_context() -> Iterator[DistributedContext]:
    """Join the process group of torchrun; without torchrun the context has a single process.

    A process group that the caller has already made is used and is not destroyed.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield DistributedContext()
        return
    is_joined = distributed.is_initialized()
    if not is_joined:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    local_rank, local_world_size = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    try:
        yield DistributedContext(distributed.get_rank(), world_size, local_rank, max(local_world_size, 1))
    finally:
        if not is_joined:
            distributed.destroy_process_group()


def _exchange_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
