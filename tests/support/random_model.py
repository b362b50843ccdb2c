"""The model of the conformance weights: random, yet every number of it matters in the masks."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from model_store.edge_sam.model import EdgeSAM, build_edge_sam

_WEIGHTS = Path(__file__).parent.parent / "conformance" / "weights.py"


def random_model(seed: int = 0) -> EdgeSAM:
    """EdgeSAM in training form and eval mode."""
    model = build_edge_sam()
    weights = _module(_WEIGHTS).state_dict(seed)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=True)
    return model.eval()


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
