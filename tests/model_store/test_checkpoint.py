"""A checkpoint is loaded whole or not at all, and the error says what is wrong with the file."""

import pickle

import pytest
import torch

from model_store.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_granularity,
    save_checkpoint,
    seeded_model,
)
from model_store.network.encoders.repvit.encoder import RepViTEncoder
from model_store.network.granularity_module import granularity_module
from model_store.network.model import build_model


@pytest.fixture(scope="module")
def model():
    return seeded_model(7)


def assert_same_weights(model, state):
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_a_saved_model_is_loaded_again(tmp_path, model):
    path = tmp_path / "model.pth"

    save_checkpoint(model, path)
    loaded = load_checkpoint(path)

    assert_same_weights(loaded, model.state_dict())
    assert not loaded.training


def test_the_file_is_flat_and_holds_the_official_keys(tmp_path, model):
    path = tmp_path / "model.pth"

    save_checkpoint(model, path)
    content = torch.load(path, weights_only=True)

    assert len(content) == 821
    assert {key.split(".")[0] for key in content} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert not any("pixel" in key for key in content)


def test_the_upsample_mode_is_chosen_when_loading(tmp_path, model):
    path = tmp_path / "model.pth"
    save_checkpoint(model, path)

    loaded = load_checkpoint(path, upsample_mode="bilinear")

    assert loaded.image_encoder.upsample_mode == "bilinear"


def test_a_stage_2_training_checkpoint_is_unwrapped(tmp_path, model):
    path = tmp_path / "ckpt_epoch_3.pth"
    torch.save({"model": model.state_dict(), "epoch": 3, "max_accuracy": 0.5, "optimizer": {"state": {}}}, path)

    loaded = load_checkpoint(path)

    assert_same_weights(loaded, model.state_dict())


def test_a_granularity_module_is_loaded_strictly(tmp_path, model):
    state = granularity_module(RepViTEncoder()).state_dict()
    torch.save(state, tmp_path / "boxes.pth")
    torch.save({key: value for key, value in state.items() if "p6_w1" not in key}, tmp_path / "partial.pth")
    save_checkpoint(model, tmp_path / "edgesam.pth")

    module = load_granularity(tmp_path / "boxes.pth", RepViTEncoder())

    assert not module.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    with pytest.raises(
        CheckpointError, match=r"partial\.pth: not a granularity module: 3 missing: fpn\.bifpn\.0\.p6_w1"
    ):
        load_granularity(tmp_path / "partial.pth", RepViTEncoder())
    with pytest.raises(CheckpointError, match=r"edgesam\.pth: not a granularity module"):
        load_granularity(tmp_path / "edgesam.pth", RepViTEncoder())
    with pytest.raises(CheckpointError, match="used together with a checkpoint"):
        load_checkpoint(tmp_path / "boxes.pth")


def test_half_precision_is_cast(tmp_path, model):
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    path = tmp_path / "half.pth"
    torch.save(state, path)

    loaded = load_checkpoint(path)

    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    types = {key: value.dtype for key, value in loaded.state_dict().items()}
    assert_same_weights(loaded, {key: value.to(types[key]) for key, value in state.items()})


def test_a_partial_file_names_what_is_missing(tmp_path, model):
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("mask_decoder.")}
    path = tmp_path / "partial.pth"
    torch.save(state, path)

    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)

    message = str(caught.value)
    assert str(path) in message
    assert "120 missing" in message
    assert "mask_decoder.transformer.layers.0.self_attn.q_proj.weight" in message
    assert "and 115 more" in message


@pytest.mark.parametrize("prefix", ["module.", "model.", "sam."])
def test_a_known_prefix_is_stripped(tmp_path, model, prefix):
    path = tmp_path / "prefixed.pth"
    torch.save({f"{prefix}{key}": value for key, value in model.state_dict().items()}, path)

    loaded = load_checkpoint(path)

    assert_same_weights(loaded, model.state_dict())


