"""The encoder on OpenVINO: equal embeddings, bfloat16, threads, the cache of compiled graphs, and broken packages.

`make openvino-test` installs OpenVINO apart from the other packages and runs these tests.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.sample_images import sample_images
from support.service_process import ServiceProcess

from service.inference.backends.onnx_graph import Resources
from service.inference.backends.openvino_graph import OpenVinoGraph
from service.inference.backends.providers import (
    CPU,
    Backend,
    ProviderUnavailable,
    decoder_backends,
    encoder_backends,
    installed_providers,
)
from service.inference.backends.runtime import Runtime
from service.inference.scheduling.thread_priority import LOW_PRIORITY_NICE, run_at_low_priority
from service.manifest import ManifestError
from service.sam.embedding import ImageEmbedding
from service.sam.prompts import PADDING, POSITIVE

INSTALLED = "openvino" in installed_providers()
FLOAT32, BFLOAT16 = Backend("openvino", "float32"), Backend("openvino", "bfloat16")
ROOT = Path(__file__).parents[2]

# Embeddings of all providers are shared through Redis. Measured: 1e-5 where the largest number is about 8.
TOLERANCE = 1e-4

needs_openvino = pytest.mark.skipif(not INSTALLED, reason="openvino is not installed: make openvino-test")


def _computes_bfloat16():
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_bfloat16 = pytest.mark.skipif(
    not INSTALLED or not _computes_bfloat16(), reason="needs OpenVINO and a processor with AVX512_BF16 or AMX"
)


def images(count=1, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, 3, 1024, 1024)).astype(np.float32)


def masks_of(runtime):
    """Run every graph once, from the image to masks (12, 4, 256, 256)."""
    points = np.random.default_rng(0).uniform(100, 900, (12, 2, 2)).astype(np.float32)
    labels = np.tile(np.array([[POSITIVE, PADDING]], np.int64), (12, 1))
    tokens = runtime.encode(images()).tokens[0]
    return runtime.decode(runtime.prepare(ImageEmbedding(tokens, (1024, 1024))).arrays, points, labels).mask_logits


def overlaps(masks, expected):
    """Return the IoU of each pair of masks."""
    ours, theirs = masks > 0, expected > 0
    return (ours & theirs).sum((2, 3)) / (ours | theirs).sum((2, 3))


def broken_package(folder, text):
    """Write a package `openvino` whose import runs this text; return a module path that finds it first."""
    (folder / "openvino").mkdir()
    (folder / "openvino" / "__init__.py").write_text(text)
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def start_in_a_process(artifact, *, provider, precision="float32", **environment):
    """Load the artifact in a process of its own; return what it printed."""
    program = (
        "import sys, logging; from pathlib import Path; logging.basicConfig()\n"
        "from service.inference.backends.runtime import Runtime\n"
        "from service.inference.backends.providers import ProviderUnavailable\n"
        "try: print(Runtime(Path(sys.argv[1]), provider=sys.argv[2], precision=sys.argv[3], threads=1).provider)\n"
        "except ProviderUnavailable as error: print('refused:', error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(artifact), provider, precision],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip
    return ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "raise ImportError('libopenvino.so.2641: cannot open shared object file')",
            "libopenvino.so.2641: cannot open",
        ),
        ("import no_such_package", "No module named 'no_such_package'"),
        ("", "has no attribute 'Core'"),
    ],
)
def test_a_broken_package_is_named_with_what_to_do_and_auto_does_without_it(artifact, tmp_path, text, reason):
    path = broken_package(tmp_path, text)

    asked = start_in_a_process(artifact, provider="openvino", PYTHONPATH=path)
    auto = start_in_a_process(artifact, provider="auto", PYTHONPATH=path)

    refused = r"refused: openvino is installed and does not start: .*{}.*\[openvino\].*EDGESAM_PROVIDER=cpu"
    assert re.search(refused.format(re.escape(reason)), asked), asked
    assert auto.startswith("cpu\n")
    assert "The encoder runs without openvino: openvino is installed and does not start: " in auto
    assert reason in auto


def test_a_plain_folder_named_openvino_is_no_package(artifact, tmp_path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()

    assert ("openvino" in installed_providers()) == INSTALLED


@needs_openvino
def test_the_embedding_is_that_of_the_cpu(artifact):
    expected = Runtime(artifact, provider="cpu", threads=2).encode(images()).tokens

    tokens = Runtime(artifact, provider="openvino", threads=2).encode(images()).tokens

    assert_allclose(tokens, expected, rtol=0, atol=TOLERANCE)


@needs_openvino
@pytest.mark.parametrize("fixture", ["proposing_artifact", "edgetam_artifact"])
def test_proposals_and_maps_of_high_resolution_are_those_of_the_cpu(request, fixture):
    artifact = request.getfixturevalue(fixture)
    expected = Runtime(artifact, provider="cpu", threads=2).encode(images())

    encoded = Runtime(artifact, provider="openvino", threads=2).encode(images())

    scale = np.abs(expected.tokens).max()
    assert_allclose(encoded.tokens, expected.tokens, rtol=0, atol=1e-4 * scale)
    (ours,), (theirs,) = encoded.high_res, expected.high_res
    if theirs is not None:
        for name in ("s1", "s0"):
            values = getattr(theirs, name)
            assert_allclose(getattr(ours, name), values, rtol=0, atol=1e-4 * np.abs(values).max())
    (ours,), (theirs,) = encoded.proposals, expected.proposals
    if theirs is not None:
        assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-3)


@needs_openvino
def test_masks_are_those_of_the_cpu_and_the_service_decodes_on_the_cpu(artifact):
    expected = masks_of(Runtime(artifact, provider="cpu", threads=2))
    runtime = Runtime(artifact, provider="openvino", threads=2)

    assert_allclose(masks_of(runtime), expected, rtol=0, atol=1e-3)
    assert runtime.provider == "openvino+cpu"
    assert runtime.fingerprint == runtime.manifest.fingerprint


@needs_openvino
def test_each_number_of_images_gives_the_embeddings_of_single_calls_and_answers_stay_valid(artifact):
    runtime = Runtime(artifact, provider="openvino", threads=2, max_encode_batch=8)
    three = images(3)
    single = [runtime.encode(three[row : row + 1]).tokens for row in range(3)]
    kept = [tokens.copy() for tokens in single]

    together = runtime.encode(three).tokens

    assert_array_equal(together, np.concatenate(single))
    assert_array_equal(np.concatenate(kept), np.concatenate(single))


@needs_openvino
def test_read_only_and_strided_images_are_encoded_as_they_are(artifact):
    runtime = Runtime(artifact, provider="openvino", threads=2)
    image = images()
    expected, wide, frozen = runtime.encode(image).tokens, np.concatenate([image, image], axis=3), image.copy()
    frozen.flags.writeable = False

    assert_array_equal(runtime.encode(wide[:, :, :, :1024]).tokens, expected)
    assert_array_equal(runtime.encode(frozen).tokens, expected)


@needs_openvino
def test_calls_at_the_same_time_give_the_answers_of_single_calls(artifact):
    runtime = Runtime(artifact, provider="openvino", threads=1)
    both = [images(seed=seed) for seed in (1, 2)]
    expected, found = [runtime.encode(one).tokens for one in both], [None, None]

    def encode(row):
        found[row] = runtime.encode(both[row]).tokens

    threads = [threading.Thread(target=encode, args=(row,)) for row in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for ours, theirs in zip(found, expected, strict=True):
        assert_array_equal(ours, theirs)


@needs_openvino
def test_float32_is_computed_in_float32_with_the_threads_of_the_settings(artifact):
    graph = OpenVinoGraph(artifact / "encoder.onnx", FLOAT32, Resources(threads=1))

    properties = {
        name: graph._compiled.get_property(name)
        for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING", "INFERENCE_PRECISION_HINT")
    }
    assert properties["INFERENCE_PRECISION_HINT"].get_type_name() == "f32"
    assert properties | {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False} == properties


@needs_openvino
def test_a_graph_with_other_names_and_a_file_that_is_no_graph_are_refused_by_name(artifact, tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    graph = OpenVinoGraph(artifact / "encoder.onnx", FLOAT32, Resources(threads=1))

    with pytest.raises(ProviderUnavailable, match=r"openvino cannot load encoder\.onnx"):
        OpenVinoGraph(tmp_path / "encoder.onnx", FLOAT32, Resources(threads=1))
    with pytest.raises(ManifestError, match=r"encoder\.onnx: the graph has the inputs image, not frame"):
        graph.check_names(["frame"], ["tokens"])
    with pytest.raises(ManifestError, match=r"encoder\.onnx: the graph lacks the outputs boxes"):
        graph.check_names(["image"], ["tokens", "boxes"])


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the priority of each thread")
def test_all_threads_of_openvino_have_a_low_priority(artifact):
    def priorities():
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
        return {task: os.getpriority(os.PRIO_PROCESS, task) for task in tasks}

    before = priorities()
    runtime = Runtime(artifact, provider="openvino", threads=2, segments=False)
    runtime.warm_up()
    run_at_low_priority(runtime.encode, images())

    started = {task: nice for task, nice in priorities().items() if task not in before}
    assert started, "OpenVINO has no threads of its own"
    assert min(started.values()) >= LOW_PRIORITY_NICE


@needs_openvino
def test_compiled_graphs_are_kept_and_belong_to_the_weights(artifact, tmp_path):
    resources = Resources(threads=1, engine_cache_dir=tmp_path / "cache")
    other = tmp_path / "other.onnx"
    other.write_bytes(_with_other_weights((artifact / "encoder.onnx").read_bytes()))

    first = OpenVinoGraph(artifact / "encoder.onnx", FLOAT32, resources)
    again = OpenVinoGraph(artifact / "encoder.onnx", FLOAT32, resources)
    changed = OpenVinoGraph(other, FLOAT32, resources)

    assert [graph._compiled.get_property("LOADED_FROM_CACHE") for graph in (first, again, changed)] == [
        False,
        True,
        False,
    ]
    answers = [graph.run(["tokens"], {"image": images()})[0] for graph in (first, again, changed)]
    assert_array_equal(answers[1], answers[0])
    assert np.abs(answers[2] - answers[0]).max() > 0


@needs_openvino
@pytest.mark.parametrize("fault", ["cut off", "overwritten", "empty", "no folder"])
def test_a_damaged_cache_of_compiled_graphs_is_not_used(artifact, tmp_path, fault):
    cache = tmp_path / "cache"
    resources = Resources(threads=1, engine_cache_dir=cache)
    expected = OpenVinoGraph(artifact / "encoder.onnx", FLOAT32, resources).run(["tokens"], {"image": images()})[0]
    (file,) = cache.iterdir()
    data = file.read_bytes()
    file.chmod(0o600)
    if fault == "no folder":
        shutil.rmtree(cache)
        cache.write_text("a file")
    else:
        kept = {"cut off": len(data) // 2, "overwritten": 200, "empty": 0}[fault]
        file.write_bytes(data[:kept] + (bytes(len(data) - kept) if fault == "overwritten" else b""))

    tokens = OpenVinoGraph(artifact / "encoder.onnx", FLOAT32, resources).run(["tokens"], {"image": images()})[0]

    assert_array_equal(tokens, expected)


@needs_openvino
def test_auto_times_openvino_against_the_cpu_for_the_encoder_alone(artifact):
    runtime = Runtime(artifact, provider="auto", threads=2)

    assert set(runtime.provider_timings_ms["encoder"]) == {"cpu", "openvino"}
    assert all(timing > 0 for timing in runtime.provider_timings_ms["encoder"].values())
    assert runtime.provider_timings_ms["decoder"] == {}
    assert runtime.provider in {"cpu", "openvino+cpu"}
    assert runtime.fingerprint == runtime.manifest.fingerprint


@needs_openvino
def test_candidates_of_openvino():
    assert encoder_backends("openvino", "float32") == [FLOAT32]
    assert encoder_backends("auto", "bfloat16") == [BFLOAT16]
    for asked in ("openvino", "auto"):
        for precision in ("float32", "bfloat16"):
            assert set(decoder_backends(asked, precision)) - {Backend("cuda", "float32")} == {CPU}


@needs_openvino
@pytest.mark.parametrize("provider", ["openvino", "auto"])
def test_bfloat16_is_refused_on_a_processor_without_it(artifact, provider):
    # OpenVINO then generates code for this instruction set, as on such a processor.
    said = start_in_a_process(artifact, provider=provider, precision="bfloat16", OV_CPU_MAX_ISA="AVX512_CORE")

    assert re.search("refused: EDGESAM_PRECISION=bfloat16 needs a processor.*Set EDGESAM_PRECISION=float32", said), said


@needs_bfloat16
def test_bfloat16_has_embeddings_of_its_own_and_masks_close_to_those_of_float32(artifact):
    exact = Runtime(artifact, provider="cpu", threads=2)
    runtime = Runtime(artifact, provider="openvino", threads=2, precision="bfloat16")

    found = overlaps(masks_of(runtime), masks_of(exact))

    assert (runtime.provider, runtime.precision) == ("openvino+cpu", "bfloat16+float32")
    assert runtime.fingerprint == f"{exact.fingerprint}-bfloat16"
    assert found.mean() > 0.95  # measured on random weights, whose masks have many boundary pixels: 0.98


@needs_openvino
def test_the_service_states_openvino_and_answers(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_PROVIDER": "openvino", "EDGESAM_THREADS": "1"}
    photo, *_ = sample_images()

    with ServiceProcess(settings) as service:
        (model,) = httpx.get(f"{service.url}/models", timeout=60).json()["models"]
        jpeg = {"Content-Type": "image/jpeg"}
        embedded = httpx.post(f"{service.url}/embed", content=photo.path.read_bytes(), headers=jpeg, timeout=60).json()
        body = {"image_hash": embedded["image_hash"], "prompts": [photo.prompt]}
        answer = httpx.post(f"{service.url}/segment", json=body, timeout=60)

    assert (model["provider"], model["precision"]) == ("openvino+cpu", "float32")
    assert answer.status_code == 200
    assert [line for line in service.log if line["event"].startswith("OpenVINO compiled encoder.onnx for openvino in")]


def _with_other_weights(data):
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(data)
    weights = max(model.graph.initializer, key=lambda one: np.prod(one.dims))
    values = numpy_helper.to_array(weights).copy()
    values.flat[values.size // 2] += 0.5
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    return model.SerializeToString()
