"""`fetch` against a server on this machine: each catalogue entry's addresses, size, hash and licence."""

import dataclasses
import hashlib
import random
import sys

import numpy as np
import pytest
import torch
from support.file_server import FileServer, Reply
from support.sam2_weights import NAMES as SAM2_NAMES
from support.sam2_weights import published_state_dict
from support.sam_family_weights import state_dict
from support.terminal_session import run_at_terminal
from typer.testing import CliRunner

from model_store.architectures import ARCHITECTURES
from model_store.catalogue.published import PUBLISHED
from model_store.cli import app
from service.manifest import load_manifest
from service.mask_rules import Ranking

DATA = random.Random(0).randbytes(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUESTION = b"[y/N]"


def call(*arguments, **environment):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"NO_PROXY": "127.0.0.1", **environment})


def error_of(result):
    """The last line of stderr, which is the error and has no traceback before it."""
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr.rstrip().splitlines()[-1]


def path_of(url):
    return url.removeprefix("https://").partition("/")[2]


@pytest.fixture(params=PUBLISHED)
def model(request, monkeypatch):
    """An entry of the catalogue whose file has `DATA` in place of the weights."""
    known = PUBLISHED[request.param]
    entry = dataclasses.replace(
        known,
        size_bytes=known.size_bytes and len(DATA),
        approximate_bytes=len(DATA) if known.size_bytes else 90_000,
        sha256=known.sha256 and SHA256,
    )
    monkeypatch.setitem(PUBLISHED, known.name, entry)
    return entry


@pytest.fixture
def terms(model):
    """The options with which the entry is fetched without a question."""
    return (
        *(("--accept-licence",) if model.licence.needs_acceptance else ()),
        *(() if model.sha256 else ("--sha256", SHA256)),
    )


def test_each_entry_is_fetched_from_a_mirror_under_its_official_path(model, terms, tmp_path):
    with FileServer() as server:
        server.replies[path_of(model.urls[-1])] = Reply(DATA)
        result = call("fetch", model.name, *terms, "--no-export", "--mirror", server.url(""), "--models-dir", tmp_path)

    assert result.exit_code == 0, result.output
    assert (tmp_path / model.file_name).read_bytes() == DATA
    assert [request.path for request in server.requests] == [path_of(url) for url in model.urls]
    assert model.licence.url in result.stderr
    assert model.licence.title in result.stderr


def test_each_entry_is_resumed_after_an_interruption(model, terms, tmp_path):
    order = ("fetch", model.name, *terms, "--no-export", "--models-dir", tmp_path, "--url")
    (tmp_path / f"{model.file_name}.part").write_bytes(DATA[:40_000])
    with FileServer(m=Reply(DATA)) as server:
        result = call(*order, server.url("m"))

    assert result.exit_code == 0, result.output
    assert (tmp_path / model.file_name).read_bytes() == DATA
    assert server.requests[0].headers["Range"] == "bytes=40000-"


def test_each_entry_refuses_other_bytes(model, terms, tmp_path):
    other = bytes(len(DATA))
    with FileServer(m=Reply(other)) as server:
        result = call("fetch", model.name, *terms, "--no-export", "--models-dir", tmp_path, "--url", server.url("m"))

    assert result.exit_code == 1
    assert SHA256 in error_of(result)
    assert hashlib.sha256(other).hexdigest() in error_of(result)
    needs_architecture = f"--architecture {model.architecture}" in error_of(result)
    assert f"import FILE --name {model.name} --licence" in error_of(result)
    is_copied = f"publish no SHA-256; the expected one and the length are those of {model.sha256_source}." in error_of(
        result
    )
    assert is_copied == (model.sha256_origin == "copies")
    assert (f"Origin of the expected SHA-256: {model.sha256_source}." in error_of(result)) == (
        model.sha256_origin == "authors"
    )
    assert needs_architecture == (model.name == "tiny-sam"), "its keys are those of another model"
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_length_is_told_from_one_that_is_absent(tmp_path):
    order = ("fetch", "sam2.1-base-plus", "--no-export", "--models-dir", tmp_path, "--url")
    with FileServer(other=Reply(DATA)) as server:
        other = call(*order, server.url("other"))
        absent = call(*order, server.url("absent"))
        stated = call(*order, server.url("other"), "--sha256", "0" * 64)

    assert other.exit_code == absent.exit_code == stated.exit_code == 1
    assert "has 100000 bytes, 323606802 were expected. The authors of sam2.1-base-plus publish no" in error_of(other)
    assert "please report its SHA-256 to this project, and pass it with --sha256" in error_of(other)
    assert "publish no SHA-256" not in error_of(absent)
    assert "publish no SHA-256" not in error_of(stated), "the user's own hash"
    assert list(tmp_path.iterdir()) == []


