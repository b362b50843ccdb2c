"""The commands as a person types them: what they print, what they leave behind and how they end."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from support.file_server import FileServer, Reply
from support.ranked_model import with_ranking
from support.torch_threads import one_thread  # noqa: F401 - a fixture of all tests here
from typer.testing import CliRunner

from model_store.catalogue.published import PUBLISHED, S_LAB
from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.cli import app
from service.manifest import load_manifest
from service.mask_rules import Ranking
from service.settings import BUNDLED_MODEL

ROOT = Path(__file__).parents[2]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"NO_PROXY": "127.0.0.1"})


def published(data, *urls, name="tiny"):
    """A catalogue entry for these bytes."""
    known = PUBLISHED["edge-sam"]
    sha256 = hashlib.sha256(data).hexdigest()
    return dataclasses.replace(known, name=name, file_name="tiny.pth", urls=urls, size_bytes=len(data), sha256=sha256)


def error_of(result):
    """The last line of stderr, which is the error and has no traceback before it."""
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr.rstrip().splitlines()[-1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole checkpoint with initial weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "own.pth"
    save_checkpoint(seeded_model(3), path)
    return path


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, checkpoint):
    """A models directory after `fetch`, from a published model on a local server, with the results of the command."""
    models = tmp_path_factory.mktemp("models")
    data = checkpoint.read_bytes()
    order = ("fetch", "tiny", "--accept-licence", "--weights", "float32", "--models-dir", models)
    with pytest.MonkeyPatch.context() as patch, FileServer(model=Reply(data)) as server:
        patch.setitem(PUBLISHED, "tiny", published(data, server.url("absent"), server.url("model")))
        first = call(*order)
        again = call(*order)
        listed = call("list", "--json", "--models-dir", models)
        requests = [request.path for request in server.requests]
    return {"models": models, "first": first, "again": again, "listed": listed, "requests": requests}


def test_the_list_shows_a_directory_it_cannot_read_and_the_rest(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")

    result = call("list", "--json", "--models-dir", tmp_path)

    entries = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert entries["mine"]["state"] == "broken"
    assert "manifest.json" in entries["mine"]["detail"]
    assert entries["edge-sam"]["state"] == "available"
    assert entries["edge-sam"]["fingerprint"] is None


def test_the_models_directory_can_be_named_in_the_environment(tmp_path):
    (tmp_path / "edge_sam.pth").write_bytes(b"")

    result = CliRunner().invoke(app, ["list", "--json"], env={"EDGESAM_STORE_DIR": str(tmp_path)})

    assert {entry["name"]: entry["state"] for entry in json.loads(result.stdout)}["edge-sam"] == "downloaded"


def test_nothing_is_downloaded_before_the_licence_is_accepted(tmp_path, monkeypatch):
    with FileServer(model=Reply(b"weights")) as server:
        monkeypatch.setitem(PUBLISHED, "tiny", published(b"weights", server.url("model")))
        result = call("fetch", "tiny", "--models-dir", tmp_path / "models")

    assert result.exit_code == 2
    assert "--accept-licence" in error_of(result)
    assert "non-commercial" in result.stderr
    assert S_LAB.url in result.stderr
    assert server.requests == []
    assert not (tmp_path / "models").exists()


def test_a_checkpoint_alone_is_fetched_without_export(tmp_path, monkeypatch):
    with FileServer(own=Reply(b"weights")) as server:
        monkeypatch.setitem(PUBLISHED, "tiny", published(b"weights", "https://mirror.invalid/tiny.pth"))
        result = call(
            "fetch", "tiny", "--accept-licence", "--no-export", "--url", server.url("own"), "--models-dir", tmp_path
        )

    assert result.exit_code == 0
    assert (tmp_path / "tiny.pth").read_bytes() == b"weights"


def test_wrong_bytes_end_in_one_line_with_both_hashes(tmp_path, monkeypatch):
    with FileServer(model=Reply(b"changed")) as server:
        monkeypatch.setitem(PUBLISHED, "tiny", published(b"weights", server.url("model")))
        result = call("fetch", "tiny", "--accept-licence", "--models-dir", tmp_path)

    assert result.exit_code == 1
    assert hashlib.sha256(b"weights").hexdigest() in error_of(result)
    assert hashlib.sha256(b"changed").hexdigest() in error_of(result)
    assert list(tmp_path.iterdir()) == []


def test_a_plain_http_mirror_is_a_wrong_request(tmp_path):
    result = call("fetch", "edge-sam", "--accept-licence", "--url", "http://mirror.invalid/x", "--models-dir", tmp_path)

    assert result.exit_code == 2
    assert "only https" in error_of(result)


def test_interrupting_a_fetch_ends_in_one_line(tmp_path):
    script = (
        "import dataclasses, sys\n"
        "from model_store.catalogue.published import PUBLISHED\n"
        "from model_store.cli import app\n"
        "PUBLISHED['edge-sam'] = dataclasses.replace(PUBLISHED['edge-sam'], size_bytes=100_000)\n"
        "app(['fetch', 'edge-sam', '--accept-licence', '--url', sys.argv[1], '--models-dir', sys.argv[2]])"
    )
    with FileServer(model=Reply(b"0" * 100_000, stall_after=50_000)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", script, server.url("model"), tmp_path],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        with process:
            assert server.stalled.wait(20)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert stderr.rstrip().splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in stderr


@pytest.mark.parametrize("name", ["../x", "..", ".hidden", "a/b", "A", "x" * 65, ""])
def test_a_name_cannot_leave_the_models_directory(tmp_path, name):
    file = tmp_path / "own.pth"
    file.write_bytes(b"")

    fetched = call("fetch", name, "--accept-licence", "--models-dir", tmp_path / "models")
    results = [
        call("import", file, "--name", name, "--licence", "own", "--models-dir", tmp_path / "models"),
        call("export", file, "--name", name or "-", "--licence", "own", "--out", tmp_path / "models" / "x"),
    ]

    assert fetched.exit_code == 2
    assert "no published model is called" in error_of(fetched)
    for result in results:
        assert result.exit_code == 2
        assert "is not a model name" in error_of(result)
    assert [path.name for path in tmp_path.iterdir()] == ["own.pth"]


def test_a_model_that_is_not_here_is_named_with_what_to_do(tmp_path):
    known = call("info", "edge-sam", "--models-dir", tmp_path)
    unknown = call("verify", "../../etc", "--models-dir", tmp_path)
    unpublished = call("fetch", "edge-sam-10x", "--accept-licence")

    assert known.exit_code == unknown.exit_code == 1
    assert "fetch edge-sam" in error_of(known)
    assert "list' shows" in error_of(unknown)
    assert unpublished.exit_code == 2
    assert "edge-sam, edge-sam-3x" in error_of(unpublished)


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "noise.pth").write_bytes(bytes(range(256)))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    terms = ("--name", "x", "--licence", "own", "--models-dir", tmp_path / "models")

    noise = call("import", tmp_path / "noise.pth", *terms)
    other = call("import", tmp_path / "other.pth", *terms)
    absent = call("import", tmp_path / "absent.pth", *terms)

    assert noise.exit_code == other.exit_code == absent.exit_code == 1
    assert "noise.pth" in error_of(noise)
    assert "715 missing" in error_of(other)  # without counters of training
    assert "unexpected: weight" in error_of(other)
    assert "no such file" in error_of(absent)
    assert not (tmp_path / "models" / "x").exists()


def test_the_licence_of_an_unknown_file_is_required(tmp_path, checkpoint):
    result = call("import", checkpoint, "--name", "own", "--models-dir", tmp_path)

    assert result.exit_code == 2
    assert "--licence" in error_of(result)
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in error_of(result)


def test_a_published_file_keeps_its_own_terms_however_it_came_here(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "tiny", published(checkpoint.read_bytes()))

    result = call("import", checkpoint, "--name", "own", "--licence", "free", "--models-dir", tmp_path)

    assert result.exit_code == 2
    assert "the published checkpoint of tiny" in result.stderr
    assert "--accept-licence" in error_of(result)


def test_an_unknown_checkpoint_becomes_a_model_with_the_stated_facts(tmp_path, checkpoint):
    stated = ("--licence", "our own [draft]", "--untrained", "--measured", "miou_box=0.5", "--notes", "a note")
    words = ("--summary", "For plants.", "--card", "README.md")
    form = ("--weights", "float32", "--upsample-mode", "bilinear")

    made = call("import", checkpoint, "--name", "plants-7", *stated, *words, *form, "--models-dir", tmp_path)
    info = call("info", "plants-7", "--json", "--models-dir", tmp_path)
    table = call("info", tmp_path / "plants-7")
    listed = call("list", "--models-dir", tmp_path)

    assert made.exit_code == info.exit_code == table.exit_code == listed.exit_code == 0, made.output
    manifest = json.loads(info.stdout)
    assert manifest["fingerprint"] in made.stdout
    assert manifest["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (manifest["licence"], manifest["trained"], manifest["notes"]) == ("our own [draft]", False, "a note")
    assert manifest["measured"] == {"miou_box": 0.5}
    assert (manifest["summary"], manifest["card"]) == ("For plants.", "README.md")
    assert (manifest["weights"], manifest["upsample_mode"], manifest["layout"]) == ("float32", "bilinear", "served")
    assert "our own [draft]" in table.stdout
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("plants-7 ")]
    assert "see info, own terms" in line
    assert "50.0 " in line  # the measured mean IoU
    assert "Not trained" in listed.stdout


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Ranking(), "stability"),
        (Ranking(bias=(0.1, 0, 0, -0.25), stability=0.5, predicted_iou=1),
         "0.5 × stability + predicted IoU + (0.1, 0, 0, -0.25) by output"),
        (Ranking(stability=0), "output"),
    ],
    ids=["default", "all terms", "no term"],
)  # fmt: skip
def test_info_shows_architecture_encoder_licence_and_how_masks_are_ordered(tmp_path, rule, words):
    directory = with_ranking(BUNDLED_MODEL, tmp_path / "model", rule)
    manifest = load_manifest(directory)

    table = call("info", directory)

    assert table.exit_code == 0, table.output
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in table.stdout.splitlines())
    assert rows["architecture"] == manifest.architecture
    assert rows["image encoder"] == manifest.encoder
    assert rows["licence"] == manifest.licence
    assert rows["masks ordered by"] == words


def test_a_fetched_model_states_its_source(fetched, checkpoint):
    first, models = fetched["first"], fetched["models"]

    info = json.loads(call("info", "tiny", "--json", "--models-dir", models).stdout)

    assert first.exit_code == 0, first.output
    assert sorted(path.name for path in models.iterdir()) == ["tiny", "tiny.pth"]
    assert info["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert info["licence"] == f"{S_LAB.title}, {S_LAB.url}"
    assert (info["upsample_mode"], info["weights"], info["trained"]) == ("bicubic", "float32", True)


def test_fetching_again_changes_nothing(fetched):
    again = fetched["again"]

    assert again.exit_code == 0
    assert "already" in again.stdout
    assert fetched["requests"] == ["absent", "model"]


def test_a_fetched_model_is_listed_as_such(fetched):
    entries = {entry["name"]: entry for entry in json.loads(fetched["listed"].stdout)}

    assert entries["tiny"]["state"] == "fetched"
    assert entries["tiny"]["fingerprint"]


def test_a_complete_model_is_verified_and_a_damaged_one_is_named(fetched, tmp_path):
    whole = call("verify", "tiny", "--models-dir", fetched["models"])
    damaged_directory = shutil.copytree(fetched["models"] / "tiny", tmp_path / "tiny")
    with (damaged_directory / "decoder.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x00\x01\x02\x03")

    damaged = call("verify", damaged_directory)
    (damaged_directory / "decoder.onnx").unlink()
    incomplete = call("verify", damaged_directory)

    assert whole.exit_code == 0, whole.output
    assert "complete and runs" in whole.stdout
    assert damaged.exit_code == incomplete.exit_code == 1
    assert "decoder.onnx" in error_of(damaged)
    assert "SHA-256" in error_of(damaged)
    assert "decoder.onnx" in error_of(incomplete)


def test_an_existing_folder_is_replaced_only_on_request_and_only_if_it_is_a_model(fetched, tmp_path, checkpoint):
    model = shutil.copytree(fetched["models"] / "tiny", tmp_path / "tiny")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in model.iterdir())
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("years of work")

    existing = call("export", checkpoint, "--licence", "own", "--out", model)
    after = sorted((path.name, path.stat().st_mtime_ns) for path in model.iterdir())
    other = call("export", checkpoint, "--licence", "own", "--out", papers, "--force")
    (model / "thesis.txt").write_text("years of work")
    mixed = call("export", checkpoint, "--licence", "own", "--out", model, "--force")

    assert existing.exit_code == other.exit_code == mixed.exit_code == 2
    assert "--force" in error_of(existing)
    assert after == before
    assert "left alone" in error_of(other)
    assert "thesis.txt" in error_of(mixed)
    assert (papers / "thesis.txt").read_text() == (model / "thesis.txt").read_text() == "years of work"


def test_initial_weights_in_the_official_layout_are_the_published_pair_in_an_empty_folder(tmp_path):
    out = tmp_path / "pair"
    out.mkdir()

    result = call("export", "--untrained", "--seed", 5, "--layout", "official", "--out", out)
    manifest = json.loads(call("info", out, "--json").stdout)
    verified = call("verify", out)

    assert result.exit_code == verified.exit_code == 0, result.output
    assert (manifest["trained"], manifest["upsample_mode"], manifest["name"]) == (False, "bilinear", "pair")
    assert (manifest["source_sha256"], manifest["weights"]) == (None, "float16")
    session = onnxruntime.InferenceSession(out / manifest["graphs"]["decoder"]["file"])
    assert [spec.name for spec in session.get_inputs()] == ["image_embeddings", "point_coords", "point_labels"]
    assert [spec.name for spec in session.get_outputs()] == ["scores", "masks"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--out", "x"], "--untrained"),
        (["export", "--untrained", "--out", "x", "--measured", "miou=high"], "NAME=VALUE"),
        (["export", "--untrained", "--out", "x", "--summary", "x" * 301], "at most 300"),
        (["export", "--untrained", "--out", "x", "--card", "../card.md"], "an address with http"),
        (["export", "--untrained", "--out", "x", "--name", "A B"], "is not a model name"),
        (["export", "--untrained", "--out", "x", "--granularity", "b.pth", "--layout", "official"], "--layout served"),
    ],
)
def test_contradictory_options_are_refused(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = call(*arguments)

    assert result.exit_code == 2
    assert words in error_of(result)
    assert list(tmp_path.iterdir()) == []


def test_a_granularity_module_that_is_none_is_one_line(tmp_path):
    (tmp_path / "boxes.pth").write_bytes(b"thesis")
    order = ("export", "--untrained", "--out", tmp_path / "model", "--granularity")

    absent = call(*order, tmp_path / "absent.pth")
    broken = call(*order, tmp_path / "boxes.pth")

    assert absent.exit_code == broken.exit_code == 1
    assert "absent.pth: no such file" in error_of(absent)
    assert "boxes.pth is not a readable PyTorch checkpoint" in error_of(broken)
    assert not (tmp_path / "model").exists()


def test_a_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "models").write_text("a file, not a directory")

    result = call("fetch", "edge-sam", "--accept-licence", "--no-export", "--models-dir", tmp_path / "models")

    assert result.exit_code == 1
    assert str(tmp_path / "models") in error_of(result)


@pytest.mark.parametrize("command", ["list", "fetch", "import", "export", "verify", "info"])
def test_every_command_explains_itself_with_examples(command):
    result = call(command, "--help")

    assert result.exit_code == 0
    assert f"edgesam models {command}" in result.stdout


def run_without(packages, *arguments):
    """The real command line in a process where some packages cannot be imported."""
    script = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
        "runpy.run_module('model_store', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )


def test_models_are_read_and_checked_with_the_extra_store_alone(fetched):
    missing, models = ["torch", "onnx"], fetched["models"]

    results = [
        run_without(missing, "list", "--models-dir", models),
        run_without(missing, "info", "tiny", "--models-dir", models),
        run_without(missing, "verify", "tiny", "--models-dir", models),
    ]

    assert [(result.returncode, result.stderr.count("error")) for result in results] == [(0, 0)] * 3


def test_checkpoints_are_fetched_with_the_extra_store_alone(tmp_path):
    order = ("fetch", "edge-sam", "--accept-licence", "--no-export", "--models-dir", tmp_path)
    with FileServer() as server:
        result = run_without(["torch", "onnx"], *order, "--url", server.url("edge_sam.pth"))

    assert [request.path for request in server.requests] == ["edge_sam.pth"]
    assert "404" in result.stderr


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path):
    fetch = ("fetch", "edge-sam", "--accept-licence", "--models-dir", tmp_path)
    results = {
        ("torch", "model"): run_without(["torch"], "export", "--untrained", "--out", tmp_path / "x"),
        ("onnx", "store"): run_without(["onnx"], *fetch),
        ("typer", "store"): run_without(["typer"], "list"),
        ("httpx", "store"): run_without(["httpx"], *fetch, "--no-export"),
    }

    assert list(tmp_path.iterdir()) == []
    for (package, extra), result in results.items():
        assert result.returncode == 1
        assert package in result.stderr
        assert f"pip install -e '.[{extra}]'" in result.stderr
        assert "Traceback" not in result.stderr
