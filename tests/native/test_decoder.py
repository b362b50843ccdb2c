"""The decoder in C equals torch's ordinary modules, in every build that this machine can run."""

import _ctypes
import ctypes
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.native_builds import build_in_use, runnable_levels
from support.packed_rows import unpacked
from support.random_model import random_model

import service.native
from model_store.export.graphs.decoder import DecoderGraph
from model_store.export.graphs.prepare import PrepareGraph
from model_store.export.parity import TorchOutputs, torch_outputs
from service.native import best_level
from service.native.decoder import MAX_POINTS, NativeDecoder, NativeError
from service.sam.frame import Frame
from service.sam.prompts import ABSENT, IGNORED, decoder_inputs

# docs/explanation/model.md, section 11: equal to 1e-4. Measured on these weights: 1e-5.
TOLERANCE = 1e-4
THREADS = 3
EPSILON = 1e-5

State = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model().deploy()


@pytest.fixture(scope="module")
def answers(model) -> TorchOutputs:
    return torch_outputs(model)


@pytest.fixture(scope="module")
def parameters(model) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module", params=runnable_levels())
def decoder(request, parameters) -> Iterator[NativeDecoder]:
    """A decoder of every build, not only of the best one."""
    with build_in_use(request.param):
        decoder = NativeDecoder(parameters, norm_epsilon=EPSILON, threads=THREADS)
        assert decoder.level == request.param
        yield decoder


@pytest.fixture(scope="module")
def state(model, answers) -> State:
    return prepared(model, answers, np.zeros((1, 256, 256), np.float32), has_mask=False)


def prepared(model, answers: TorchOutputs, mask_logits: NDArray[np.float32], *, has_mask: bool) -> State:
    tokens = answers.embedding[0].flatten(1).T.contiguous()
    with torch.inference_mode():
        arrays = PrepareGraph(model)(tokens, torch.from_numpy(mask_logits), torch.full((len(mask_logits),), has_mask))
    return tuple(array.contiguous().numpy() for array in arrays)


def test_a_build_for_this_machine_exists():
    """Continuous integration has a compiler. Without a build all other tests of this file would be skipped."""
    assert best_level() is not None or shutil.which("cc") is None


