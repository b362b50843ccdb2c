"""Files of SAM 2.1, SAM 2.0 and EdgeTAM: read without torch, recognised by keys, compared under official names."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.sam2_weights import NAMES, ONLY_2_1, published_state_dict, shapes, video_shapes, write_sam2_checkpoint

from model_store.architectures import ARCHITECTURES
from model_store.checkpoint_files.checked import checked_checkpoint
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import ExpectedArray, encoder_file_name, expected_arrays, video_arrays
from model_store.checkpoint_files.matching import matched_keys
from model_store.checkpoint_files.recognition import recognise
from model_store.checkpoint_files.sam2_names import official_name, our_name

PARAMETERS = {
    "edgetam": (9_120_641, 13_895_794),
    "sam2.1-tiny": (31_440_721, 38_962_498),
    "sam2.1-small": (38_538_577, 46_060_354),
    "sam2.1-base-plus": (73_328_401, 80_850_178),
    "sam2.1-large": (216_924_865, 224_446_642),
}
"""Parameters for single images, and of the whole published file."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix")
S0 = "sam_mask_decoder.conv_s0.weight"


def forms_of(name):
    """All arrays of a published file, as a reader finds them."""
    listed = {**shapes(name), **video_shapes(name)}
    return {key: ExpectedArray(shape, "int64" if "num_batches" in key else "float32") for key, shape in listed.items()}


def shapes_of(name):
    return {key: form.shape for key, form in forms_of(name).items()}


def count(listed):
    return sum(int(np.prod(shape)) for key, shape in listed.items() if not key.endswith(BUFFERS))


@pytest.mark.parametrize("name", NAMES)
def test_each_published_file_is_recognised_and_all_its_arrays_have_a_place(name):
    entry = recognise(shapes_of(name))
    keys = matched_keys(entry, forms_of(name))

    assert entry.name == name
    assert keys.keys() == expected_arrays(entry).keys()
    assert set(keys.values()) == set(shapes(name))
    assert count(shapes(name)) == PARAMETERS[name][0]
    assert count(shapes_of(name)) == PARAMETERS[name][1]
    assert {key: array.shape for key, array in video_arrays(entry).items()} == video_shapes(name)


@pytest.mark.parametrize("name", NAMES)
def test_official_and_own_names_are_inverse(name):
    official = list(shapes_of(name))
    own = [our_name(key) for key in official]

    assert len(set(own)) == len(official)
    assert [official_name(key) for key in own] == official
    assert [our_name(key) for key in own] == own
    assert [official_name(key) for key in official] == official


