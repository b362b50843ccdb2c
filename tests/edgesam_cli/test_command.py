"""The command `edgesam`: help without large imports, errors that say what to do, and the commands behind it."""

import json
import signal
import socket
import subprocess
import sys
import tomllib

import pytest
from support.edgesam_command import COMMAND, ROOT, edgesam
from support.noise_images import noise_file

from edgesam_cli.arguments import SUMMARIES
from edgesam_cli.main import main
from service import __version__

IMAGE = ROOT / "service" / "web" / "samples" / "dahlia.jpg"
WAIT_S = 60.0


def test_the_package_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert scripts == {"edgesam": f"{main.__module__}:main"}


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_needs_no_package_beside_python_itself(words):
    result = edgesam(*words, without=("typer", "rich", "pydantic", "numpy", "onnxruntime", "fastapi"))

    assert (result.returncode, result.stderr) == (0, "")
    assert ("edgesam" if words[0] != "--version" else __version__) in result.stdout


def test_help_of_no_command_imports_a_runtime_or_torch():
    script = (
        "import contextlib, sys\n"
        "from edgesam_cli.main import main\n"
        "from model_store.cli import app\n"
        "store = [['models', command.name or command.callback.__name__] for command in app.registered_commands]\n"
        "words = [['serve'], ['models'], ['segment'], ['embed'], ['keys'], ['keys', 'new'], *store]\n"
        "for one in words:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main([*(word.replace('_', '-') for word in one), '--help'])\n"
        "print('shown', len(words), sorted({'onnx', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout.splitlines()[-1] == "shown 20 []"
    assert result.stdout.lower().count("usage: edgesam ") == 20


def test_the_commands_of_the_model_store_are_there_under_this_name(tmp_path):
    listed = edgesam("models", "list", "--models-dir", tmp_path)
    absent = edgesam("models", "verify", "mobile-sam", "--models-dir", tmp_path)

    assert listed.returncode == 0
    assert "edgesam models fetch NAME" in listed.stdout
    assert absent.returncode == 1
    assert "run: edgesam models fetch mobile-sam" in absent.stderr


def test_a_made_model_is_named_with_the_command_that_serves_it(tmp_path):
    checkpoint = ROOT / "model_store" / "checkpoints" / "edgesam-lite.safetensors"
    words = ["models", "import", checkpoint, "--name", "mine", "--licence", "own", "--no-timing"]

    made = edgesam(*words, "--models-dir", tmp_path)

    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == f"serve it: edgesam serve --model {tmp_path / 'mine'}"


def test_an_object_is_cut_out_and_a_folder_is_embedded_by_a_running_service(service_url, tmp_path):
    folder, cut = tmp_path / "images", tmp_path / "cut.png"
    folder.mkdir()
    (folder / "one.png").write_bytes(noise_file((20, 24), seed=4711))

    segmented = edgesam("segment", IMAGE, "--point", "270,210", "-o", cut, "--url", service_url)
    embedded = edgesam("embed", folder, EDGESAM_URL=service_url)
    known = edgesam("embed", folder / "one.png", EDGESAM_URL=service_url)

    assert [one.returncode for one in (segmented, embedded, known)] == [0, 0, 0], segmented.stderr
    assert cut.is_file()
    assert f"written  {cut}" in segmented.stdout
    assert "1 embedded, 0 known before, 0 failed" in embedded.stdout
    assert "one.png: 24 x 20, known, not uploaded" in known.stdout


@pytest.mark.parametrize("words", [["segment", str(IMAGE), "--point", "1,1"], ["embed", str(IMAGE.parent)]])
def test_where_no_service_answers_the_command_that_starts_one_is_named(words):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"

    result = edgesam(*words, "--retry", "0", "--url", closed)

    assert result.returncode == 1
    assert f"{closed} cannot be reached" in result.stderr
    assert "`edgesam serve` of edgesam-service starts one" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_key_is_made_added_to_a_file_and_checked(tmp_path):
    file = tmp_path / "keys.json"

    made = edgesam("keys", "new", "--name", "web-1", "--roles", "embed,segment", "--add-to", file)
    checked = edgesam("keys", "check", file)

    assert made.stdout.startswith("key:   esk_")
    assert [key["name"] for key in json.loads(file.read_text())] == ["web-1"]
    assert checked.stdout.startswith("web-1: embed, segment;")


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["serve", "--model", "mobile-samm"], "no model at 'mobile-samm'", 1),
        (["serve", "--model", "mobilesam"], "did you mean mobile-sam?", 1),
        (["serve", "--model", "../etc"], "no model at '../etc'", 1),
        (["serve", "--model", "tiny-sam"], "--sha256", 2),
        (["serve", "--model", "edge-sam"], "--accept-licence", 2),
        (["serve", "--port", "many"], "invalid int value", 2),
        (["serve", "--provider", "tpu"], "invalid choice", 2),
        (["segment", "--point", "1,1"], "give an image file", 2),
        (["segment", "/nowhere.jpg"], "/nowhere.jpg: No such file", 1),
        (["embed", "/nowhere"], "/nowhere: No such file", 1),
        (["keys"], "command", 2),
        (["keys", "check", "/nowhere.json"], "/nowhere.json cannot be read", 2),
        (["keys", "new", "--name", "a", "--roles", "king"], "roles", 2),
        (["keys", "new", "--name", "a", "--roles", "embed", "--add-to", "/nowhere/k"], "/nowhere/k: No such file", 1),
        (["serf"], "invalid choice", 2),
        (["--install-completion", "csh"], "invalid choice", 2),
        (["--show-completion", "csh"], "csh not supported", 1),
        ([], "COMMAND", 2),
    ],
)
def test_a_wrong_request_is_an_error_that_says_what_to_do(words, message, status, tmp_path):
    result = edgesam(*words, EDGESAM_STORE_DIR=str(tmp_path))

    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


MISSING = [
    (["serve"], "onnxruntime", "cpu", 2),
    (["models", "list"], "typer", "store", 1),
    (["segment", "photo.jpg"], "typer", "client", 1),
    (["embed", "photos"], "httpx", "client", 1),
    (["keys", "check", "keys.json"], "pydantic", "cpu", 1),
    (["--show-completion"], "typer", "client", 1),
]


@pytest.mark.parametrize(("words", "package", "extra", "status"), MISSING, ids=str)
def test_a_missing_package_is_named_with_the_command_that_installs_it(words, package, extra, status):
    result = edgesam(*words, without=(package,))

    assert result.returncode == status
    assert f"needs {package}; run: " in result.stderr
    assert f" -m pip install -e '.[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_installed_wheel_names_the_distribution_instead_of_a_clone(tmp_path):
    for name in ("service", "model_store", "edgesam_cli"):
        (tmp_path / name).symlink_to(ROOT / name)

    result = edgesam("serve", without=("onnxruntime",), cwd=tmp_path)

    assert result.stderr.endswith(" -m pip install 'edgesam-service[cpu]'\n")


@pytest.mark.parametrize("words", [["segment", str(IMAGE)], ["embed", str(IMAGE)]])
def test_an_interrupt_ends_with_a_line_and_status_130(words):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen([*COMMAND, *words, "--url", url], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=WAIT_S)

    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in said


def test_the_module_is_the_command_where_no_script_is_on_the_path():
    result = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert all(f"\n    {name} " in result.stdout for name in SUMMARIES)
