"""Execution providers: refusals at start, the selection by auto, and equal results of all providers.

`make openvino-test` runs these tests, and those of test_openvino.py, where OpenVINO is installed.
"""

import logging
import weakref
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_array_equal
from support.service_process import ServiceProcess

from service.inference.backends.image_state import StateArrays
from service.inference.backends.onnx_graph import Graph, Resources
from service.inference.backends.providers import (
    CPU,
    PRECISIONS,
    Backend,
    ProviderUnavailable,
    decoder_only_backends,
    encoder_backends,
    installed_providers,
    select_fastest,
)
from service.inference.backends.runtime import Runtime
from service.manifest import STATE_NAMES, ManifestError
from service.sam.embedding import ImageEmbedding
from service.sam.prompts import PADDING, POSITIVE

INSTALLED = installed_providers()
MISSING = [provider for provider in PRECISIONS if provider not in INSTALLED]
OTHER = Backend("openvino", "float32")


def clicks(count, seed=0):
    points = np.random.default_rng(seed).uniform(100, 900, (count, 2, 2)).astype(np.float32)
    return points, np.tile(np.array([[POSITIVE, PADDING]], np.int64), (count, 1))


def working_for(seconds, answer):
    """Return a run that computes for this time."""

    def run():
        end = perf_counter() + seconds
        while perf_counter() < end:
            np.ones(1000).sum()
        return np.array([1.0, answer])

    return run


def test_the_cpu_provider_is_always_installed():
    assert "cpu" in INSTALLED


@pytest.mark.parametrize("missing", MISSING)
def test_a_provider_that_is_not_installed_is_refused_with_the_extra_to_install(artifact, missing):
    extra = {"openvino": "openvino", "cuda": "gpu", "tensorrt": "gpu"}[missing]

    with pytest.raises(ProviderUnavailable, match=rf"EDGESAM_PROVIDER={missing}.*\[{extra}\].*EDGESAM_PROVIDER=auto"):
        Runtime(artifact, provider=missing, threads=1, precision=PRECISIONS[missing][0])


@pytest.mark.parametrize("provider", INSTALLED)
def test_a_precision_that_a_provider_does_not_have_is_refused_with_those_it_has(provider):
    (lacking, *_) = (each for each in ("tf32", "bfloat16") if each not in PRECISIONS[provider])

    with pytest.raises(ProviderUnavailable, match=rf"{lacking}; set EDGESAM_PRECISION to {PRECISIONS[provider][0]}"):
        encoder_backends(provider, lacking)


def test_auto_refuses_a_precision_that_only_tensorrt_has():
    with pytest.raises(ProviderUnavailable, match=r"EDGESAM_PRECISION=float16 is for tensorrt.*name the provider"):
        encoder_backends("auto", "float16")


def test_auto_tries_the_installed_providers_with_the_cpu_first():
    backends = encoder_backends("auto", "float32")

    assert backends[0] == CPU
    assert {backend.provider for backend in backends} == {*INSTALLED} - {"tensorrt"}


def test_a_single_provider_is_taken_without_a_run():
    def never():
        raise AssertionError("it ran")

    selected = select_fastest("The encoder", [CPU], lambda backend: backend, lambda _: never)

    assert (selected.backend, selected.loaded, selected.timings_ms) == (CPU, CPU, {})


def test_the_fastest_is_selected_and_all_timings_are_stated():
    times_s = {CPU: 0.02, OTHER: 0.0}

    selected = select_fastest(
        "The encoder", [*times_s], lambda backend: backend, lambda backend: working_for(times_s[backend], 1.0)
    )

    assert (selected.backend, selected.loaded) == (OTHER, OTHER)
    assert set(selected.timings_ms) == {"cpu", "openvino"}
    assert selected.timings_ms["cpu"] >= 20


def test_the_slower_candidate_is_freed_after_the_selection():
    freed = []

    class Loaded:
        def __init__(self, backend):
            self.backend = backend
            weakref.finalize(self, freed.append, backend)

    times_s = {CPU: 0.02, OTHER: 0.0}

    selected = select_fastest("The encoder", [*times_s], Loaded, lambda one: working_for(times_s[one.backend], 1.0))

    assert selected.backend == OTHER
    assert freed == [CPU]


def test_openvino_encodes_and_the_cpu_decodes():
    assert decoder_only_backends("openvino") == [CPU]


