"""Hostile and damaged checkpoint files: each is refused with a reason, quickly, in little memory, and nothing runs."""

import io
import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from model_store.checkpoint_files import CheckpointError, read_checkpoint
from model_store.checkpoint_files.comparison import check_finite
from model_store.checkpoint_files.pickled import MAX_OPCODES, MAX_PICKLE_BYTES, read_pickle
from model_store.checkpoint_files.stored_tensor import Storage
from model_store.checkpoint_files.torch_file import MAX_DIRECTORY_BYTES
from model_store.command_errors import line_and_exit_code


def no_storage(key, dtype, elements):
    raise AssertionError("no storage is asked for")


def archive(path, pickled, members=(), *, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in members:
            file.writestr(name, content)
    return path


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(*, storage="FloatStorage", key="0", elements=4, offset=0, shape=(2, 2), strides=(2, 1)):
    """The pickle of {"a": tensor} with any numbers in it."""
    reference = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(elements)
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides)]
    call = b"ctorch._utils\n_rebuild_tensor_v2\n((" + reference[1:] + b"tQ" + number(offset) + sizes[0] + sizes[1]
    return b"\x80\x02}" + text("a") + call + b"\x89ccollections\nOrderedDict\n)RtRs."


def test_the_tensor_of_these_tests_is_read_when_nothing_is_wrong_with_it(tmp_path):
    path = archive(tmp_path / "good.pth", tensor(), [("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))])

    assert read_checkpoint(path).arrays["a"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2, 3)},
        {"shape": (2**40, 2**40), "strides": (0, 0)},
        {"shape": (5,), "strides": (0,)},
        {"strides": (2, 2)},
        {"strides": (2**62, 1)},
        {"shape": (2**62, 0)},
        {"strides": (-2, 1)},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"shape": (-2, -2)},
        {"shape": (2, 2), "strides": (1,)},
        {"shape": (1,) * 64, "strides": (1,) * 64},
        {"elements": 5},
        {"elements": -4},
        {"elements": 2**62},
        {"storage": "DoubleStorage"},
        {"key": "1"},
        {"key": "../data.pkl"},
    ],
    ids=str,
)
def test_an_array_outside_its_storage_is_refused(tmp_path, changes):
    path = archive(tmp_path / "bad.pth", tensor(**changes), [("archive/data/0", bytes(16))])

    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(path)


class Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, open, eval, exec, __import__, getattr, torch.load, bytearray])
def test_no_function_of_a_file_is_called(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    harmful = Call(function, f"open({str(trace)!r}, 'w')")
    path = archive(tmp_path / "bad.pth", pickle.dumps({"a": harmful}, protocol))

    with pytest.raises(CheckpointError, match="contains objects of the class"):
        read_checkpoint(path)

    assert not trace.exists()


def test_the_advice_about_parameters_gives_a_file_that_is_read(tmp_path):
    arrays = {"a": torch.nn.Parameter(torch.ones(2))}
    torch.save(arrays, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match=r"value\.detach") as refused:
        read_checkpoint(tmp_path / "old.pth")

    advice = str(refused.value).partition("is installed: ")[2].replace("new.pth", str(tmp_path / "new.pth"))
    exec(advice, {"torch": torch, "arrays": arrays})

    assert read_checkpoint(tmp_path / "new.pth").shapes == {"a": (2,)}


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02ctinysam.modeling.sam\nSam\n)\x81.", r"tinysam\.modeling\.sam\.Sam.*model object.*state_dict"),
        (b"\x80\x02cultralytics.nn.tasks\nSegmentationModel\n)\x81.", "YOLO or FastSAM"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n.", r"only plain arrays.*value\.detach\(\)"),
        (b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.", "model object.*state_dict"),
        (b"\x80\x02ctorch.storage\nUntypedStorage\n.", "only plain arrays.*weights_only"),
        (b"\x80\x02ccollections\nOrderedDict\n(lR.", "opcode LIST"),
        (b"\x80\x02ccollections\nOrderedDict\n}\x85R.", "a call that does not make"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call"),
        (b"\x80\x02ctorch.Size\n\n.", r"class torch\.Size\."),
        (b"\x80\x02", "is damaged"),
        (b"\x80\x02.", "is damaged"),
        (b"\x80\x02(.", "is damaged"),
        (b"\x80\x02}(K\x01s.", "is damaged"),
        (b"\x80\x02}(K\x01u.", "is damaged"),
        (b"\x80\x02K\x01K\x02a.", "something else than a list"),
        (b"\x80\x02K\x01}b.", "something else than a dict"),
        (b"\x80\x02}}K\x01s.", "neither names nor small numbers"),
        (b"\x80\x02}\x8a\x08" + b"\xff" * 7 + b"\x7fK\x01s.", "neither names nor small numbers"),
        (b"\x80\x02h\x07.", "is damaged"),
        (b"\x80\x02K\x01Q.", "no storage"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "is damaged"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "is damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "is damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "is damaged"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02P0\n.", "PERSID"),
        (b"\x80\x04]" + b"]" * 5000 + b"a" * 5000 + b"]\x93.", "a class whose name is no text"),
        (b"\x80\x04]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(100)) + b"hd\x93.", "no text"),
    ],
)  # fmt: skip
def test_a_pickle_that_is_no_mapping_of_arrays_is_refused(pickled, words):
    with pytest.raises(CheckpointError, match=words):
        read_pickle(pickled, no_storage)


def test_a_memo_index_of_gigabytes_takes_no_memory():
    """Python's own unpickler allocates a table of this size."""
    pickled = b"\x80\x02}r\xf0\xff\xff\xff."

    assert read_pickle(pickled, no_storage) == {}


def test_deep_nesting_is_read_without_recursion():
    depth = 200_000
    pickled = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."

    assert isinstance(read_pickle(pickled, no_storage), list)


def test_copies_of_copies_do_not_multiply():
    pickled = b"\x80\x02]" + b"q\x00h\x00h\x00\x86" * 1000 + b"."

    assert read_pickle(pickled, no_storage) is not None


def test_the_length_of_a_pickle_is_bounded():
    with pytest.raises(CheckpointError, match=f"more than the {MAX_PICKLE_BYTES}"):
        read_pickle(bytes(MAX_PICKLE_BYTES + 1), no_storage)


def test_a_product_of_large_sizes_is_not_computed():
    digits = bytes(500_000) + b"\x01"
    size = b"\x8b" + struct.pack("<i", len(digits)) + digits
    shape = b"(" + size + b"q\x01" + b"h\x01" * 6 + b"K\x00t"
    pickled = tensor(shape=(), strides=(0,) * 8).replace(b"(t", shape, 1)

    with pytest.raises(CheckpointError, match="larger than any file"):
        read_pickle(pickled, lambda *_: Storage("float32", np.zeros(16, np.uint8)))


def test_numbers_that_float32_cannot_hold_are_not_finite():
    with pytest.raises(CheckpointError, match=r"1 not finite: large\."):
        check_finite({"large": np.array([1e300]), "usual": np.array([1.0])}, ["large", "usual"], "a checkpoint")


def test_the_line_of_an_error_holds_no_control_characters():
    error = CheckpointError("unexpected:\n a\x1b[2J\ud800 \u202eß")

    line, _ = line_and_exit_code(error)

    assert line == r"error: unexpected: a\x1b[2J\ud800 \u202eß"


def test_the_steps_of_a_pickle_are_bounded():
    begin = time.monotonic()

    with pytest.raises(CheckpointError, match=f"more than {MAX_OPCODES}"):
        read_pickle(b"\x80\x02" + b"N" * (MAX_OPCODES + 1) + b".", no_storage)

    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("name", ["archive/data/0", "archive/data.pkl"])
def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path, name):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open(name, "w") as member:
        for _ in range(64):
            member.write(bytes(2**20))

    with pytest.raises(CheckpointError, match="is compressed"):
        read_checkpoint(path)


def test_a_name_that_two_members_have_is_refused(tmp_path):
    path = tmp_path / "twice.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", tensor())
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("archive/data.pkl", tensor())

    with pytest.raises(CheckpointError, match="two members"):
        read_checkpoint(path)


def test_a_directory_of_millions_of_members_is_refused(tmp_path):
    path = archive(tmp_path / "many.pth", tensor(), [("archive/data/0", bytes(16))])
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", content, end + 12)
    padding = b"PK\x01\x02" + bytes(MAX_DIRECTORY_BYTES)
    ending = bytearray(content[end:])
    struct.pack_into("<II", ending, 12, size + len(padding), start)
    path.write_bytes(content[:end] + padding + bytes(ending))

    with pytest.raises(CheckpointError, match="its directory has"):
        read_checkpoint(path)


def test_a_member_that_is_not_where_the_directory_says_is_refused(tmp_path):
    path = archive(tmp_path / "moved.pth", tensor(), [("archive/data/0", bytes(16))])
    content = bytearray(path.read_bytes())
    begin = content.rindex(b"PK\x01\x02")  # the directory's entry of the storage
    struct.pack_into("<II", content, begin + 20, 2**31, 2**31)
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(path)


def test_a_torchscript_program_is_refused_with_the_command_that_helps(tmp_path):
    path = archive(
        tmp_path / "script.pt", tensor(), [("archive/constants.pkl", b"\x80\x02)."), ("archive/code/x.py", "")]
    )

    with pytest.raises(CheckpointError, match=r"TorchScript.*torch\.jit\.load"):
        read_checkpoint(path)


def test_big_endian_numbers_are_refused(tmp_path):
    members = [("archive/data/0", bytes(16)), ("archive/byteorder", b"big")]

    with pytest.raises(CheckpointError, match="not little-endian"):
        read_checkpoint(archive(tmp_path / "big.pth", tensor(), members))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin like one"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "does not begin like one"),
        (b"PK\x03\x04", "not a readable"),
        (b"PK\x05\x06" + bytes(18), "without data.pkl"),
        (pickle.dumps({"a": 1}), "bare pickle"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, words):
    path = tmp_path / "other.pth"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(path)


def test_random_damage_is_refused_or_harmless(tmp_path):
    """No damage raises another error or returns another shape."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(4, 4), "b": torch.ones(3).half()}, "epoch": 1}, buffer)
    good, generator = buffer.getvalue(), random.Random(0)
    path = tmp_path / "damaged.pth"
    for _ in range(400):
        content = bytearray(good)
        for _ in range(generator.choice([1, 1, 3, 30])):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content[: generator.choice([len(content), generator.randrange(len(content))])])
        try:
            arrays = dict(read_checkpoint(path).arrays)
        except CheckpointError:
            continue
        assert all(array.size <= 16 for array in arrays.values())


def test_random_pickles_are_refused_or_harmless():
    generator = random.Random(1)
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    for _ in range(3000):
        pickled = b"".join(
            generator.choice(codes) + generator.choice([b"", b"\x00", b"\x01\x00\x00\x00", b"ctorch\nSize\n"])
            for _ in range(generator.randrange(1, 30))
        )
        try:
            read_pickle(b"\x80\x02" + pickled + b".", no_storage)
        except CheckpointError:
            continue


def safetensors_file(path, index, content=bytes(16), *, length=None):
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    path.write_bytes(struct.pack("<Q", len(data) if length is None else length) + data + content)
    return path


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(
    ("index", "options"),
    [
        (entry(data_offsets=[0, 20]), {}),
        (entry(data_offsets=[4, 20]), {}),
        (entry(data_offsets=[-16, 0]), {}),
        (entry(data_offsets=[0]), {}),
        (entry(data_offsets=[0.0, 16.0]), {}),
        (entry(shape=[2, 3]), {}),
        (entry(shape=[-2, -2]), {}),
        (entry(shape="22"), {}),
        (entry(shape=None), {}),
        (entry(shape=[1] * 60 + [4]), {}),
        (entry(shape=[2**64, 0]), {}),
        (entry(shape=[1] * 10**6), {}),
        ({"a": {}}, {}),
        ({"a": 3}, {}),
        ([1], {}),
        (b"{" * 100_000, {}),
        (b"\xff\xfe{}", {}),
        (entry(), {"length": 2**63}),
        (entry(), {"length": 2**24 + 1}),
        (entry(), {"length": 0}),
        (entry(), {"length": 1000}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, index, options):
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(safetensors_file(tmp_path / "bad.safetensors", index, **options))


def test_a_safetensors_file_of_another_number_format_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="'F8_E4M3'"):
        read_checkpoint(safetensors_file(tmp_path / "float8.safetensors", entry(dtype="F8_E4M3")))


def sparse_archive(path, member):
    """An archive whose last member has 2 GiB of zeros, which take no space on most disks."""
    names = ["data.pkl"] if member == "data.pkl" else ["data.pkl", "data/0", member]
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"archive/{name}", b"")
    content, size = path.read_bytes(), 2**31 - 1
    begin = content.rindex(b"PK\x01\x02")
    entry = content[begin : begin + 20] + struct.pack("<II", size, size) + content[begin + 28 :]
    directory = content.index(b"PK\x01\x02")
    with path.open("r+b") as file:
        file.truncate(directory)
        file.seek(directory + size)
        end = entry.rindex(b"PK\x05\x06")
        start = struct.pack("<I", directory + size)
        file.write(content[directory:begin] + entry[: end + 16] + start + entry[end + 20 :])
    return path


def test_what_a_hostile_file_costs_is_bounded(tmp_path):
    """Reading such files takes less than 300 MB in a process of its own."""
    paths = [
        sparse_archive(tmp_path / "order.pth", "byteorder"),
        sparse_archive(tmp_path / "index.pth", "data.pkl"),
        archive(tmp_path / "deep.pth", b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 2) + b"."),
        archive(tmp_path / "memo.pth", b"\x80\x02}" + b"r\xf0\xff\xff\xff" * 1000 + b"."),
        archive(tmp_path / "large.pth", b"\x80\x02X\xff\xff\xff\xff."),
    ]
    code = (
        "import resource, sys\n"
        "from model_store.checkpoint_files import CheckpointError, read_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for path in {[str(path) for path in paths]!r}:\n"
        "    try: read_checkpoint(path)\n"
        "    except CheckpointError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert int(result.stdout) < 300 * 1024
