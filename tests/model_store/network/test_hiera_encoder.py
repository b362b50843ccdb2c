"""The Hiera encoders of SAM 2.1 give what the official ones give, in torch and in ONNX Runtime.

`test_hiera_blocks` has the quick tests of the same code, with small encoders.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.official_reference import assert_stats_agree
from support.sam2_encoder_reference import MAPS, Maps, assert_maps_agree, assert_sam2_taps_agree, sam2_taps
from support.sam2_reference import open_sam2
from support.sam2_weights import shapes, state_dict
from support.sam_family_reference import family_image
from support.traced_graph import write_traced
from torch.nn import functional

from model_store.checkpoint_files.sam2_names import official_name, our_name
from model_store.hiera_shape import HIERA_SHAPES
from model_store.network.architectures import build_encoder
from model_store.network.encoders.hiera.encoder import HieraEncoder
from model_store.network.frames import frame
from model_store.network.model import build_model

TOLERANCE = 2e-5  # docs/explanation/sam2.md: above every rounding effect, below every known mistake
# Of the published checkpoints: number of keys that single images need, and parameters of all and of the trunk.
PUBLISHED = {
    "sam2.1-tiny": (311, 31_440_721, 26_849_472),
    "sam2.1-small": (359, 38_538_577, 33_947_328),
    "sam2.1-base-plus": (455, 73_328_401, 68_675_712),
    "sam2.1-large": (743, 216_924_865, 212_149_296),
}
LARGER = [name for name in PUBLISHED if name != "sam2.1-tiny"]
EVERY_SIZE = [
    pytest.param("sam2.1-tiny", "committed", marks=pytest.mark.slow),
    *(pytest.param(name, "full", marks=[pytest.mark.fixtures, pytest.mark.large]) for name in LARGER),
]
# The committed arrays of tiny are a part of these; `make test` compares with them.
TINY_IN_FULL = pytest.param("sam2.1-tiny", "full", marks=[pytest.mark.fixtures, pytest.mark.large])


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_counts_are_those_of_the_published_files(name):
    with torch.device("meta"):
        model = build_model(name)

    ours = {official_name(key): tuple(value.shape) for key, value in model.state_dict().items()}

    assert ours == dict(shapes(name))
    trunk = model.image_encoder.trunk
    counts = (len(ours), *(sum(value.numel() for value in part.parameters()) for part in (model, trunk)))
    assert counts == PUBLISHED[name]
    assert model.image_encoder.name == model.architecture.encoder


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_that_a_checkpoint_states_tell_the_encoders_apart(name):
    stated = shapes(name)
    blocks = {int(key.split(".")[3]) for key in stated if key.startswith("image_encoder.trunk.blocks.")}
    width = stated["image_encoder.trunk.blocks.0.attn.qkv.weight"][1]
    position = stated["image_encoder.trunk.pos_embed"]

    found = [
        name
        for name, shape in HIERA_SHAPES.items()
        if (1, shape.channels, shape.position_side, shape.position_side) == position
        and (shape.channels, shape.depth) == (width, len(blocks))
    ]

    assert found == [name]


@pytest.mark.parametrize(("name", "part"), [*EVERY_SIZE, TINY_IN_FULL])
def test_the_blocks_the_neck_and_the_maps_agree(name, part):
    expected = dict(open_sam2(name, part).arrays)
    taps = block_taps(reference_encoder(name), frame(family_image(), resize="stretch"))

    for tap in [key.removesuffix("_shape") for key in expected if key.endswith("_attn_windows_shape")]:
        reference = {key: expected.pop(f"{tap}_{key}") for key in ("shape", "slice", "stats", "steps")}
        assert_windows_agree(taps.pop(tap.removeprefix("tap/")), reference)
    assert_sam2_taps_agree(taps, expected, TOLERANCE)


@pytest.mark.parametrize(("name", "part"), EVERY_SIZE)
def test_onnx_runtime_gives_the_maps(name, part, tmp_path):
    expected = open_sam2(name, part).arrays
    image = frame(family_image(), resize="stretch")
    write_traced(Maps(reference_encoder(name)), torch.zeros_like(image), tmp_path / "encoder.onnx", outputs=MAPS)

    maps = computed(tmp_path / "encoder.onnx", image.numpy())

    assert_maps_agree({key: array[0] for key, array in maps.items()}, expected, TOLERANCE)


@pytest.mark.parametrize("name", ["sam2.1-tiny", *(pytest.param(name, marks=pytest.mark.large) for name in LARGER)])
def test_weights_of_another_seed_load(name):
    encoder = reference_encoder(name, seed=7)

    assert all(bool(value.isfinite().all()) for value in encoder.parameters())


def test_a_frame_of_another_side_is_refused():
    with pytest.raises(ValueError, match="multiple of 1024, not 512"), torch.device("meta"):
        build_model("sam2.1-tiny", frame_size=512)


def reference_encoder(name: str, seed: int = 0) -> HieraEncoder:
    """Return the encoder with the weights of the reference, without a second copy of its arrays."""
    with torch.device("meta"):
        encoder = build_encoder(name)
    prefix = "image_encoder."
    arrays = {our_name(key): torch.from_numpy(array) for key, array in state_dict(name, seed).items()}
    own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    encoder.load_state_dict(own, strict=True, assign=True)
    assert isinstance(encoder, HieraEncoder)
    return encoder.eval()


def computed(graph: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of a graph for images (B, 3, S, S), by name."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return dict(zip(MAPS, session.run(list(MAPS), {"x": image}), strict=True))


def block_taps(encoder: HieraEncoder, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what `sam2_taps` does and each block's output as (C, H, W), by the names of the references.

    ``blockN_attn_windows`` is the output of an attention as (windows, w, w, C), NaN at padded places: we do not
    compute those.
    """
    trunk, taken = encoder.trunk, {}

    def take_map(name):
        def hook(block, _inputs, tokens):
            taken[name] = block.attn.query_order.map_of_tokens(tokens)[0].numpy()

        return hook

    def take_windows(name):
        def hook(attention, _inputs, tokens):
            order, window = attention.query_order, attention.query_window
            across = -(-order.grid // window)
            beyond = across * window - order.grid
            x = functional.pad(order.map_of_tokens(tokens)[0], (0, beyond, 0, beyond), value=torch.nan)
            windows = x.reshape(len(x), across, window, across, window).permute(1, 3, 2, 4, 0)
            taken[name] = windows.reshape(across**2, window, window, len(x)).numpy()

        return hook

    hooks = []
    for index, block in enumerate(trunk.blocks):
        hooks += [
            block.register_forward_hook(take_map(f"block{index}")),
            block.attn.register_forward_hook(take_windows(f"block{index}_attn_windows")),
        ]
    taps = sam2_taps(encoder, {"patch_embed": trunk.patch_embed}, image)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        taken["pos_embed"] = trunk.position()[0].numpy()
    return taps | taken


def assert_windows_agree(windows: np.ndarray, reference: dict[str, np.ndarray]) -> None:
    """Assert that attended windows are those of a reference, but for padded places."""
    assert windows.shape == tuple(reference["shape"])
    part = windows[tuple(slice(None, None, int(step)) for step in reference["steps"])]
    inside = ~np.isnan(part)
    assert inside.mean() > 0.7
    np.testing.assert_allclose(part[inside], reference["slice"][inside], rtol=0, atol=TOLERANCE)
    if not np.isnan(windows).any():
        assert_stats_agree(windows, reference["stats"], extremes=TOLERANCE)
