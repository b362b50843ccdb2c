"""Checkpoint files are read without torch, in every form that people save them, to the numbers that torch reads."""

import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from model_store.checkpoint_files import CheckpointError, read_checkpoint

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool]  # fmt: skip


def arrays_of(path):
    return {name: np.array(array) for name, array in read_checkpoint(path).arrays.items()}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def example(dtype):
    return (torch.arange(-6, 6).reshape(3, 4) * 1.25).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_every_number_format_is_read_exactly(tmp_path, dtype, suffix):
    path = tmp_path / f"arrays.{suffix}"
    content = {"a": example(dtype), "empty": torch.zeros(0, 3, dtype=dtype), "scalar": torch.tensor(1, dtype=dtype)}
    if suffix == "pth":
        torch.save(content, path)
    else:
        safetensors.torch.save_file(content, path)

    arrays = arrays_of(path)

    for name, tensor in content.items():
        expected = (tensor.float() if dtype is torch.bfloat16 else tensor).numpy()
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_views_with_strides_offsets_and_a_shared_storage_are_read(tmp_path):
    whole = torch.randn(6, 5)
    content = {"whole": whole, "turned": whole.t(), "part": whole[2:5, 1:4], "row": whole[3], "steps": whole[:, ::2]}

    arrays = arrays_of(saved(tmp_path / "views.pth", content))

    for name, tensor in content.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "sam."])
def test_wrappers_and_one_prefix_are_removed(tmp_path, wrapper, prefix):
    state = OrderedDict((f"{prefix}image_encoder.{name}", example(torch.float32)) for name in "ab")
    content = {wrapper: state, "epoch": 3, "lr": 1e-4, "args": {"name": "x", "sizes": (1, [2, None, True])}}

    file = read_checkpoint(saved(tmp_path / "wrapped.pth", content))

    assert list(file.arrays) == ["image_encoder.a", "image_encoder.b"]
    assert file.shapes == {"image_encoder.a": (3, 4), "image_encoder.b": (3, 4)}


def test_a_prefix_that_only_some_keys_have_stays(tmp_path):
    content = {"module.a": torch.zeros(1), "b": torch.zeros(1)}

    assert list(read_checkpoint(saved(tmp_path / "mixed.pth", content)).arrays) == ["module.a", "b"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = saved(tmp_path / "module.pth", module.state_dict(), pickle_protocol=protocol)

    arrays = arrays_of(path)

    assert arrays.keys() == module.state_dict().keys()
    assert all(np.array_equal(arrays[name], value.numpy()) for name, value in module.state_dict().items())


def test_entries_that_are_no_arrays_are_listed(tmp_path):
    file = read_checkpoint(saved(tmp_path / "mixed.pth", {"a": torch.zeros(1), "text": "x", "list": [torch.zeros(1)]}))

    assert list(file.arrays) == ["a"]
    assert file.others == ("text", "list")


def test_the_architecture_in_the_metadata_is_returned(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"architecture": "edgesam-lite"})

    assert read_checkpoint(tmp_path / "a.safetensors").architecture == "edgesam-lite"


def test_arrays_are_read_when_they_are_used(tmp_path):
    path = saved(tmp_path / "large.pth", {f"a{index}": torch.zeros(2**20) for index in range(4)})
    file = read_checkpoint(path)
    with path.open("r+b") as handle:  # the same number of bytes, in place
        content = handle.read()
        handle.seek(content.index(bytes(2**20)))
        handle.write(np.full(2**18, 7.0, "<f4").tobytes())

    assert any((array == 7).any() for array in file.arrays.values())


def test_no_torch_is_imported(tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.ones(2)})
    code = (
        "import sys; from model_store.checkpoint_files import read_checkpoint; "
        f"print(read_checkpoint({str(path)!r}).arrays['a'].sum(), 'torch' in sys.modules, 'onnx' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert result.stdout.split() == ["2.0", "False", "False"]


def test_an_absent_file_is_an_os_error(tmp_path):
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(FileNotFoundError):
            read_checkpoint(tmp_path / name)


def test_a_file_of_an_old_torch_is_refused_with_the_command_that_helps(tmp_path):
    path = saved(tmp_path / "old.pth", {"a": torch.zeros(1)}, _use_new_zipfile_serialization=False)

    with pytest.raises(CheckpointError, match=r"before 1\.6.*torch\.save\(torch\.load"):
        read_checkpoint(path)


def test_a_pickled_model_is_refused_with_its_class(tmp_path):
    path = saved(tmp_path / "tinysam_w8a8.pth", torch.nn.Linear(2, 2))

    with pytest.raises(CheckpointError, match=r"objects of the class torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)