@pytest.mark.parametrize(
    ("official", "own"),
    [
        ("no_mem_embed", "image_encoder.no_mem_embed"),
        (S0, "image_encoder.conv_s0.weight"),
        ("sam_prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
        ("sam_mask_decoder.obj_score_token.weight", "mask_decoder.obj_score_token.weight"),
        (
            "sam_mask_decoder.transformer.layers.1.mlp.layers.0.bias",
            "mask_decoder.transformer.layers.1.mlp.lin1.bias",
        ),
        (
            "sam_mask_decoder.output_hypernetworks_mlps.1.layers.0.bias",
            "mask_decoder.output_hypernetworks_mlps.1.layers.0.bias",
        ),
        ("image_encoder.trunk.blocks.3.mlp.layers.1.bias", "image_encoder.trunk.blocks.3.mlp.layers.1.bias"),
        (
            "image_encoder.trunk.body.stages_2.blocks.12.se.fc1.bias",
            "image_encoder.trunk.body.stages_2.blocks.12.token_mixer.1.fc1.bias",
        ),
        (
            "image_encoder.trunk.body.stages_3.downsample.ffn.conv2.bn.weight",
            "image_encoder.trunk.body.stages_3.downsample.channel_mixer.m.2.bn.weight",
        ),
        (
            "image_encoder.trunk.body.stages_3.downsample.pre_block.channel_mixer.conv2.c.weight",
            "image_encoder.trunk.body.stages_3.downsample.pre_block.channel_mixer.m.2.c.weight",
        ),
    ],
)
def test_arrays_get_the_names_of_the_networks(official, own):
    assert our_name(official) == own
    assert official_name(own) == official


@pytest.mark.parametrize("name", ["edgetam", "sam2.1-tiny"])
def test_a_file_with_the_published_layout_gives_the_numbers_that_torch_gives(name, tmp_path):
    checkpoint = checked_checkpoint(write_sam2_checkpoint(name, tmp_path / "published.pt"))

    written = torch.load(tmp_path / "published.pt", weights_only=True)["model"]
    assert checkpoint.architecture.name == name
    assert len(written) == len(shapes_of(name))
    for own, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(array, written[official_name(own)].numpy(), strict=True)
    assert checkpoint.arrays.keys() == expected_arrays(ARCHITECTURES[name]).keys()


def test_a_file_of_sam_2_0_is_the_same_architecture(tmp_path):
    path = write_sam2_checkpoint("sam2.1-tiny", tmp_path / "sam2_hiera_tiny.pt", version="2.0")

    assert not set(ONLY_2_1) & torch.load(path, weights_only=True)["model"].keys()
    assert checked_checkpoint(path).architecture.name == "sam2.1-tiny"


def test_a_file_of_the_official_training_program_is_read_without_the_rest(tmp_path):
    arrays = {key: torch.from_numpy(np.array(value)) for key, value in published_state_dict("edgetam").items()}
    parameter = torch.nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(5)
    optimizer.step()
    rest = {
        "optimizer": optimizer.state_dict(), "epoch": 40, "loss": {"all": {}}, "steps": {"train": 12, "val": 0},
        "time_elapsed": 3.5, "best_meter_values": {}, "scaler": {"scale": 65536.0, "_growth_tracker": 7},
    }  # fmt: skip
    torch.save({"model": arrays, **rest}, tmp_path / "checkpoint_40.pt")

    checkpoint = checked_checkpoint(tmp_path / "checkpoint_40.pt")

    assert checkpoint.architecture.name == "edgetam"
    assert checkpoint.arrays.keys() == expected_arrays(ARCHITECTURES["edgetam"]).keys()


def test_an_object_of_a_foreign_class_beside_the_model_is_refused_and_named(tmp_path):
    content = {"model": {"no_mem_embed": torch.zeros(1)}, "best_meter_values": {"loss": np.float64(0.5)}}
    torch.save(content, tmp_path / "checkpoint.pt")

    with pytest.raises(CheckpointError, match=r"contains objects of the class numpy.*Save its arrays anew"):
        checked_checkpoint(tmp_path / "checkpoint.pt")


def test_a_file_for_single_images_without_counters_and_in_float16_is_read(tmp_path):
    arrays = {
        key: torch.from_numpy(np.array(value)).half()
        for key, value in published_state_dict("edgetam").items()
        if key not in video_shapes("edgetam") and "num_batches_tracked" not in key
    }
    torch.save({"model": arrays}, tmp_path / "small.pt")

    assert checked_checkpoint(tmp_path / "small.pt").architecture.name == "edgetam"


@pytest.mark.parametrize("name", ["edgetam", "sam2.1-large"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda forms: forms.pop("no_mem_embed"), "1 missing: no_mem_embed"),
        (lambda forms: forms.pop("sam_mask_decoder.conv_s1.bias"), r"1 missing: sam_mask_decoder\.conv_s1\.bias"),
        (
            lambda forms: forms.pop("sam_mask_decoder.transformer.layers.0.mlp.layers.1.bias"),
            r"1 missing: sam_mask_decoder\.transformer\.layers\.0\.mlp\.layers\.1\.bias",
        ),
        (
            lambda forms: forms.update({"memory_encoder.extra": ExpectedArray((1,), "float32")}),
            r"1 unexpected: memory_encoder\.extra\.",
        ),
        (
            lambda forms: forms.update({"image_encoder.head.weight": ExpectedArray((1,), "float32")}),
            r"1 unexpected: image_encoder\.head\.weight",
        ),
        (
            lambda forms: forms.update({"maskmem_tpos_enc": ExpectedArray((8, 1, 1, 64), "float32")}),
            r"1 of a wrong shape: maskmem_tpos_enc \[8, 1, 1, 64\] instead of \[7, 1, 1, 64\]",
        ),
        (
            lambda forms: forms.update({"sam_mask_decoder.iou_token.weight": ExpectedArray((1, 256), "int64")}),
            r"1 of a wrong type: sam_mask_decoder\.iou_token\.weight int64 instead of float32",
        ),
        (
            lambda forms: forms.update({"mask_decoder.iou_token.weight": ExpectedArray((1, 256), "float32")}),
            r"it has (sam_)?mask_decoder\.iou_token\.weight twice",
        ),
    ],
    ids=["missing", "of encoder", "renamed", "video", "head", "video shape", "type", "twice"],
)  # fmt: skip
def test_anything_that_differs_is_an_error_in_official_names(name, change, words):
    forms = forms_of(name)
    change(forms)
    entry = recognise({key: form.shape for key, form in forms.items()})

    with pytest.raises(CheckpointError, match=f"not an? {name} checkpoint: {words}") as error:
        matched_keys(entry, forms)

    # The first key of these files has no dot, so it is no prefix of others.
    assert "prefix" not in str(error.value)