def test_masks_and_scores_equal_those_of_torch(decoder, model, answers, state):
    for is_masked in (False, True):
        rows = [i for i, prompt in enumerate(answers.prompts) if (prompt.mask_logits is not None) is is_masked]
        prompts = [answers.prompts[i] for i in rows]
        points, labels = decoder_inputs(prompts, Frame((1024, 1024)))
        own = state
        if is_masked:
            masks = np.stack([prompt.mask_logits for prompt in prompts if prompt.mask_logits is not None])
            own = prepared(model, answers, masks, has_mask=True)

        mask_logits, iou_predictions, stability = decoder.decode(*own, points, labels, threads=1)

        assert rows
        assert np.abs(mask_logits - answers.mask_logits[rows].numpy()).max() < TOLERANCE
        assert np.abs(iou_predictions - answers.iou_predictions[rows].numpy()).max() < TOLERANCE
        likely = (mask_logits > -1).sum((2, 3))
        expected = (mask_logits > 1).sum((2, 3)) / np.maximum(likely, 1)
        assert np.abs(stability - expected).max() < 1e-6


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 11, 40, MAX_POINTS])
def test_any_number_of_points_gives_the_masks_of_torch(decoder, model, answers, state, count):
    random = np.random.default_rng(count)
    points = random.uniform(0, 1024, (1, count, 2)).astype(np.float32)
    labels = random.integers(-2, 4, (1, count))

    mask_logits, iou_predictions, _ = decoder.decode(*state, points, labels, threads=1)

    with torch.inference_mode():
        expected = DecoderGraph(model)(*map(torch.from_numpy, (points, labels, *state)))
    assert np.abs(mask_logits - expected[0].numpy()).max() < TOLERANCE
    assert np.abs(iou_predictions - expected[1].numpy()).max() < TOLERANCE


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_prepared_states_equal_those_of_torch(decoder, model, answers, dtype):
    tokens = answers.embedding[0].flatten(1).T.contiguous().numpy().astype(dtype)
    with torch.inference_mode():
        expected = PrepareGraph(model)(
            torch.from_numpy(tokens.astype(np.float32)), torch.zeros(1, 256, 256), torch.tensor([False])
        )

    found = [decoder.prepare(tokens, threads=threads) for threads in (1, THREADS)]

    for (keys, *rows), threads in zip(found, (1, THREADS), strict=True):
        assert np.shares_memory(keys, tokens), threads
        for packed, same, reference in zip(rows, found[0][1:], expected[1:], strict=True):
            assert np.array_equal(packed, same)
            exact = reference.numpy()
            assert np.all(np.abs(unpacked(packed) - exact) <= np.abs(exact) * 2.0**-16 + 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("count", [0, 2, 11])
def test_its_own_states_give_the_masks_of_torch(decoder, model, answers, dtype, count):
    tokens = answers.embedding[0].flatten(1).T.contiguous().numpy().astype(dtype)
    random = np.random.default_rng(count)
    points, labels = random.uniform(0, 1024, (2, count, 2)).astype(np.float32), random.integers(-2, 4, (2, count))

    packed = decoder.prepare(tokens, threads=1)
    mask_logits, iou_predictions, _ = decoder.decode(*packed, points, labels, threads=THREADS)

    with torch.inference_mode():
        state = PrepareGraph(model)(
            torch.from_numpy(tokens.astype(np.float32)), torch.zeros(1, 256, 256), torch.tensor([False])
        )
        expected = DecoderGraph(model)(torch.from_numpy(points), torch.from_numpy(labels), *state)
    assert np.abs(mask_logits - expected[0].numpy()).max() < TOLERANCE
    assert np.abs(iou_predictions - expected[1].numpy()).max() < TOLERANCE


def test_a_state_for_each_prompt_gives_the_masks_of_one_state(decoder, answers):
    tokens = [(-1) ** i * answers.embedding[0].flatten(1).T.contiguous().numpy() for i in range(2)]
    points, labels = np.array([[[300, 200]], [[700, 600]]], np.float32), np.ones((2, 1), np.int64)
    states = [decoder.prepare(each.astype(np.float16), threads=1) for each in tokens]
    both = [np.concatenate(arrays) for arrays in zip(*states, strict=True)]

    together = decoder.decode(*both, points, labels, threads=THREADS)

    for i, state in enumerate(states):
        alone = decoder.decode(*state, points[i : i + 1], labels[i : i + 1], threads=1)
        assert np.array_equal(together[0][i], alone[0][0])


def test_tokens_of_another_shape_or_type_are_refused(decoder):
    for tokens in (np.zeros((4095, 256), np.float32), np.zeros((4096, 256), np.float64)):
        with pytest.raises(ValueError, match="float16 or float32"):
            decoder.prepare(tokens, threads=1)


def test_threads_and_other_prompts_of_a_call_change_no_bit(decoder, state):
    random = np.random.default_rng(1)
    points = random.uniform(0, 1024, (3, 4, 2)).astype(np.float32)
    labels = np.array([[1, -1, ABSENT, ABSENT], [2, 3, ABSENT, 0], [1, 0, 1, -1]])
    together = decoder.decode(*state, points, labels, threads=THREADS)

    for i in range(len(labels)):
        present = labels[i] != ABSENT
        alone = decoder.decode(*state, points[i : i + 1, present], labels[i : i + 1, present], threads=1)

        for one, all_of_them in zip(alone, together, strict=True):
            assert np.array_equal(one[0], all_of_them[i])


@pytest.mark.parametrize("threads", [1, THREADS])
@pytest.mark.parametrize("outputs", [(1, 2, 3), (0,), (0, 3), (0, 1, 2, 3)], ids=str)
def test_wanted_masks_are_those_of_all_masks_bit_for_bit(decoder, state, outputs, threads):
    random = np.random.default_rng(4)
    points = random.uniform(0, 1024, (9, 2, 2)).astype(np.float32)
    labels = np.tile([[1, -1]], (9, 1))
    all_logits, all_iou, all_stability = decoder.decode(*state, points, labels, threads=1)
    middle = float(np.median(all_iou[:, outputs]))

    for least_iou in (None, middle, 9.0):
        logits, iou, stability = decoder.decode_selected(
            *state, points, labels, outputs=outputs, least_iou=least_iou, threads=threads
        )

        wanted = np.zeros((9, 4), np.bool_)
        wanted[:, outputs] = True if least_iou is None else all_iou[:, outputs] > least_iou
        assert wanted.sum() == {None: 9 * len(outputs), 9.0: 0}.get(least_iou, 9 * len(outputs) // 2)
        assert np.array_equal(iou, all_iou)
        assert np.array_equal(logits[wanted], all_logits[wanted])
        assert np.array_equal(stability[wanted], all_stability[wanted])


@pytest.mark.parametrize("cells", [(256, 256), (171, 256), (256, 129), (1, 1)], ids=str)
def test_logits_inside_the_image_do_not_depend_on_its_padding(decoder, state, cells):
    points, labels = np.array([[[300, 200], [0, 0]]], np.float32), np.array([[1, -1]])
    all_logits, all_iou, _ = decoder.decode(*state, points, labels, threads=1)

    logits, _, _ = decoder.decode_selected(
        *state, points, labels, outputs=(0, 1, 2, 3), least_iou=float(all_iou.min()) - 1, cells=cells, threads=2
    )

    rows, columns = cells
    assert np.array_equal(logits[..., :rows, :columns], all_logits[..., :rows, :columns])
    is_padding = logits != all_logits
    assert np.all(logits[is_padding] == -100)
    assert is_padding.any() == (cells != (256, 256))


def test_calls_from_many_threads_are_independent(decoder, state):
    random = np.random.default_rng(2)
    prompts = [(random.uniform(0, 1024, (1, n, 2)).astype(np.float32), np.ones((1, n), np.int64)) for n in range(1, 13)]
    expected = [decoder.decode(*state, *prompt, threads=1)[0] for prompt in prompts]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: decoder.decode(*state, *prompts[i % 12], threads=1 + i % 3)[0], range(36)))

    assert all(np.array_equal(masks, expected[i % 12]) for i, masks in enumerate(found))


