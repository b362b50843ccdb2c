"""The weights of `edgesam-lite` on a machine that has torch, but not the library of `.safetensors` files."""

import json
from pathlib import Path

import torch

from model_store.checkpoint import ARCHITECTURE_KEY, model_from_state_dict
from model_store.network.model import PromptableModel

CHECKPOINT = Path(__file__).parents[3] / "model_store" / "checkpoints" / "edgesam-lite.safetensors"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}


def read_checkpoint(path: Path) -> PromptableModel:
    """Load a `.safetensors` file without its library: length of the header, header in JSON, numbers."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    metadata = header.pop("__metadata__", {})
    numbers = torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8)
    arrays = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        # A copy, since torch requires aligned arrays, and these start at any byte.
        arrays[name] = numbers[first:end].clone().view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return model_from_state_dict(arrays, architecture_name=metadata.get(ARCHITECTURE_KEY))
