"""`edgesam serve`: serving a model by its name, after fetching it where it is not here."""

import hashlib
import typing
from pathlib import Path

import httpx
import pytest
from support.edgesam_command import COMMAND
from support.file_server import FileServer, Reply
from support.service_process import ServiceProcess

from edgesam_cli.arguments import SETTING_OPTIONS
from edgesam_cli.serve import ServeOptions, service_environment
from model_store.catalogue.published import PUBLISHED
from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.timings import TIMINGS_NAME
from service.settings import Settings


@pytest.mark.parametrize("option", SETTING_OPTIONS, ids=lambda option: option.setting)
def test_an_option_is_a_setting_with_the_same_choices(option):
    field = Settings.model_fields[option.setting]

    assert option.variable in Settings.variables()
    if typing.get_origin(field.annotation) is typing.Literal:
        assert option.choices == typing.get_args(field.annotation)


def test_options_become_settings_and_all_others_stay():
    environment = {"EDGESAM_PORT": "9000", "EDGESAM_MODELS": "old", "EDGESAM_LOG_LEVEL": "debug"}

    none = service_environment(environment, ServeOptions(), [])
    given = {"EDGESAM_HOST": "::1", "EDGESAM_PORT": "0"}
    one = service_environment(environment, ServeOptions(settings=given), [Path("a")])
    two = service_environment({}, ServeOptions(models_dir="models"), [Path("models/a"), Path("models/b")])

    assert none == {**environment, "EDGESAM_MODELS_DIR": "models", "MALLOC_ARENA_MAX": "1"}
    assert one == {
        "EDGESAM_LOG_LEVEL": "debug", "EDGESAM_HOST": "::1", "EDGESAM_PORT": "0", "EDGESAM_MODEL_DIR": "a",
        "EDGESAM_MODELS_DIR": "models", "MALLOC_ARENA_MAX": "1",
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
