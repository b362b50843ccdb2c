"""The encoders of EfficientViT-SAM give what the official ones give, at every stage, in torch and in ONNX Runtime."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support.encoder_reference import open_encoder_reference
from support.official_reference import assert_stats_agree
from support.sam_family_weights import FAMILY_COMMITTED, shapes, state_dict
from support.traced_graph import write_traced

from model_store.checkpoint import CheckpointError, model_from_state_dict
from model_store.network.encoders.efficientvit.blocks import LinearAttention
from model_store.network.encoders.efficientvit.encoder import SIZES, EfficientViTEncoder
from model_store.network.frames import frame
from model_store.network.model import PromptableModel, build_model
from model_store.network.resampling import enlarge

L0 = "efficientvit-sam-l0"
NAMES = tuple(f"efficientvit-sam-{size.lower()}" for size in SIZES)
TOLERANCE = 2e-4  # docs/explanation/sam-family.md: above every rounding effect, below every known mistake
LARGE = ("efficientvit-sam-l2", "efficientvit-sam-xl0", "efficientvit-sam-xl1")
PARAMETERS = {
    "efficientvit-sam-l0": 34_792_784,
    "efficientvit-sam-l1": 47_650_128,
    "efficientvit-sam-l2": 61_328_592,
    "efficientvit-sam-xl0": 116_957_904,
    "efficientvit-sam-xl1": 203_346_128,
}
REFERENCES = [
    pytest.param(L0, "committed"),
    *(
        pytest.param(name, "full", marks=[pytest.mark.fixtures, *([pytest.mark.large] if name in LARGE else [])])
        for name in NAMES
    ),
]


@pytest.fixture(scope="module")
def weighted() -> PromptableModel:
    """The model L0 with the weights of the reference."""
    return weighted_model(L0)


def weighted_model(name: str) -> PromptableModel:
    arrays = {key: torch.from_numpy(array) for key, array in state_dict(name).items()}
    return model_from_state_dict(arrays, architecture_name=name)


def reference_frame(model: PromptableModel) -> torch.Tensor:
    return frame(np.asarray(Image.open(FAMILY_COMMITTED / "image.webp").convert("RGB")), model.image_size)


def tapped(model: PromptableModel) -> dict[str, np.ndarray]:
    """Return every intermediate result of an encoder that the references have, by its name there."""
    encoder = model.image_encoder
    assert isinstance(encoder, EfficientViTEncoder)
    attention = encoder.backbone.stages[4].op_list
    modules = {f"stage{index}": stage for index, stage in enumerate(encoder.backbone.stages)}
    modules |= {"stage4_down": attention[0], "stage4_block1": attention[1]}
    modules |= {"stage4_block1_context": attention[1].context_module}
    modules |= {f"neck_in{index}": project for index, project in enumerate(encoder.neck.input_ops)}
    modules |= {"neck_mid0": encoder.neck.middle.op_list[0], "neck_mid": encoder.neck.middle}
    modules |= {"neck_out": encoder.neck, "embedding": encoder}
    taken: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: taken.update({name: output}))
        for name, module in modules.items()
    ]
    image = reference_frame(model)
    with torch.inference_mode():
        encoder(image)
        # The references have these after enlarging.
        taken |= {key: enlarge(taken[key], 64, 64, "bicubic") for key in taken if key.startswith("neck_in")}
    for hook in hooks:
        hook.remove()
    return {name: value[0].numpy() for name, value in {**taken, "input": image}.items()}


@pytest.mark.parametrize(("name", "part"), REFERENCES)
def test_every_stage_and_the_embedding_agree(name, part):
    expected = open_encoder_reference(name, part)

    taps = tapped(weighted_model(name))

    names = [key.removeprefix("tap/").removesuffix("_slice") for key in expected if key.startswith("tap/")]
    compared = {tap for tap in names if not tap.endswith(("_stats", "_steps", "_shape"))}
    assert len(compared) == 14 + name.startswith("efficientvit-sam-xl")
    for tap in sorted(compared):
        assert taps[tap].shape == tuple(expected[f"tap/{tap}_shape"])
        assert_slice_agrees(taps[tap], expected[f"tap/{tap}_slice"], expected[f"tap/{tap}_steps"], tap)
        assert_stats_agree(taps[tap], expected[f"tap/{tap}_stats"])
    steps = expected.get("embedding_steps", (1, 8, 8))
    assert_slice_agrees(taps["embedding"], expected["embedding_slice"], steps, "embedding")
    assert_stats_agree(taps["embedding"], expected["embedding_stats"])
    if "embedding_row63" in expected:
        np.testing.assert_allclose(taps["embedding"][:, 63], expected["embedding_row63"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "part"), REFERENCES)
def test_the_input_agrees(name, part):
    expected = open_encoder_reference(name, part)
    with torch.device("meta"):
        model = build_model(name)

    image = reference_frame(model)[0].numpy()

    step = model.image_size // expected["input_slice"].shape[1]
    np.testing.assert_allclose(image[:, ::step, ::step], expected["input_slice"], rtol=0, atol=1e-6)
    assert_stats_agree(image, expected["input_stats"])


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_and_counts_are_those_of_the_published_files(name):
    with torch.device("meta"):
        model = build_model(name)

    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}

    assert ours == dict(shapes(name))
    assert sum(value.numel() for value in model.parameters()) == PARAMETERS[name]
    assert model.image_encoder.name == model.architecture.encoder


def test_a_missing_array_is_named():
    arrays = {key: torch.from_numpy(array) for key, array in state_dict(L0).items()}
    key = "image_encoder.neck.middle.op_list.3.main.point_conv.norm.running_var"
    del arrays[key]

    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        model_from_state_dict(arrays, architecture_name=L0)


def test_a_size_does_not_load_as_another():
    arrays = {key: torch.from_numpy(array) for key, array in state_dict(L0).items()}

    with pytest.raises(CheckpointError, match="checkpoint"):
        model_from_state_dict(arrays, architecture_name="efficientvit-sam-l1")


def test_folding_changes_nothing_but_the_number_of_modules(weighted):
    image = reference_frame(weighted)

    with torch.inference_mode():
        expected = weighted.image_encoder(image)
        deployed = weighted.deploy()
        folded = deployed.image_encoder(image)

    np.testing.assert_allclose(folded.numpy(), expected.numpy(), rtol=0, atol=TOLERANCE)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in deployed.image_encoder.modules())


def test_smaller_frames_give_an_embedding_of_an_eighth_of_their_side():
    model = build_model(L0, frame_size=256).eval()

    with torch.inference_mode():
        embedding = model.image_encoder(torch.zeros(2, 3, 128, 128))

    assert model.image_size == 128
    assert embedding.shape == (2, 256, 16, 16)


def test_attention_computes_in_float32_where_the_rest_computes_in_bfloat16():
    attention = LinearAttention(64, 5).eval()
    seen = []
    attention.proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        projected = attention(torch.ones(1, 64, 8, 8))

    assert seen == [torch.float32]
    assert projected.dtype == torch.bfloat16


@pytest.fixture(scope="module")
def exported(weighted: PromptableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """L0's encoder in training form as ONNX, traced without folding constants."""
    path = tmp_path_factory.mktemp("efficientvit") / "encoder.onnx"
    encoder = weighted.image_encoder
    write_traced(encoder, torch.zeros(1, 3, 512, 512), path, opset=encoder.opset)
    return path


