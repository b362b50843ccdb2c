"""The processes of a run that torchrun started together: who is who, and what all have to agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

# A process that dies is noticed by torchrun; this bounds waiting for one that hangs. Long, since a machine or its
# processes may be paused for a while, and the run should live on afterwards.
_WAIT = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run.

    Args:
        rank: 0 writes, the others only compute.
        count: 1 without torchrun.
        local_rank: which device of this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: its own GPU where the name leaves the number open."""
        device = torch.device(name)
        if device.type != "cuda":
            return device
        device = torch.device("cuda", self.local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
        return device

    def agree(self, *values: float) -> tuple[float, ...]:
        """The first process's values, in all processes: clocks differ, and steps must not."""
        if self.count == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=_meeting_device())
        distributed.broadcast(shared, 0)
        return tuple(shared.tolist())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes."""
        if self.count == 1:
            return module
        # A step without mask prompts leaves their convolutions without a gradient.
        return DistributedDataParallel(module, find_unused_parameters=True)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_WAIT)
    try:
        yield Processes(distributed.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        distributed.destroy_process_group()


def _meeting_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
