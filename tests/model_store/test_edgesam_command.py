"""The command `edgesam`: help at once, the model store's commands, and serving a model by its name."""

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from support.file_server import FileServer, Reply
from support.service_process import ServiceProcess

from model_store.catalogue.published import PUBLISHED
from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.edgesam_command import main
from model_store.serve_command import ServeOptions, service_environment
from model_store.timings import TIMINGS_NAME

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "model_store.edgesam_command"]


def run(*arguments, without=(), program="edgesam", **environment):
    """Run the command in a process where some packages cannot be imported."""
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({list(without)!r})); sys.argv[0] = {program!r}\n"
        "from model_store.edgesam_command import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_package_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert scripts == {"edgesam": f"{main.__module__}:main"}


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_needs_no_package_beside_python_itself(words):
    result = run(*words, without=["typer", "rich", "pydantic", "numpy", "onnxruntime", "fastapi"])

    assert (result.returncode, result.stderr) == (0, "")


def test_the_commands_of_the_model_store_are_there_under_this_name(tmp_path):
    listed = run("models", "list", "--models-dir", tmp_path)
    absent = run("models", "verify", "mobile-sam", "--models-dir", tmp_path)
    helped = run("models", "fetch", "--help")

    assert listed.returncode == 0
    assert "edgesam models fetch NAME" in listed.stdout
    assert absent.returncode == 1
    assert "run: edgesam models fetch mobile-sam" in absent.stderr
    assert "edgesam models fetch" in helped.stdout


def test_a_made_model_is_named_with_the_command_that_serves_it(tmp_path):
    checkpoint = ROOT / "model_store" / "checkpoints" / "edgesam-lite.safetensors"
    words = ["models", "import", checkpoint, "--name", "mine", "--licence", "own", "--no-timing"]

    made = run(*words, "--models-dir", tmp_path)

    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == f"serve it: edgesam serve --model {tmp_path / 'mine'}"


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["serve", "--model", "mobile-samm"], "no model at 'mobile-samm'", 1),
        (["serve", "--model", "mobilesam"], "did you mean mobile-sam?", 1),
        (["serve", "--model", "../etc"], "no model at '../etc'", 1),
        (["serve", "--model", "tiny-sam"], "--sha256", 2),
        (["serve", "--model", "edge-sam"], "--accept-licence", 2),
        (["serve", "--port", "many"], "invalid int value", 2),
        (["serf"], "invalid choice", 2),
        ([], "COMMAND", 2),
    ],
)
def test_a_wrong_request_is_an_error_that_says_what_to_do(words, message, status, tmp_path):
    result = run(*words, EDGESAM_STORE_DIR=str(tmp_path))

    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path):
    serve = ("serve", "--model", "mobile-sam", "--models-dir", tmp_path)
    results = {
        "[cpu]": run(*serve, without=["onnxruntime"]),
        "[store]": run("models", "list", without=["typer"]),
    }

    for extra, result in results.items():
        assert result.returncode in {1, 2}
        assert "pip install" in result.stderr
        assert extra in result.stderr
        assert "Traceback" not in result.stderr


def test_options_become_settings_and_all_others_stay():
    environment = {"EDGESAM_PORT": "9000", "EDGESAM_MODELS": "old", "EDGESAM_LOG_LEVEL": "debug"}

    none = service_environment(environment, ServeOptions(), [])
    one = service_environment(
        environment, ServeOptions(host="::1", port=0, redis_url="redis://x", threads=3), [Path("a")]
    )
    two = service_environment({}, ServeOptions(models_dir="models"), [Path("models/a"), Path("models/b")])

    assert none == {**environment, "EDGESAM_MODELS_DIR": "models", "MALLOC_ARENA_MAX": "1"}
    assert one == {
        "EDGESAM_LOG_LEVEL": "debug", "EDGESAM_HOST": "::1", "EDGESAM_PORT": "0", "EDGESAM_REDIS_URL": "redis://x",
        "EDGESAM_THREADS": "3", "EDGESAM_MODEL_DIR": "a", "EDGESAM_MODELS_DIR": "models", "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip
    assert two["EDGESAM_MODELS"] == f"{Path.cwd()}/models/a,{Path.cwd()}/models/b"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole checkpoint of EdgeSAM with initial weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "edge_sam.pth"
    save_checkpoint(seeded_model(3), path)
    return path


def test_a_published_model_is_fetched_converted_kept_and_served(tmp_path, checkpoint):
    data = checkpoint.read_bytes()
    words = ["serve", "--model", "edge-sam", "--accept-licence", "--sha256", hashlib.sha256(data).hexdigest()]
    settings = {"EDGESAM_STORE_DIR": str(tmp_path), "NO_PROXY": "127.0.0.1", "EDGESAM_PORT": "0"}
    with FileServer() as server:
        path = PUBLISHED["edge-sam"].urls[0].removeprefix("https://huggingface.co/")
        server.replies[path] = Reply(data)
        settings["EDGESAM_MIRROR"] = server.url("")
        served = []
        for more in ([], ["--model", "edgesam-lite"]):
            with ServiceProcess(settings, command=[*COMMAND, *words, *more], wait_s=120) as service:
                models = httpx.get(f"{service.url}/models", trust_env=False).json()["models"]
            served.append([model["name"] for model in models])
        requests = [request.path for request in server.requests]

    assert served == [["edge-sam"], ["edge-sam", "edgesam-lite"]]
    assert requests == [path], "the second start serves what is there"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["edge-sam", "edge_sam.pth"]
    assert (tmp_path / "edge-sam" / TIMINGS_NAME).is_file()


def test_a_model_is_served_by_its_name():
    command = [*COMMAND, "serve", "--model", "edgesam-lite", "--port", "0", "--threads", "1"]
    with ServiceProcess({}, command=command) as service:
        models = httpx.get(f"{service.url}/models", trust_env=False).json()["models"]
        status = service.stop()

    assert [model["name"] for model in models] == ["edgesam-lite"]
    assert status == 0
