"""A checkpoint is recognised by its keys, compared strictly, and files of other families are named."""

import pytest

from model_store.architectures import ARCHITECTURES
from model_store.checkpoint_files.comparison import check_arrays, content_name
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import ExpectedArray, expected_arrays
from model_store.checkpoint_files.recognition import recognise

PARAMETERS = {
    "sam-vit-b": 93_735_472, "sam-vit-l": 312_342_832, "sam-vit-h": 641_090_608,
    "mobile-sam": 9_808_452, "tiny-sam": 9_808_452, "repvit-sam": 27_223_480,
    "efficientvit-sam-l0": 34_792_784, "efficientvit-sam-l1": 47_650_128, "efficientvit-sam-l2": 61_328_592,
    "efficientvit-sam-xl0": 116_957_904, "efficientvit-sam-xl1": 203_346_128,
}  # fmt: skip


def shapes_of(name):
    return {key: array.shape for key, array in expected_arrays(ARCHITECTURES[name]).items()}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny-sam"])
def test_every_architecture_is_recognised_by_its_keys(name):
    assert recognise(shapes_of(name)).name == name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_recognised_without_counters_and_with_unused_heads(name):
    shapes = {key: shape for key, shape in shapes_of(name).items() if "num_batches" not in key}
    heads = {"image_encoder.norm_head.weight": (320,), "image_encoder.head.weight": (1000, 320)}

    assert recognise(shapes | heads).name == name.replace("tiny-sam", "mobile-sam")


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_the_expected_shapes_add_up_to_the_published_number_of_parameters(name, parameters):
    arrays = expected_arrays(ARCHITECTURES[name])
    buffers = ("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix")

    count = 0
    for key, array in arrays.items():
        size = 1
        for side in array.shape:
            size *= side
        count += 0 if key.endswith(buffers) else size

    assert count == parameters


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["image_encoder.pos_embed", "mask_decoder.hf_token.weight"], "HQ-SAM"),
        (["mask_decoder.compress_vit_feat.0.weight"], "HQ-SAM"),
        (["mask_decoder.final_output_upscaling_layers.0.0.weight"], "EfficientSAM"),
        (["prompt_encoder.invalid_points.weight"], "EfficientSAM"),
        (["vision_encoder.pos_embed"], "transformers.*original authors"),
        (["shared_image_embedding.positional_embedding"], "transformers"),
        (["0.conv.weight", "0.bn.weight", "22.cv2.0.0.conv.weight"], "YOLO or FastSAM"),
        (["model.0.conv.weight"], "YOLO or FastSAM"),
    ],
)
def test_a_file_of_another_family_is_named(keys, words):
    with pytest.raises(CheckpointError, match=f"not a checkpoint of the SAM family.*{words}"):
        recognise(dict.fromkeys(keys, (1, 64, 64, 768)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 16, 16, 768), "frames of 256x256 pixels.*only 1024x1024"),
        ((1, 32, 32, 1280), "512x512"),
        ((1, 64, 64, 168), r"ViT has 168 channels.*SlimSAM"),
        ((768,), "0 channels"),
    ],
)
def test_a_vit_of_another_size_is_refused_with_its_size(shape, words):
    with pytest.raises(CheckpointError, match=words):
        recognise(shapes_of("sam-vit-b") | {"image_encoder.pos_embed": shape})


def test_a_pruned_vit_is_refused_with_its_shape():
    pruned = {"image_encoder.blocks.0.attn.qkv.weight": (504, 768)}

    with pytest.raises(CheckpointError, match=r"pruned SAM \(SlimSAM\).*\[504, 768\], not \[2304, 768\]"):
        recognise(shapes_of("sam-vit-b") | pruned)


def test_a_file_is_compared_with_its_own_architecture_alone():
    entry = ARCHITECTURES["repvit-sam"]
    found = dict(expected_arrays(entry))
    del found["image_encoder.neck.0.weight"]
    found["image_encoder.features.8.token_mixer.0.c.weight"] = ExpectedArray((80, 1, 5, 5), "float16")
    found["image_encoder.features.99.c.weight"] = ExpectedArray((1,), "float32")

    with pytest.raises(CheckpointError) as caught:
        check_arrays(expected_arrays(entry), found, content_name(entry))

    assert str(caught.value) == (
        "not a repvit-sam checkpoint: 1 missing: image_encoder.neck.0.weight; "
        "1 unexpected: image_encoder.features.99.c.weight; "
        "1 of a wrong shape: image_encoder.features.8.token_mixer.0.c.weight [80, 1, 5, 5] instead of [80, 1, 3, 3]."
    )


def test_a_decoder_alone_is_named():
    decoder = {key: value for key, value in expected_arrays(ARCHITECTURES["edgesam"]).items() if "image_enc" not in key}
    entry = recognise({key: value.shape for key, value in decoder.items()})

    with pytest.raises(CheckpointError, match="It has no image encoder"):
        check_arrays(expected_arrays(entry), decoder, content_name(entry))
