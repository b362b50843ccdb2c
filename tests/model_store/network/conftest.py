"""The model with the reference weights, and its outputs for the reference image, computed once a session."""

import numpy as np
import pytest
import torch
from support.official_reference import reference_image
from support.reference_weights import state_dict

from model_store.checkpoint import model_from_state_dict
from model_store.network.encoders.image_encoder import UpsampleMode
from model_store.network.frames import frame
from model_store.network.model import PromptableModel, build_model


def weighted_model(seed: int, *, upsample_mode: UpsampleMode = "bicubic") -> PromptableModel:
    shapes = {key: tuple(value.shape) for key, value in build_model().state_dict().items()}
    arrays = {key: torch.from_numpy(array) for key, array in state_dict(shapes, seed).items()}
    return model_from_state_dict(arrays, upsample_mode=upsample_mode)


@pytest.fixture(scope="session")
def make_model():
    return weighted_model


@pytest.fixture(scope="session")
def model() -> PromptableModel:
    return weighted_model(0)


@pytest.fixture(scope="session")
def taps(model: PromptableModel) -> dict[str, np.ndarray]:
    """Every intermediate result of the image encoder that the reference has, by its name there."""
    encoder = model.image_encoder
    modules = {
        "stem": encoder.features[0],
        "block1": encoder.features[1],
        "stage0": encoder.features[3],
        "block4_down": encoder.features[4],
        "stage1": encoder.features[7],
        "block9_se": encoder.features[9],
        "stage2": encoder.features[23],
        "stage3": encoder.features[26],
        "lateral2": encoder.fuse_stage2,
        "top_up": encoder.fuse_stage3,
        "neck0": encoder.neck[0],
        "neck1": encoder.neck[1],
        "embedding": encoder,
    }
    taken = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: taken.update({name: output.numpy()}))
        for name, module in modules.items()
    ]
    image = frame(reference_image())
    with torch.inference_mode():
        encoder(image)
    for hook in hooks:
        hook.remove()
    return taken | {"input": image.numpy()}


@pytest.fixture(scope="session")
def embedding(taps: dict[str, np.ndarray]) -> np.ndarray:
    """Our embedding of the reference image, (1, 256, 64, 64) float32."""
    return taps["embedding"]
