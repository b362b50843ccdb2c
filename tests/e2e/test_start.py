"""The command line, the port, and errors of the start, which name the wrong setting or file."""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from support.service_process import ROOT, ServiceProcess
from typer.main import get_command

from service import __version__
from service.client.command import app as client_command

OK = {0, -15, 143}


def failed_start(settings):
    """Start a process that ends by itself while it starts, and return it."""
    service = ServiceProcess(settings)
    with pytest.raises(AssertionError, match="ended before"):
        service.__enter__()
    return service


def text(service):
    """Return all lines that the process wrote."""
    return "\n".join(str(line) for line in service.log)


def command(*arguments, python=()):
    """Run `python -m service` with arguments until it ends, and return the result."""
    return subprocess.run(
        [sys.executable, *python, "-m", "service", *arguments],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_help_prints_the_most_important_settings_and_starts_nothing():
    done = command("--help")

    assert done.returncode == 0
    for name in ("EDGESAM_HOST", "EDGESAM_PORT", "EDGESAM_MODEL_DIR", "EDGESAM_REDIS_URL", "EDGESAM_API_KEYS_FILE"):
        assert re.search(rf"^  {name} \(default: .+\)$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_neither_libraries_of_arrays_nor_the_server(argument):
    done = command(argument, python=["-X", "importtime"])

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "service.settings" in imported
    assert imported.isdisjoint({"numpy", "cv2", "onnxruntime", "fastapi", "uvicorn", "service.app"})


def test_the_version_is_that_of_the_package():
    assert command("--version").stdout == f"EdgeSAM service {__version__}\n"


@pytest.mark.parametrize("arguments", [["serve"], ["--port", "9000"]])
def test_unknown_arguments_are_refused_with_2(arguments):
    done = command(*arguments)

    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    done = command(python=["-S", "-E"])  # without the packages of the environment

    assert done.returncode == 2
    assert "needs pydantic; run: " in done.stderr
    assert "-m pip install -e '.[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"EDGESAM_PORT": "many"}, "EDGESAM_PORT: "),
        ({"EDGESAM_MAX_PROMPTS": "0", "EDGESAM_DRAIN_S": "-1"}, "EDGESAM_MAX_PROMPTS: "),
        ({"EDGESAM_MAX_PROMPTS": "0", "EDGESAM_DRAIN_S": "-1"}, "EDGESAM_DRAIN_S: "),
        ({"EDGESAM_REDIS_URL": "http://user:very-secret-text@host"}, "EDGESAM_REDIS_URL: "),
        ({"EDGESAM_API_KEYS": '["very-secret"]'}, "EDGESAM_API_KEYS: "),
        ({"EDGESAM_API_KEYS": "very-secret-text-without-brackets"}, "EDGESAM_API_KEYS: "),
        ({"EDGESAM_CORS_ORIGINS": "https://front.example"}, "EDGESAM_CORS_ORIGINS: "),
        ({"EDGESAM_PORT": "8123", "EDGESAM_METRICS_PORT": "8123"}, "EDGESAM_METRICS_PORT equals"),
        ({"EDGESAM_ROLE": "segment"}, "set EDGESAM_REDIS_URL"),
        ({"EDGESAM_KEEP_IMAGES_S": "60"}, "set EDGESAM_REDIS_URL"),
        ({"EDGESAM_ROLE": "embed", "EDGESAM_ADAPTERS": "roboflow"}, "need EDGESAM_ROLE=all"),
        ({"EDGESAM_MEMORY_CACHE_BYTES": "1000000"}, "EDGESAM_MEMORY_CACHE_BYTES is too small"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_the_name_of_the_variable(settings, name):
    service = failed_start(settings)

    assert service.process.returncode == 2
    assert name in text(service)
    assert "very-secret" not in text(service)
    assert "Traceback" not in text(service)


def test_a_damaged_model_file_ends_with_2_and_its_name(artifact, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    graph = damaged / "decoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)

    service = failed_start({"EDGESAM_MODEL_DIR": str(damaged)})

    assert service.process.returncode == 2
    assert str(graph) in text(service)
    assert "Traceback" not in text(service)


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx"])
def test_a_missing_model_file_ends_with_2_and_its_name(artifact, tmp_path, name):
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    for path in artifact.iterdir():
        if path.name != name:
            (incomplete / path.name).symlink_to(path)

    service = failed_start({"EDGESAM_MODEL_DIR": str(incomplete)})

    assert service.process.returncode == 2
    assert str(incomplete / name) in text(service)


def test_a_provider_that_is_not_installed_ends_with_2_and_those_that_are(artifact):
    service = failed_start({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_PROVIDER": "cuda"})

    assert service.process.returncode == 2
    assert "cpu can be used" in text(service)


@pytest.fixture
def taken_port():
    """A port on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


def test_a_port_that_is_taken_ends_with_1_and_the_setting_before_a_model_is_loaded(taken_port, tmp_path):
    service = failed_start({"EDGESAM_MODEL_DIR": str(tmp_path / "absent"), "EDGESAM_PORT": taken_port})

    assert service.process.returncode == 1
    assert f"EDGESAM_PORT={taken_port} is taken by another process" in text(service)
    assert "Traceback" not in text(service)


def test_an_address_of_another_machine_ends_with_1_and_the_setting(artifact):
    service = failed_start({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_HOST": "203.0.113.7"})

    assert service.process.returncode == 1
    assert "EDGESAM_HOST=203.0.113.7 is no address of this machine" in text(service)


def test_a_metrics_port_that_is_taken_ends_the_start_with_its_reason(artifact, taken_port):
    service = failed_start({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_METRICS_PORT": taken_port})

    assert service.process.returncode not in OK
    assert "address already in use" in text(service).lower()
    assert "AttributeError" not in text(service)


def test_a_variable_that_is_no_setting_is_named_in_the_log_with_the_nearest_setting(artifact):
    settings = {"EDGESAM_REDIS_ULR": "redis://slip", "EDGESAM_QQQQQQ": "1"}
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as service:
        pass

    assert "EDGESAM_REDIS_ULR is no setting and is ignored; did you mean EDGESAM_REDIS_URL?" in text(service)
    assert "EDGESAM_QQQQQQ is no setting and is ignored; python -m service --help lists settings" in text(service)
    assert "redis://slip" not in text(service)


def test_variables_of_the_client_and_of_the_model_store_are_known(artifact):
    parameters = [*get_command(client_command).params]
    parameters += [
        one for command in getattr(get_command(client_command), "commands", {}).values() for one in command.params
    ]
    names = {one.envvar for one in parameters if one.envvar} | {"EDGESAM_STORE_DIR", "EDGESAM_MIRROR"}
    assert {"EDGESAM_URL", "EDGESAM_API_KEY"} <= names

    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **dict.fromkeys(names, "x")}) as service:
        pass

    assert "no setting" not in text(service)
    assert "EDGESAM_API_KEY is the key that a client sends. This service requires no key" in text(service)


def at_a_terminal(settings):
    """Return the text on a terminal from the start to a stop by Ctrl+C, and the exit status."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGESAM_")}
    leader, follower = pty.openpty()
    written, is_stopping = b"", False
    with subprocess.Popen(
        [sys.executable, "-m", "service"],
        cwd=ROOT, env={**kept, "EDGESAM_PORT": "0", **settings}, stdout=follower, stderr=follower,
    ) as process:  # fmt: skip
        os.close(follower)
        try:
            while chunk := os.read(leader, 65536):
                written += chunk
                if not is_stopping and (b"Ctrl+C" in written or b'"listening"' in written):
                    is_stopping = True
                    process.send_signal(signal.SIGINT)
        except OSError:  # the process has closed its end
            pass
        finally:
            process.wait(60)
            os.close(leader)
    return written.decode().replace("\r", ""), process.returncode


def test_at_a_terminal_the_start_is_text_for_people(artifact):
    written, status = at_a_terminal({"EDGESAM_MODEL_DIR": str(artifact)})

    assert status == 0
    assert f"EdgeSAM {__version__} is loading the model in {artifact}" in written
    assert re.search(
        r"^  Model  random \(cpu, \d+ threads, NOT TRAINED: its masks mean nothing\)$", written, re.MULTILINE
    )
    assert re.search(r"^  Page   http://127\.0\.0\.1:\d+/$", written, re.MULTILINE)
    assert re.search(r"^  API    http://127\.0\.0\.1:\d+/docs$", written, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d stopping signal=SIGINT$", written, re.MULTILINE)
    assert "{" not in written


def test_at_a_terminal_the_start_names_all_models(artifact):
    written, status = at_a_terminal({"EDGESAM_MODELS": f"edgesam-lite,{artifact}"})

    assert status == 0
    assert f"EdgeSAM {__version__} is loading the models edgesam-lite, {artifact}" in written
    assert re.search(r"^  Model  edgesam-lite \(.*\)\n  Also   random$", written, re.MULTILINE)
    assert "{" not in written


def test_at_a_terminal_the_log_can_be_json(artifact):
    written, status = at_a_terminal({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_LOG_FORMAT": "json"})

    assert status == 0
    assert all(line.startswith("{") for line in written.splitlines())


def test_without_a_terminal_the_log_can_be_text(artifact):
    service = ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact / "absent"), "EDGESAM_LOG_FORMAT": "text"})
    with pytest.raises(AssertionError, match="ended before"):
        service.__enter__()

    assert re.search(r"\d\d:\d\d:\d\d error: the service does not start: ", text(service))


def test_variables_that_kubernetes_derives_from_a_service_are_not_settings(artifact):
    links = {
        "EDGESAM_PORT": "tcp://10.0.0.1:8000",
        "EDGESAM_SERVICE_HOST": "10.0.0.1",
        "EDGESAM_SERVICE_PORT": "8000",
        "EDGESAM_SERVICE_PORT_HTTP": "8000",
        "EDGESAM_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "EDGESAM_PORT_8000_TCP_PROTO": "tcp",
        "EDGESAM_PORT_8000_TCP_PORT": "8000",
        "EDGESAM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "EDGESAM_METRICS_PORT": "tcp://10.0.0.2:9000",
        "EDGESAM_METRICS_SERVICE_HOST": "10.0.0.2",
        "EDGESAM_REDIS_PORT": "tcp://10.0.0.3:6379",
        "EDGESAM_REDIS_PORT_6379_TCP": "tcp://10.0.0.3:6379",
    }
    # The default port, on an address of the loopback network that no other process uses.
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_HOST": "127.83.71.65", **links}) as service:
        url = service.url

    warned = [line["event"] for line in service.log if line["level"] == "warning" and "EDGESAM_" in line["event"]]
    assert url == "http://127.83.71.65:8000"
    assert [event.split()[0] for event in warned if "Kubernetes" in event] == ["EDGESAM_METRICS_PORT", "EDGESAM_PORT"]
    assert not [event for event in warned if "no setting" in event]


def test_a_port_that_is_neither_a_number_nor_a_link_is_still_refused():
    service = failed_start({"EDGESAM_PORT": "http://10.0.0.1:8000"})

    assert service.process.returncode == 2
    assert "EDGESAM_PORT: " in text(service)
