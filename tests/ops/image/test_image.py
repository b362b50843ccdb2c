"""The container image for CPUs, built and run: its content, its permissions and its shutdown."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.container import ServiceContainer
from support.image_builder import ROOT, environment, podman, podman_command, store_reference
from support.service_client import embed, open_client, point, segment

from service import __version__

PHOTO = (ROOT / "service/web/samples/dahlia.jpg").read_bytes()
MODEL = "/opt/models/edgesam-lite"


@pytest.fixture(scope="module")
def container(cpu_image: str) -> Iterator[ServiceContainer]:
    with ServiceContainer(cpu_image, options=["--memory", "1g", "--cpus", "1"]) as running:
        yield running


def config(image: str) -> dict:
    """Return the image's configuration, as in a registry."""
    command = ["skopeo", "inspect", "--config", store_reference(image)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_image(image: str, script: str) -> str:
    """Return the output of a shell script that runs as root in a new container."""
    options = ["--rm", "--pull", "never", "--network", "host", "--user", "0:0", "--entrypoint", "sh"]
    return podman("run", *options, image, "-c", script).stdout


def test_the_image_declares_how_to_run_it(cpu_image: str):
    said = config(cpu_image)["config"]

    assert said["User"] == "10001:10001"
    assert said["Entrypoint"] == ["python", "-m", "service"]
    assert said.get("Cmd") is None
    assert said["StopSignal"] == "SIGTERM"
    assert said["ExposedPorts"] == {"8000/tcp": {}}
    assert {"MALLOC_ARENA_MAX=1", "ORT_DISABLE_TELEMETRY=1", "PYTHONUNBUFFERED=1", f"EDGESAM_MODEL_DIR={MODEL}"} <= set(
        said["Env"]
    )
    (checked,) = json.loads(podman("image", "inspect", cpu_image).stdout)
    assert checked["Healthcheck"]["Test"] == ["CMD", "python", "-m", "service.probe"]


def test_the_image_says_what_it_is(cpu_image: str, revision: str):
    labels = config(cpu_image)["config"]["Labels"]

    assert labels["org.opencontainers.image.title"] == "EdgeSAM service"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0 AND LicenseRef-edgesam-lite-weights"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == revision


def test_a_change_of_code_moves_no_more_than_the_code(cpu_image: str):
    """The layers on top of the base are packages, model and code, the most lasting first."""
    history = [(step["created_by"], step.get("empty_layer", False)) for step in config(cpu_image)["history"]]
    layers = [made for made, is_empty in history if not is_empty][-3:]
    sizes = [int(step["size"]) for step in json.loads(podman("history", "--format", "json", cpu_image).stdout)]
    code, model, packages = [size for size in sizes if size > 0][:3]

    assert all("COPY" in layer for layer in layers), layers
    assert code < 8 << 20 < model < 24 << 20 < packages < 320 << 20, sizes


def test_the_image_contains_no_build_tools_no_tests_and_no_optional_packages(cpu_image: str):
    script = """
        for program in cc gcc c++ make git curl; do command -v $program; done
        ls -d /root/.cache /build /tmp/* /opt/venv/bin/pip 2>/dev/null
        find /opt -xdev \\( -name tests -o -name test -o -name torch -o -name onnx -o -name model_store -o -name pip \\)
        find /opt -xdev \\( -name 'openvino*.dist-info' -o -name 'imagecodecs*.dist-info' \\)
        find /opt -xdev \\( -name 'libonnxruntime.so*' -o -name '*.pyi' \\)
        find /opt/app -name '*.[ch]'
        true"""

    assert in_image(cpu_image, script) == ""


def test_its_bill_of_materials_has_debian_packages_pins_and_our_own_code(cpu_image: str):
    command = ["make", "-o", ".venv/.ops", "image-sbom", f"ENGINE={shlex.join(podman_command())}", f"TAG={cpu_image}"]
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True)

    document = json.loads((ROOT / "out" / "sbom-cpu.json").read_text())

    found = {one["purl"].split("?")[0] for one in document["components"] if "purl" in one}
    pins = re.findall(r"^([\w.-]+)==([^\s;\\]+) \\$", (ROOT / "requirements/serve.lock").read_text(), re.MULTILINE)
    assert {f"pkg:pypi/{name}@{version}" for name, version in pins} <= found
    assert f"pkg:pypi/edgesam-service@{__version__}" in found
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in found)