def test_the_first_candidate_is_selected_when_the_other_is_slower():
    times_s = {CPU: 0.0, OTHER: 0.02}

    selected = select_fastest(
        "The encoder", [*times_s], lambda backend: backend, lambda backend: working_for(times_s[backend], 1.0)
    )

    assert selected.backend == CPU


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", ["cannot be made", "fails in a run", "answers NaN", "answers something else"])
def test_auto_skips_a_provider_that_does_not_work_and_logs_it(caplog, fault, precision):
    other = Backend("openvino", precision)

    def make(backend):
        if backend == other and fault == "cannot be made":
            raise ProviderUnavailable(fault)
        return backend

    def probe(backend):
        def fail():
            raise RuntimeError(fault)

        answer = {"answers NaN": np.nan, "answers something else": 0.5}.get(fault, 1.0)
        return (
            fail
            if backend == other and fault == "fails in a run"
            else working_for(0, answer if backend == other else 1)
        )

    with caplog.at_level(logging.WARNING):
        selected = select_fastest("The encoder", [CPU, other], make, probe)

    assert (selected.backend, selected.timings_ms) == (CPU, {})
    (line,) = caplog.messages
    assert line.startswith(f"The encoder runs without {other}: ")


def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")

    with pytest.raises(ManifestError, match=r"encoder\.onnx: ONNX Runtime cannot load"):
        Graph(tmp_path / "encoder.onnx", CPU, Resources(1))


def test_states_that_stay_on_a_device_decode_as_arrays_do_and_count_as_many_bytes(artifact):
    runtime = Runtime(artifact, provider="cpu", threads=2, decoder="onnx")
    tokens = np.random.default_rng(0).normal(0, 0.3, (4096, 256)).astype(np.float32)
    state = runtime.prepare(ImageEmbedding(tokens, (768, 1024)))
    arrays = [np.ascontiguousarray(getattr(state.arrays, name)) for name in STATE_NAMES]
    resident = StateArrays(*map(onnxruntime.OrtValue.ortvalue_from_numpy, arrays))

    decoded = runtime.decode(resident, *clicks(2))

    assert_array_equal(decoded.mask_logits, runtime.decode(state.arrays, *clicks(2)).mask_logits)
    assert (
        type(state)(state.embedding, resident).nbytes == state.nbytes == tokens.nbytes + sum(a.nbytes for a in arrays)
    )


def test_a_prepared_state_stays_valid_after_later_calls(runtime):
    tokens = np.random.default_rng(0).normal(0, 0.3, (2, 4096, 256)).astype(np.float32)
    state = runtime.prepare(ImageEmbedding(tokens[0], (768, 1024))).arrays
    before = [np.array(getattr(state, name)) for name in STATE_NAMES]

    runtime.prepare(ImageEmbedding(tokens[1], (768, 1024)))

    for name, array in zip(STATE_NAMES, before, strict=True):
        assert_array_equal(getattr(state, name), array)


def test_read_only_and_strided_arrays_are_fed_as_they_are(runtime):
    points, labels = clicks(4)
    state = runtime.prepare(ImageEmbedding(np.ones((4096, 256), np.float32), (768, 1024))).arrays
    wide = np.concatenate([points, points], axis=2)
    strided, frozen = wide[:, :, :2], labels.copy()
    frozen.flags.writeable = False

    decoded = runtime.decode(state, strided, frozen)

    assert_array_equal(decoded.mask_logits, runtime.decode(state, points, labels).mask_logits)


def test_float32_embeddings_of_all_providers_have_one_fingerprint(artifact, runtime):
    assert runtime.precision == "float32"
    assert runtime.fingerprint == runtime.manifest.fingerprint


def test_the_service_states_provider_and_precision(artifact):
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_PROVIDER": "cpu"}) as service:
        (model,) = httpx.get(f"{service.url}/models", timeout=60).json()["models"]

    told = {"provider": "cpu", "precision": "float32", "provider_timings_ms": {"encoder": {}, "decoder": {}}}
    assert model | told == model
    (ready,) = [line for line in service.log if line["event"] == "ready"]
    assert ready | told == ready


@pytest.mark.skipif("cuda" not in INSTALLED, reason="onnxruntime-gpu is not installed")
@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_skips_it(artifact, caplog):
    with pytest.raises(ProviderUnavailable, match="cuda is installed and does not start on this machine"):
        Runtime(artifact, provider="cuda", threads=1)

    with caplog.at_level(logging.WARNING):
        runtime = Runtime(artifact, provider="auto", threads=1)

    assert runtime.provider == "cpu"
    assert [line.split(":")[0] for line in caplog.messages] == [
        "The decoder runs without cuda",
        "The encoder runs without cuda",
    ]