def test_a_trusted_file_of_another_length_is_fetched_with_its_own_hash(tmp_path, monkeypatch):
    known = PUBLISHED["sam2.1-base-plus"]
    shorter = dataclasses.replace(known, size_bytes=len(DATA) - 1, approximate_bytes=len(DATA) - 1)
    monkeypatch.setitem(PUBLISHED, known.name, shorter)
    order = ("fetch", known.name, "--no-export", "--models-dir", tmp_path, "--sha256", SHA256, "--url")
    with FileServer(longer=Reply(DATA), huge=Reply(DATA * 3)) as server:
        huge = call(*order, server.url("huge"))
        longer = call(*order, server.url("longer"))

    assert longer.exit_code == 0, longer.output
    assert (tmp_path / known.file_name).read_bytes() == DATA
    assert huge.exit_code == 1
    assert "at most 199998 were expected" in error_of(huge)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sam2", "sam2.1-tiny"),
        ("sam2-tiny", "sam2.1-tiny"),
        ("sam2.1_hiera_tiny", "sam2.1-tiny"),
        ("sam2.1_hiera_base_plus.pt", "sam2.1-base-plus"),
        ("sam2.1-base+", "sam2.1-base-plus"),
        ("sam2.1_l.pt", "sam2.1-large"),
        ("SAM2-S", "sam2.1-small"),
        ("EdgeTAM", "edgetam"),
        ("edge-tam", "edgetam"),
        ("mobile_sam.pt", "mobile-sam"),
    ],
)
def test_another_name_of_a_model_is_answered_with_the_name_here(name, meant, tmp_path):
    fetched, info = call("fetch", name, "--models-dir", tmp_path), call("info", name, "--models-dir", tmp_path)

    assert fetched.exit_code == 2
    assert f"did you mean {meant}? " in error_of(fetched)
    assert f"did you mean {meant}? " in error_of(info)


def test_a_name_that_is_close_to_none_is_answered_with_all_of_them(tmp_path):
    message = error_of(call("fetch", "yolo", "--models-dir", tmp_path))

    assert message == f"error: no published model is called 'yolo'; there are {', '.join(PUBLISHED)}"


def test_the_mirror_may_be_a_variable_with_a_path_of_its_own(tmp_path, monkeypatch):
    known = PUBLISHED["mobile-sam"]
    monkeypatch.setitem(PUBLISHED, "mobile-sam", dataclasses.replace(known, size_bytes=len(DATA), sha256=SHA256))
    with FileServer() as server:
        server.replies[f"models/{path_of(known.urls[0])}"] = Reply(DATA)
        result = call(
            "fetch", "mobile-sam", "--no-export", "--models-dir", tmp_path, EDGESAM_MIRROR=server.url("models/")
        )

    assert result.exit_code == 0, result.output


def test_an_official_host_that_lacks_the_file_is_an_error_that_names_the_mirror(tmp_path, monkeypatch):
    with FileServer() as server:
        address = server.url("edgetam.pt")
        official = dataclasses.replace(PUBLISHED["edgetam"], urls=(address,))
        monkeypatch.setitem(PUBLISHED, "edgetam", official)
        order = ("fetch", "edgetam", "--no-export", "--models-dir", tmp_path)
        absent = error_of(call(*order))
        from_mirror = error_of(call(*order, "--mirror", server.url("mirror")))

    assert "--mirror or EDGESAM_MIRROR names another host that has it. If you have a file" in absent
    assert "EDGESAM_MIRROR" not in from_mirror


def test_a_model_without_a_published_hash_needs_one_from_the_user(tmp_path):
    with FileServer() as server:
        absent = call("fetch", "tiny-sam", "--models-dir", tmp_path, "--url", server.url("m"))
        wrong = call("fetch", "tiny-sam", "--sha256", "12", "--models-dir", tmp_path, "--url", server.url("m"))

    assert absent.exit_code == wrong.exit_code == 2
    assert "--sha256" in error_of(absent)
    assert "64 hexadecimal digits" in error_of(wrong)
    assert absent.stderr.count("\n") == wrong.stderr.count("\n") == 1, "no licence of a model that cannot be fetched"
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_stated_hash_replaces_the_catalogue_s_and_says_so(tmp_path):
    with FileServer(m=Reply(DATA)) as server:
        result = call(
            "fetch", "repvit-sam", "--sha256", SHA256.upper(), "--no-export", "--models-dir", tmp_path,
            "--url", server.url("m"),
        )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "--sha256 replaces the catalogue's SHA-256 of repvit-sam" in result.stderr