def test_an_ignored_point_changes_the_mask_and_an_absent_one_does_not(decoder, state):
    points = np.full((3, 2, 2), 300, np.float32)
    labels = np.array([[1, ABSENT], [1, IGNORED], [1, 0]])

    mask_logits, _, _ = decoder.decode(*state, points, labels, threads=1)
    alone, _, _ = decoder.decode(*state, points[:1, :1], labels[:1, :1], threads=1)

    assert np.array_equal(mask_logits[0], alone[0])
    assert not np.array_equal(mask_logits[1], alone[0])


@pytest.mark.parametrize("label", [-4, 4, 2**40])
def test_an_unknown_label_is_refused(decoder, state, label):
    with pytest.raises(ValueError, match="between -3 and 3"):
        decoder.decode(*state, np.zeros((1, 1, 2), np.float32), np.array([[label]]), threads=1)


def test_shapes_that_do_not_fit_are_refused(decoder, state):
    keys, keys0, queries0 = state
    packed = np.zeros((1, 4096, 384), np.uint8)
    points, labels = np.zeros((1, 2, 2), np.float32), np.ones((1, 2), np.int64)

    for wrong in (
        (keys[:, 1:], keys0, queries0),
        (keys, keys0[..., 1:], queries0),
        (np.repeat(keys, 2, 0), keys0, queries0),
        (keys, packed, queries0),
        (keys, packed[..., 1:], packed),
    ):
        with pytest.raises(ValueError, match="shapes"):
            decoder.decode(*wrong, points, labels, threads=1)
    with pytest.raises(ValueError, match="do not fit"):
        decoder.decode(*state, points[:, :1], labels, threads=1)
    many = MAX_POINTS + 1
    with pytest.raises(ValueError, match="at most"):
        decoder.decode(*state, np.zeros((1, many, 2), np.float32), np.ones((1, many), np.int64), threads=1)


def test_missing_or_misshapen_parameters_are_named(parameters):
    if best_level() is None:
        pytest.skip("no build of the native decoder runs here")
    name = "mask_decoder.transformer.layers.1.norm4.bias"

    with pytest.raises(NativeError, match=rf"{name} is missing"):
        NativeDecoder({key: value for key, value in parameters.items() if key != name}, norm_epsilon=EPSILON, threads=1)
    with pytest.raises(NativeError, match=rf"{name} has 255 numbers, not 256"):
        NativeDecoder({**parameters, name: parameters[name][1:]}, norm_epsilon=EPSILON, threads=1)


def copy_without_builds(folder: Path) -> Path:
    """Copy the Python files of `service.native` without its builds, as on a machine without a compiler."""
    package = folder / "service" / "native"
    package.mkdir(parents=True)
    (folder / "service" / "__init__.py").touch()
    for path in Path(service.native.__file__).parent.glob("*.py"):
        shutil.copy(path, package)
    return package


def test_without_a_build_there_is_no_decoder(tmp_path):
    copy_without_builds(tmp_path)
    code = (
        "from service.native import best_level; from service.native.decoder import NativeDecoder; "
        "print(best_level()); NativeDecoder({}, norm_epsilon=1e-5, threads=1)"
    )

    asked = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert asked.stdout == "None\n"
    assert "no build of the native decoder runs on this machine" in asked.stderr


@pytest.mark.parametrize("damage", ["no library", "built of another source"])
def test_an_unusable_build_is_skipped(tmp_path, damage):
    package = copy_without_builds(tmp_path)
    for level in service.native._LEVELS:
        path = package / f"_{level.replace('-', '_')}.so"
        if damage == "no library":
            path.write_bytes(b"no library")
        else:
            shutil.copy(_ctypes.__file__, path)
    question = "import service.native; print(service.native.library())"

    asked = subprocess.run([sys.executable, "-c", question], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert asked.stdout == "None\n"
    assert asked.stderr.count("cannot be used") == len(service.native._LEVELS) > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_sanitizers_find_nothing(tmp_path):
    """Check bounds, undefined behaviour and leaks of the C code in a program of its own."""
    if sys.platform != "linux":
        pytest.skip("the C code is built on Linux alone")
    sources = [str(path) for path in (Path(service.native.__file__).parent / "csrc").glob("*.c")]
    program = tmp_path / "sanitized"
    vectors = ["-march=x86-64-v3"] if platform.machine() == "x86_64" else []  # arm64 has NEON without an option
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-g", *vectors, "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", str(Path(__file__).with_name("sanitized.c")), *sources,
         "-I", str(Path(service.native.__file__).parent / "csrc"), "-lm", "-pthread", "-o", str(program)],
        check=True, timeout=120,
    )  # fmt: skip

    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)

    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout == "decoded\n"


def test_the_selected_build_states_that_it_runs_here():
    level = best_level()
    if level is None:
        pytest.skip("no build of the native decoder runs here")
    (path,) = Path(service.native.__file__).parent.glob(f"_{level.replace('-', '_')}.*so")

    assert ctypes.CDLL(str(path)).edgesam_runs_here() == 1