def test_every_initializer_of_the_graph_is_an_array_of_the_checkpoint(weighted, exported):
    stored = {array.name for array in onnx.load(str(exported)).graph.initializer}

    used = {key for key in weighted.image_encoder.state_dict() if not key.endswith("num_batches_tracked")}

    assert stored == used


def test_onnx_runtime_gives_the_embeddings_of_torch_for_a_batch(weighted, exported):
    image = reference_frame(weighted)
    batch = torch.cat([image, image.flip(3)])

    (ours,) = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"]).run(
        ["y"], {"x": batch.numpy()}
    )

    with torch.inference_mode():
        theirs = weighted.image_encoder(batch).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_onnx_runtime_folds_all_norms_and_computes_each_activation_in_one_node(exported, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])

    nodes = Counter(node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node)

    assert nodes["Conv"] + nodes["FusedConv"] == 69
    assert nodes["Gelu"] == 30
    assert nodes.keys().isdisjoint({"BatchNormalization", "Resize", "Tanh", "Pow", "Cast"})


def assert_slice_agrees(tap: np.ndarray, expected: np.ndarray, steps: np.ndarray, name: str) -> None:
    part = tap[tuple(slice(None, None, int(step)) for step in steps)]
    np.testing.assert_allclose(part, expected, rtol=0, atol=TOLERANCE, err_msg=name)