def test_a_file_of_unknown_length_is_bounded(tmp_path, monkeypatch):
    small = dataclasses.replace(PUBLISHED["repvit-sam"], approximate_bytes=20_000, sha256=SHA256)
    monkeypatch.setitem(PUBLISHED, "repvit-sam", small)
    order = ("fetch", "repvit-sam", "--no-export", "--models-dir", tmp_path, "--url")
    with FileServer(stated=Reply(DATA), chunked=Reply(DATA, is_chunked=True)) as server:
        stated = call(*order, server.url("stated"))
        chunked = call(*order, server.url("chunked"))

    assert stated.exit_code == chunked.exit_code == 1
    assert "at most 40000 were expected" in error_of(stated)
    assert "longer than the expected 40000 bytes" in error_of(chunked)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_part_of_unknown_length_is_taken_as_it_is(tmp_path, monkeypatch):
    entry = dataclasses.replace(PUBLISHED["repvit-sam"], approximate_bytes=90_000, sha256=SHA256)
    monkeypatch.setitem(PUBLISHED, "repvit-sam", entry)
    (tmp_path / "repvit_sam.pt.part").write_bytes(DATA)
    with FileServer(m=Reply(DATA)) as server:
        result = call("fetch", "repvit-sam", "--no-export", "--models-dir", tmp_path, "--url", server.url("m"))

    assert result.exit_code == 0, result.output
    assert len(server.requests) == 1
    assert (tmp_path / "repvit_sam.pt").read_bytes() == DATA


def at_terminal(tmp_path, name, answer):
    """Fetch at a terminal from a server that has no file; what is shown, the status, and the number of requests."""
    with FileServer() as server:
        command = [sys.executable, "-m", "model_store", "fetch", name, "--no-export", "--models-dir", str(tmp_path)]
        shown, status = run_at_terminal([*command, "--url", server.url("absent")], answer_to=QUESTION, answer=answer)
    return " ".join(shown.split()), status, len(server.requests)


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"], ids=["no", "empty", "ctrl-d"])
def test_at_a_terminal_the_licence_is_a_question_whose_default_is_no(tmp_path, answer):
    shown, status, requests = at_terminal(tmp_path, "edge-sam", answer)

    assert "no commercial use" in shown
    assert "the licence of edge-sam is not accepted" in shown
    assert (status, requests) == (2, 0)


def test_at_a_terminal_the_answer_yes_starts_the_download(tmp_path):
    shown, status, requests = at_terminal(tmp_path, "edge-sam", b"y\n")

    assert "could not fetch edge_sam.pth" in shown
    assert (status, requests) == (1, 1)


def test_a_permissive_licence_is_shown_without_a_question(tmp_path):
    shown, status, requests = at_terminal(tmp_path, "mobile-sam", b"")

    assert "Apache License 2.0; commercial use is allowed" in shown
    assert QUESTION.decode() not in shown
    assert (status, requests) == (1, 1)


# A published file is flat. EfficientViT-SAM's loader also takes a wrapped one, and other programs save with a prefix.
# Files of SAM 2's family are wrapped, and those of its training program have more beside the model.
LAYOUTS = {
    "mobile-sam": lambda arrays: arrays,
    "tiny-sam": lambda arrays: {f"module.{key}": value for key, value in arrays.items()},
    "efficientvit-sam-l0": lambda arrays: {"state_dict": arrays},
    "edgetam": lambda arrays: {"model": arrays},
    "sam2.1-tiny": lambda arrays: {"model": arrays, "optimizer": {"state": {0: {"step": 7}}}, "epoch": 40},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_with_the_layout_of_a_published_one_becomes_a_model_of_its_architecture(name, tmp_path):
    seeded = published_state_dict(name) if name in SAM2_NAMES else state_dict(name)
    arrays = {key: torch.from_numpy(np.array(value)) for key, value in seeded.items()}
    torch.save(LAYOUTS[name](arrays), tmp_path / "made.pt")
    data = (tmp_path / "made.pt").read_bytes()
    (tmp_path / "made.pt").unlink()
    with FileServer(m=Reply(data)) as server:
        result = call(
            "fetch", name, "--sha256", hashlib.sha256(data).hexdigest(), "--models-dir", tmp_path, "--no-timing",
            "--url", server.url("m"),
        )  # fmt: skip

    assert result.exit_code == 0, result.output
    manifest = load_manifest(tmp_path / name)
    architecture = ARCHITECTURES[name]
    assert (manifest.architecture, manifest.image_size) == (architecture.title, architecture.image_size)
    assert (manifest.norm_epsilon, manifest.auto_masks) == (architecture.norm_epsilon, architecture.auto_masks)
    assert (manifest.mask_decoder, manifest.resize) == (architecture.mask_decoder, architecture.resize)
    assert manifest.ranking == Ranking(stability=0, predicted_iou=1, agreement=0)
    assert manifest.source_sha256 == hashlib.sha256(data).hexdigest()
    assert (manifest.summary, manifest.card) == (PUBLISHED[name].purpose, PUBLISHED[name].card)
    assert manifest.licence.startswith("Apache License 2.0")
    assert "torch" not in manifest.tools