def test_an_entry_that_is_no_array_is_named():
    forms = forms_of("edgetam")
    del forms["no_mem_embed"]

    with pytest.raises(CheckpointError, match="1 not arrays: no_mem_embed"):
        matched_keys(ARCHITECTURES["edgetam"], forms, others=["no_mem_embed"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"image_encoder.trunk.blocks.0.attn.qkv.weight": (384, 128)},
            r"a width of 128 and 12 blocks; there are sam2\.1-tiny 96 and 12, .*sam2\.1-large 144 and 48",
        ),
        ({"image_encoder.trunk.blocks.17.norm1.weight": (768,)}, "a width of 96 and 18 blocks"),
        ({"image_encoder.trunk.blocks.0.attn.qkv.weight": (96,)}, "a width of 0 and 12 blocks"),
        (
            {"image_encoder.trunk.pos_embed": (1, 96, 14, 14)},
            r"width and depth of sam2\.1-tiny, but .*pos_embed has the shape \[1, 96, 14, 14\], not \[1, 96, 7, 7\]",
        ),
        ({f"image_encoder.trunk.blocks.{'9' * 5000}.norm1.weight": (1,)}, "9999"),
    ],
    ids=["width", "depth", "no matrix", "positions", "hostile"],
)
def test_a_size_that_is_not_published_is_refused_with_its_numbers(changes, words):
    listed = shapes_of("sam2.1-tiny") | changes

    with pytest.raises(CheckpointError, match=words):
        matched_keys(recognise(listed), {key: ExpectedArray(shape, "float32") for key, shape in listed.items()})


@pytest.mark.parametrize("name", ["edgetam", "sam2.1-tiny"])
def test_a_file_without_high_resolution_features_is_refused(name):
    listed = {key: shape for key, shape in shapes_of(name).items() if "conv_s" not in key}

    with pytest.raises(CheckpointError, match=f"^{name} without {S0}: it was trained without high-resolution"):
        recognise(listed)


def test_another_image_encoder_is_refused():
    listed = {key: shape for key, shape in shapes_of("edgetam").items() if "trunk" not in key}
    without_windows = {key: shape for key, shape in shapes_of("sam2.1-tiny").items() if "window" not in key}

    with pytest.raises(CheckpointError, match=r"neither Hiera nor that of EdgeTAM.*'models list'"):
        recognise(listed)
    with pytest.raises(CheckpointError, match=r"without image_encoder\.trunk\.pos_embed_window.*EfficientTAM"):
        recognise(without_windows)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["sam_mask_decoder.hf_token.weight"], "SAM-HQ 2: .*'models list'"),
        (["sam_mask_decoder.embedding_maskfeature.0.weight"], "SAM-HQ 2"),
        (["image_encoder.neck.convs.0.conv_1x1.weight"], "EfficientTAM"),
        (["detector.backbone.vision_backbone.trunk.pos_embed"], "SAM 3"),
        (["tracker.maskmem_tpos_enc"], "SAM 3"),
        (["detector_model.vision_encoder.backbone.embeddings.weight"], "SAM 3"),
        (["shared_image_embedding.positional_embedding", "vision_encoder.backbone.pos_embed"], "transformers"),
        (["no_memory_embedding"], r"transformers.*sam2\.1_hiera_tiny\.pt"),
    ],
)
def test_related_models_are_named(keys, words):
    listed = shapes_of("sam2.1-tiny") | dict.fromkeys(keys, (1, 256))

    with pytest.raises(CheckpointError, match=f"not a checkpoint of the SAM family: by its key .*{words}"):
        recognise(dict(reversed(listed.items())))


def test_a_file_of_own_names_is_matched():
    forms = {
        key: ExpectedArray(array.shape, array.dtype) for key, array in expected_arrays(ARCHITECTURES["edgetam"]).items()
    }
    entry = recognise({key: form.shape for key, form in forms.items()})

    assert entry.name == "edgetam"
    assert matched_keys(entry, forms) == {key: key for key in forms}


def test_a_number_that_is_not_finite_is_named_officially(tmp_path):
    arrays = {key: torch.from_numpy(np.array(value)) for key, value in published_state_dict("edgetam").items()}
    arrays["sam_mask_decoder.iou_token.weight"][0, 7] = torch.nan
    arrays["maskmem_tpos_enc"][:] = torch.inf  # never read
    torch.save({"model": arrays}, tmp_path / "nan.pt")

    with pytest.raises(CheckpointError, match=r"1 not finite: sam_mask_decoder\.iou_token\.weight\."):
        checked_checkpoint(tmp_path / "nan.pt")


def test_reading_needs_no_torch(tmp_path):
    path = write_sam2_checkpoint("edgetam", tmp_path / "edgetam.pt")
    code = (
        "import sys; from model_store.checkpoint_files.checked import checked_checkpoint; "
        f"print(checked_checkpoint({str(path)!r}).architecture.name, 'torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["edgetam", "False"]


def test_encoders_have_names_that_files_may_have():
    names = {name: encoder_file_name(ARCHITECTURES[name]) for name in NAMES}

    assert names == {
        "edgetam": "repvit-m1-edgetam", "sam2.1-tiny": "hiera-t", "sam2.1-small": "hiera-s",
        "sam2.1-base-plus": "hiera-b-plus", "sam2.1-large": "hiera-l",
    }  # fmt: skip
