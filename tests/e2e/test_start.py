"""A service that cannot be served does not start, and says which setting or file is wrong."""

import shutil
import socket

import pytest
from support.service_process import ServiceProcess

OK = {0, -15, 143}


def failed_start(settings):
    """A process that ended by itself while it started."""
    service = ServiceProcess(settings)
    with pytest.raises(AssertionError, match="ended before"):
        service.__enter__()
    return service


def text(service):
    """All that it wrote."""
    return "\n".join(str(line) for line in service.log)


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
    assert "which has cpu" in text(service)


@pytest.mark.parametrize("variable", ["EDGESAM_PORT", "EDGESAM_METRICS_PORT"])
def test_a_port_in_use_ends_the_start_with_its_reason(artifact, variable):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        service = failed_start({"EDGESAM_MODEL_DIR": str(artifact), variable: str(taken.getsockname()[1])})

    assert service.process.returncode not in OK
    assert "address already in use" in text(service).lower()
    assert "AttributeError" not in text(service)


def test_a_variable_that_is_no_setting_is_named_in_the_log(artifact):
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_REDIS_ULR": "redis://slip"}) as service:
        pass

    assert "EDGESAM_REDIS_ULR is no setting and is ignored" in text(service)
    assert "redis://slip" not in text(service)


def test_what_kubernetes_derives_from_a_service_of_this_name_is_no_setting(artifact):
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
    # The default port, on an address of the loopback network that nobody else uses.
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