def test_the_image_has_one_onnx_runtime(cpu_image: str):
    found = in_image(cpu_image, "ls -d /opt/venv/lib/python3*/site-packages/onnxruntime*.dist-info").splitlines()

    assert len(found) == 1
    assert "/onnxruntime-" in found[0]


def test_the_service_may_change_no_file_of_the_image(cpu_image: str):
    options = ["--rm", "--pull", "never", "--network", "host", "--entrypoint", "find"]

    assert podman("run", *options, cpu_image, "/opt", "!", "-type", "l", "-writable").stdout == ""


def test_modules_are_compiled(cpu_image: str):
    script = (
        "import pathlib, importlib.util as u\n"
        "paths = [p for d in ('/opt/app', '/opt/venv/lib') for p in pathlib.Path(d).rglob('*.py')]\n"
        "print(len(paths), [str(p) for p in paths if not pathlib.Path(u.cache_from_source(p)).exists()])"
    )
    options = ["--rm", "--pull", "never", "--network", "host", "--entrypoint", "python"]

    count, missing = podman("run", *options, cpu_image, "-c", script).stdout.split(" ", 1)

    assert int(count) > 1000
    assert missing.strip() == "[]"


def test_it_serves_with_the_decoder_in_c(container: ServiceContainer):
    with open_client(container.url) as client:
        (model,) = client.get("/models").json()["models"]
        masks = segment(client, embed(client, PHOTO), point(270, 210))

    assert model["decoder"].startswith("native")
    assert model["provider"] == "cpu"
    assert masks[0][0]["area"] > 0


def test_it_uses_the_processors_of_the_container(container: ServiceContainer):
    assert httpx.get(f"{container.url}/models", trust_env=False).json()["models"][0]["threads"] == 1


def test_it_runs_as_an_unprivileged_user_without_capabilities(container: ServiceContainer):
    lines = (line.split(":", 1) for line in container.sh("cat /proc/1/status").splitlines() if ":" in line)
    status = {name: value.split() for name, value in lines}

    assert status["Uid"] == ["10001"] * 4
    assert status["Gid"] == ["10001"] * 4
    assert {int(status[kind][0], 16) for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]


def test_no_folder_can_be_written(container: ServiceContainer):
    tried = container.sh("for d in / /tmp /opt /var/tmp /run $HOME; do touch $d/x 2>/dev/null && echo $d; done; true")

    assert tried == ""


def test_a_large_upload_needs_no_disk(container: ServiceContainer):
    """Web frameworks spool multipart bodies of a mebibyte and more to /tmp."""
    big = PHOTO + bytes(4 << 20)  # decoders ignore the bytes after the end of the JPEG
    with open_client(container.url) as client:
        answer = client.post("/embed", files={"image": ("photo.jpg", big)})

    assert answer.status_code == 200, answer.text


def test_a_gibibyte_is_enough_to_start_and_serve(container: ServiceContainer):
    state = container.state()

    assert state["Running"]
    assert not state["OOMKilled"]


def test_the_health_check_succeeds(container: ServiceContainer):
    assert container.probe().returncode == 0


def test_the_health_check_fails_without_an_answer(container: ServiceContainer):
    wrong = podman("exec", "-e", "EDGESAM_PORT=1", container.name, "python", "-m", "service.probe", check=False)

    assert wrong.returncode == 1
    assert "/livez" in wrong.stderr


def test_sigterm_ends_it_with_status_0(cpu_image: str):
    with ServiceContainer(cpu_image, {"EDGESAM_DRAIN_S": "0.5"}) as container:
        status = container.stop()
        log = container.log()

    assert status == 0
    assert '"event":"draining"' in log


def test_a_damaged_model_is_not_served(cpu_image: str, tmp_path: Path):
    damaged = shutil.copytree(ROOT / "model_store/artifacts/edgesam-lite", tmp_path / "model")
    graph = bytearray((damaged / "encoder.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (damaged / "encoder.onnx").write_bytes(graph)

    with ServiceContainer(cpu_image, options=["-v", f"{damaged}:{MODEL}:ro"], ready=False) as container:
        assert container.wait_for_exit() == 2
        assert "encoder.onnx" in container.log()
