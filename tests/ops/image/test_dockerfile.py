"""The Dockerfile and its lock files, read as text."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCKS = ("serve", "openvino", "gpu", "store", "model", "build")


def stage(name: str) -> list[str]:
    """Return the instructions of a stage, with continued lines joined."""
    (text,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def pins(lock: str) -> dict[str, set[str]]:
    """Return the versions of a lock file by package. A package has two if they depend on the interpreter."""
    found: dict[str, set[str]] = {}
    text = (ROOT / f"requirements/{lock}.lock").read_text()
    for name, version in re.findall(r"^([\w.\[\]-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["install", "make-secrets"])
def test_the_scripts_are_valid_for_a_plain_shell(script: str):
    subprocess.run(["sh", "-n", ROOT / "docker" / script], check=True)


def test_the_stage_gpu_repeats_the_stage_serving():
    """`gpu` has the CUDA base image and cannot inherit from `serving`."""
    same = (
        "ENV",
        "WORKDIR",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "LABEL org.opencontainers.image.description",
    )

    def instructions(name: str) -> list[str]:
        return [line for line in stage(name) if line.startswith(same)]

    assert instructions("gpu") == instructions("serving")
    assert [line.split("CMD")[1] for line in stage("gpu") if line.startswith("HEALTHCHECK")] == [
        line.split("CMD")[1] for line in stage("serving") if line.startswith("HEALTHCHECK")
    ]


@pytest.mark.parametrize("name", ["cpu", "openvino", "gpu", "store", "model"])
def test_version_and_revision_are_build_arguments(name: str):
    *_, version, revision, source, label = stage(name)

    assert (version, revision, source) == ("ARG VERSION=unknown", "ARG REVISION=unknown", "ARG SOURCE=unknown")
    for argument in ("version", "revision", "source"):
        assert f'org.opencontainers.image.{argument}="${{{argument.upper()}}}"' in label


def test_the_default_image_is_the_one_for_cpus():
    assert re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "cpu"


def test_every_base_image_can_be_pinned():
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE))

    assert bases - stages == {"${PYTHON_BASE}", "${CUDA_BASE}"}


def test_each_image_has_one_onnx_runtime():
    found = {lock: [name for name in pins(lock) if name.startswith("onnxruntime")] for lock in LOCKS}

    assert found == {
        "serve": ["onnxruntime"],
        "openvino": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu"],
        "store": ["onnxruntime"],
        "model": ["onnxruntime"],
        "build": [],
    }


def test_only_the_image_for_openvino_has_openvino():
    assert [lock for lock in LOCKS if "openvino" in pins(lock)] == ["openvino"]


def test_openvino_has_the_version_of_the_tests():
    (makefile,) = re.findall(r"^OPENVINO := openvino==(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert pins("openvino")["openvino"] == {makefile}


def test_no_lock_contains_torch_or_cuda():
    """torch is an argument of the Dockerfile, and CUDA is part of the base image."""
    assert not [(lock, name) for lock in LOCKS for name in pins(lock) if re.match(r"torch$|nvidia-|cuda", name)]


@pytest.mark.parametrize("lock", ["openvino", "gpu", "store", "model"])
def test_images_serve_with_the_same_versions(lock: str):
    serve, other = pins("serve"), pins(lock)

    differing = {name: (serve[name], other[name]) for name in serve.keys() & other.keys() if serve[name] != other[name]}

    assert differing == {}, "make lock"


def test_torch_has_the_version_of_the_tests():
    (makefile,) = re.findall(r"^TORCH := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert f"ARG TORCH={makefile}\n" in DOCKERFILE