def test_an_unknown_prefix_is_named(tmp_path, model):
    state = {f"student.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "prefixed.pth"
    torch.save(state, path)

    with pytest.raises(CheckpointError, match=r"7\d\d missing.*821 unexpected: student\.image_.*prefix 'student\.'"):
        load_checkpoint(path)


def test_counters_of_training_may_be_absent(tmp_path, model):
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    path = tmp_path / "without_counters.pth"
    torch.save(state, path)

    loaded = load_checkpoint(path)

    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


def test_a_stage_1_training_checkpoint_is_recognised(tmp_path, model):
    state = {
        key.removeprefix("image_encoder."): value
        for key, value in model.state_dict().items()
        if key.startswith("image_encoder.")
    }
    path = tmp_path / "stage1.pth"
    torch.save({"model": state, "epoch": 9}, path)

    with pytest.raises(CheckpointError, match=r"684 unexpected.*stage 1"):
        load_checkpoint(path)


def test_another_architecture_names_what_is_unexpected(tmp_path, model):
    state = model.state_dict() | {"rpn_head.rpn_conv.weight": torch.zeros(3)}
    path = tmp_path / "rpn.pth"
    torch.save(state, path)

    with pytest.raises(CheckpointError, match=r"1 unexpected: rpn_head\.rpn_conv\.weight"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(256, 256), r"1 of a wrong shape: .*\[256, 256\] instead of \[4, 256\]"),
        (torch.full((4, 256), float("nan")), "1 not finite"),
        (torch.zeros(4, 256, dtype=torch.int64), "1 of a wrong type: .*int64 instead of float32"),
        ([[0.0]], "1 not arrays"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, model, value, message):
    key = "mask_decoder.iou_prediction_head.layers.2.weight"
    path = tmp_path / "wrong.pth"
    torch.save(model.state_dict() | {key: value}, path)

    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)

    assert key in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 20_000, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, model, kept):
    path = tmp_path / "cut.pth"
    save_checkpoint(model, path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match="not a readable"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>not found</html>", b"\x80\x02}q\x00", b"PK\x03\x04 no archive"]
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="not a readable"):
        load_checkpoint(path)


class Payload:
    """What a hostile pickle does: it calls a function when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_is_not_run(tmp_path, save):
    path = tmp_path / "hostile.pth"
    trace = tmp_path / "trace"
    save({"model": Payload(str(trace))}, path)

    with pytest.raises(CheckpointError):
        load_checkpoint(path)

    assert not trace.exists()


def test_a_file_without_a_mapping_is_refused(tmp_path):
    path = tmp_path / "tensor.pth"
    torch.save(torch.zeros(3), path)

    with pytest.raises(CheckpointError, match="contains an array, not a mapping"):
        load_checkpoint(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pth")


def test_a_deployed_model_is_not_saved(tmp_path, model):
    deployed = model.deploy()

    with pytest.raises(CheckpointError, match="deployed"):
        save_checkpoint(deployed, tmp_path / "model.pth")

    assert not (tmp_path / "model.pth").exists()


def test_a_seed_decides_the_initial_weights_and_nothing_else():
    random_state = torch.random.get_rng_state()

    first, again, other = seeded_model(1), seeded_model(1), seeded_model(2)

    assert_same_weights(first, again.state_dict())
    assert not torch.equal(first.mask_decoder.iou_token.weight, other.mask_decoder.iou_token.weight)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_initial_batch_norms_let_channel_mixers_start_as_the_identity():
    state = seeded_model(1).state_dict()

    weights = {key: value for key, value in state.items() if key.endswith("bn.weight")}
    last = {key for key in weights if key.endswith("channel_mixer.m.2.bn.weight")}

    assert len(weights) == 106
    assert len(last) == 26
    assert all(torch.equal(value, torch.full_like(value, key not in last)) for key, value in weights.items())


def test_the_initial_positional_matrix_is_normal():
    matrix = seeded_model(1).prompt_encoder.pe_layer.positional_encoding_gaussian_matrix

    assert matrix.shape == (2, 128)
    assert abs(matrix.mean()) < 0.2
    assert abs(matrix.std() - 1.0) < 0.2


@pytest.mark.parametrize("frame_size", [0, -32, 1000])
def test_a_frame_that_does_not_fit_the_strides_is_refused(frame_size):
    with pytest.raises(ValueError, match="multiple of 32"):
        build_model(frame_size=frame_size)


def test_an_unknown_upsample_mode_is_refused():
    with pytest.raises(ValueError, match="bicubic"):
        build_model().image_encoder.set_upsample_mode("nearest")
