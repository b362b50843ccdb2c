"""The resize in C gives the input that the resize with Pillow gives, bit for bit.

Stretched images are equal bit for bit on x86-64 alone. For other processors compilers fuse a multiplication and an
addition in Pillow, which rounds a double less.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.native_builds import build_in_use, runnable_levels

from service.native.resize import native_resizer
from service.sam.resizing import PillowResizer
from service.sam.transforms import preprocess

ROOT = Path(__file__).parents[2]
NATIVE = native_resizer()
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIDES = st.one_of(st.integers(1, 40), st.integers(1, 1400))

if NATIVE is None:
    pytest.skip("no build runs here", allow_module_level=True)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_equal_inputs(image, **options):
    expected = preprocess(image, MEAN, STD, resizer=PillowResizer(), **options)

    found = preprocess(image, MEAN, STD, resizer=NATIVE, **options)

    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.float32, expected.shape, True)
    assert found.tobytes() == expected.tobytes()


@settings(max_examples=120, deadline=None)
@given(SIDES, SIDES, st.sampled_from([16, 100, 512, 1024]), st.integers(0, 2**32 - 1))
@example(1, 1, 1024, 0)
@example(1, 1024, 512, 0)
@example(1400, 1, 1024, 0)
@example(480, 640, 1024, 0)
@example(1500, 2000, 1024, 0)
@example(1024, 577, 1024, 0)
@example(4, 8192, 1024, 0)
@example(8192, 300, 1024, 0)
@example(2000, 301, 512, 0)
def test_a_letterboxed_image_of_any_size_is_the_one_of_pillow(height, width, image_size, seed):
    if min(height, width) * 2 * image_size < max(height, width):
        width = height

    assert_equal_inputs(noise(height, width, seed), image_size=image_size)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([16, 100, 512, 1024]), st.integers(0, 2**32 - 1))
@example(1, 1, 1024, 0)
@example(1, 5000, 1024, 0)
@example(5000, 1, 1024, 0)
@example(1024, 1024, 1024, 0)
@example(1201, 1601, 1024, 0)
@example(30, 8192, 1024, 0)
def test_a_stretched_image_of_any_size_is_the_one_of_pillow(height, width, image_size, seed):
    found = preprocess(noise(height, width, seed), MEAN, STD, image_size, resize="stretch", resizer=NATIVE)

    assert_equal_floats(found, stretched_whole(noise(height, width, seed), image_size))


def assert_equal_floats(found, expected):
    if platform.machine() == "x86_64":
        assert found.tobytes() == expected.tobytes()
    else:
        assert np.abs(found - expected).max() < 1e-6


def stretched_whole(image, image_size):
    planes = []
    for channel, plane in enumerate(Image.fromarray(image).split()):
        columns = plane.convert("F").resize((image_size, plane.height), Image.Resampling.BILINEAR)
        whole = np.asarray(columns.resize((image_size, image_size), Image.Resampling.BILINEAR))
        planes.append((whole - np.float32(MEAN[channel])) / np.float32(STD[channel]))
    return np.stack(planes)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_each_axis_has_its_own_scale(height, width, target_height, target_width):
    image = Image.fromarray(noise(height, width))
    options = image, (target_height, target_width), MEAN, STD, 64

    found = NATIVE.letterbox(*options)

    assert found.tobytes() == PillowResizer().letterbox(*options).tobytes()


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_grey_levels_at_the_ends_of_the_range_stay(level):
    assert_equal_inputs(np.full((1333, 2001, 3), level, np.uint8))


@pytest.mark.parametrize("size", [(3000, 4000), (60_000, 100), (1100, 20_000), (833, 60_000)], ids=str)
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_an_image_in_several_pieces_of_memory_joins_without_a_seam(size, resize):
    image = Image.fromarray(noise(*size))
    with pytest.raises(ValueError, match=r"contiguous|multiple"):
        image.__arrow_c_array__()

    found = preprocess(image, MEAN, STD, resize=resize, resizer=NATIVE)

    if resize == "letterbox":
        assert found.tobytes() == preprocess(image, MEAN, STD, resizer=PillowResizer()).tobytes()
    else:  # PillowResizer has bands, whose weights differ from those of the whole image in the last bit
        assert_equal_floats(found, stretched_whole(np.asarray(image), 1024))


@pytest.mark.parametrize(
    "view",
    [lambda a: a[::2, ::3], lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[5:, 7:90], lambda a: a[..., ::-1]],
    ids=["steps", "upside down", "mirrored", "part", "blue first"],
)
def test_an_array_may_have_any_strides(view):
    assert_equal_inputs(view(noise(300, 200)))


@pytest.mark.parametrize("turn", list(Image.Transpose), ids=str)
def test_a_turned_image_is_resized(turn):
    assert_equal_inputs(Image.fromarray(noise(333, 500)).transpose(turn))


def test_the_size_at_full_resolution_counts_for_a_reduced_image():
    assert_equal_inputs(noise(1001, 1333), original_size=(2001, 2665))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "F"])
def test_an_image_of_another_mode_is_refused(mode):
    with pytest.raises(ValueError, match="cannot be resized, only RGB"):
        NATIVE.letterbox(Image.new(mode, (5, 5)), (5, 5), MEAN, STD, 16)


@pytest.mark.parametrize("size", [(0, 5), (17, 5), (5, 17)])
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="does not fit"):
        NATIVE.letterbox(Image.new("RGB", (5, 5)), size, MEAN, STD, 16)


# `ru_maxrss` of a new process begins with the size of its parent. VmHWM does not.
_PEAK = """
from pathlib import Path
from PIL import Image
from service.native.resize import native_resizer
from service.sam.transforms import preprocess
def memory(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])
run = lambda image: preprocess(image, (0.0,) * 3, (1.0,) * 3, resize="{resize}", resizer=native_resizer())
run(Image.new("RGB", (64, 64)))
image = Image.new("RGB", {size}, (1, 2, 3))
before = memory("VmRSS")
run(image)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(8832, 5888), (1 << 16, 793), (793, 1 << 16)], ids=str)
def test_an_image_of_52_megapixels_takes_little_memory(size, resize):
    found = subprocess.run(
        [sys.executable, "-c", _PEAK.format(size=size, resize=resize)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip

    assert int(found.stdout) < 64 << 10  # KiB; the result takes 12 MiB, and all pixels 198


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="no C compiler, or not Linux")
@pytest.mark.parametrize("level", runnable_levels())
def test_sanitizers_find_nothing_in_resizes_of_any_size(level, tmp_path):
    program, sources = tmp_path / "sanitized", ROOT / "service/native/csrc"
    option = [f"-march={level}"] if level.startswith("x86") else []
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-g", *option, "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         str(Path(__file__).with_name("sanitized_resize.c")), *map(str, sources.glob("resize*.c")), f"-I{sources}",
         "-lm", "-o", str(program)],
        check=True, timeout=300,
    )  # fmt: skip

    ended = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("level", runnable_levels())
def test_all_builds_give_the_same_input(level):
    with build_in_use(level):
        build = native_resizer()

    for height, width in ((480, 640), (1001, 1333), (7, 900)):
        image = noise(height, width)
        for resize in ("letterbox", "stretch"):
            expected = preprocess(image, MEAN, STD, resize=resize, resizer=NATIVE)
            assert np.array_equal(preprocess(image, MEAN, STD, resize=resize, resizer=build), expected)
