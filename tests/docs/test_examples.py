"""The examples of the documents run as they stand, in a folder with the repository's files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.documents import ROOT, blocks, page
from support.service_process import ServiceProcess

from service.api.adapters import ADAPTERS

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder for pasted examples, with the repository's files and an environment."""
    for name in ("service", "model_store", "edgesam_cli"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(path: str, number: int, service_url: str) -> dict:
    """Run a Python example of a page; the names it leaves."""
    names: dict = {}
    exec(blocks(page(path), "python")[number].replace(ADDRESS, service_url), names)
    return names


def run_shell(block: str, clone: Path, service_url: str = ADDRESS) -> str:
    """Run a shell example; what it prints."""
    # The environment of the tests may have been installed before it had the command.
    block = block.replace(".venv/bin/edgesam ", ".venv/bin/python -m edgesam_cli ")
    done = subprocess.run(
        ["bash", "-euc", block.replace(ADDRESS, service_url)],
        check=False, cwd=clone, env={**os.environ, "no_proxy": "*", "EDGESAM_URL": service_url},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("clone")
def test_the_python_example_of_the_readme_runs(service_url: str):
    names = run_python("README.md", 0, service_url)

    assert names["mask"].pixels.shape == (427, 640)


@pytest.mark.usefixtures("clone")
def test_the_example_with_our_client_runs(service_url: str):
    names = run_python("docs/how-to/python-client.md", 0, service_url)

    assert names["mask"].pixels.shape == names["both"].pixels.shape == (427, 640)


@pytest.mark.usefixtures("clone")
def test_the_example_of_everything_mode_finds_masks(service_url: str, capsys):
    names = run_python("docs/how-to/python-client.md", 1, service_url)

    assert len(json.loads(names["records"])) == len(names["found"].masks)
    assert "64 of 64 points" in capsys.readouterr().out


@pytest.mark.usefixtures("clone")
def test_the_example_of_a_region_keeps_the_pixels_of_the_image(service_url: str):
    names = run_python("docs/how-to/python-client.md", 2, service_url)

    assert names["mask"].pixels.shape == (427, 640)
    assert names["region"].image_id.endswith("~region=160,80,460,380")


@pytest.mark.usefixtures("clone")
def test_the_example_with_several_models_asks_each_of_them(two_models_url: str, capsys):
    run_python("docs/how-to/python-client.md", 3, two_models_url)

    bundled, other = capsys.readouterr().out.splitlines()
    assert bundled.startswith("edgesam-lite Small model trained by this project.")
    assert other.startswith("random This model is not trained.")


@pytest.mark.usefixtures("clone")
def test_the_example_with_a_plain_http_client_runs(service_url: str):
    names = run_python("docs/how-to/python-client.md", 4, service_url)

    assert [mask.shape for mask in names["masks"]] == [(427, 640), (427, 640)]
    assert names["both"]["results"][0]["masks"][0]["rle"]["size"] == [427, 640]


def test_the_examples_of_annotations_run(service_url: str, clone: Path):
    run_python("docs/how-to/export-annotations.md", 0, service_url)
    (line,) = [block for block in blocks(page("docs/how-to/export-annotations.md"), "sh") if "edgesam segment" in block]
    exported = json.loads((clone / "coco.json").read_text())

    run_shell(line, clone, service_url)

    assert [category["name"] for category in exported["categories"]] == ["dahlia"]
    assert len(exported["annotations"]) == 2
    assert json.loads((clone / "dahlia.json").read_text())["imageWidth"] == 640
    assert len((clone / "yolo" / "labels" / "dahlia.txt").read_text().splitlines()) == 2
    assert (clone / "dataset" / "images" / "dahlia.jpg").is_file()
    assert len(json.loads((clone / "coco.json").read_text())["annotations"]) == 1


def test_the_command_lines_of_the_client_run(service_url: str, clone: Path):
    before = {path.name for path in clone.iterdir()}
    pages = (page("README.md"), page("docs/how-to/python-client.md"))
    examples = [block for text in pages for block in blocks(text, "sh") if ".venv/bin/edgesam " in block]

    printed = [run_shell(example, clone, service_url) for example in examples]

    assert len(printed) == 4
    assert "0 failed" in printed[1]
    written = {"dahlia.png", "cut.png", "mask.png", "whole.png", "masks.json", "proposals.json"}
    written |= {"boxes.csv", "masks", "annotations.json"}
    assert {path.name for path in clone.iterdir()} - before == written


@pytest.mark.parametrize("path", ["README.md", "docs/tutorial.md"])
def test_the_curl_examples_run(service_url: str, clone: Path, path: str):
    (example,) = [block for block in blocks(page(path), "sh") if block.startswith("image=")]

    printed = run_shell(example, clone, service_url)

    embedded, segmented = (json.loads(line) for line in printed.replace("}{", "}\n{").splitlines())
    with Image.open(clone / "mask.png") as mask:
        assert mask.size == (embedded["width"], embedded["height"]) == (640, 427)
    assert segmented["image_hash"] == embedded["image_hash"]
    assert len(segmented["results"][0]["masks"]) == 4


def test_the_example_of_the_disk_cache_removes_files_without_use_alone(clone: Path):
    (example,) = [block for block in blocks(page("docs/how-to/disk-cache.md"), "sh") if block.startswith("find ")]
    old, new, foreign = (clone / "ab" / name for name in ("old.embedding", "new.embedding", "notes.txt"))
    old.parent.mkdir()
    for path in (old, new, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))

    run_shell(example.replace("~/.cache/edgesam/embeddings", str(clone)), clone)

    assert [path.exists() for path in (old, new, foreign)] == [False, True, True]


def test_the_tutorial_shows_the_hash_that_the_service_answers(service_url: str, clone: Path):
    (example,) = [block for block in blocks(page("docs/tutorial.md"), "sh") if block.startswith("image=")]

    answer = json.loads(run_shell(example, clone, service_url).partition("}")[0] + "}")

    assert f"{answer['image_hash'][:4]}…" in example


def test_the_commands_for_keys_make_a_file_that_is_right(clone: Path):
    (example,) = [block for block in blocks(page("docs/how-to/api-keys.md"), "sh") if "edgesam keys" in block]

    printed = run_shell(example, clone)

    assert printed.count("key:   esk_") == 2
    assert [key["name"] for key in json.loads((clone / "keys.json").read_text())] == ["web-1", "ops"]


def test_the_requests_with_a_key_are_answered(clone: Path):
    text = page("docs/how-to/api-keys.md")
    (example,) = [block for block in blocks(text, "sh") if "X-API-Key" in block]
    keys = re.search(r"EDGESAM_API_KEYS='(.*?)'", text)
    assert keys is not None

    with ServiceProcess({"EDGESAM_API_KEYS": keys[1]}) as service:
        printed = run_shell(example, clone, service.url)

    assert printed.count('"name":"edgesam-lite"') == 2


def test_the_example_of_a_deletion_runs(service_url: str, clone: Path):
    (example,) = blocks(page("docs/how-to/delete-images.md"), "sh")

    assert run_shell(example, clone, service_url).endswith("204\n")


def test_the_example_of_an_embedding_s_download_runs(service_url: str, clone: Path):
    (example,) = [block for block in blocks(page("docs/how-to/browser-decoding.md"), "sh") if "tokens.f16" in block]
    first, _, _ = example.partition("curl -s http://127.0.0.1:8000/models")

    printed = run_shell(first, clone, service_url)

    assert (clone / "tokens.f16").stat().st_size == 4096 * 256 * 2
    assert "x-embedding-shape: 4096,256" in printed.lower()


def test_the_requests_of_labelling_tools_are_answered(clone: Path):
    studio = page("docs/how-to/label-studio.md")
    settings = dict(re.findall(r"(EDGESAM_\w+)=(\S+)", blocks(studio, "sh")[0]))
    settings["EDGESAM_ADAPTERS"] = ",".join(ADAPTERS)
    pages = (studio, page("docs/how-to/x-anylabeling.md"), page("docs/how-to/cvat.md"))
    examples = [block for text in pages for block in blocks(text, "sh") if block.startswith("curl ")]

    with ServiceProcess(settings) as service:
        brush, models, functions = (json.loads(run_shell(example, clone, service.url)) for example in examples)

    assert brush["results"][0]["result"][0]["type"] == "brushlabels"
    assert list(models["data"]) == ["edgesam-lite"]
    assert list(functions) == ["edgesam"]


@pytest.mark.slow
def test_the_commands_that_import_a_checkpoint_run(clone: Path):
    wanted = ("edgesam models list", "edgesam models import", "edgesam models verify")
    examples = [
        block
        for block in blocks(page("docs/how-to/models.md"), "sh")
        if any(command in block for command in wanted) and "--encoder" not in block  # tests of imports have encoders
    ]

    printed = [run_shell(example, clone) for example in examples]

    assert len(printed) == 3
    assert (clone / "models" / "mine" / "manifest.json").is_file()
    assert "mine is complete and runs" in printed[-1]


def test_the_example_of_a_region_runs(clone: Path, service_url: str):
    embed_and_click, _, from_the_copy = blocks(page("docs/how-to/regions.md"), "sh")

    printed = run_shell(embed_and_click, clone, service_url)
    refused = run_shell(from_the_copy, clone, service_url)

    image_id, answer = printed.split("\n", 1)
    assert image_id.endswith("~region=60,200,420,620")
    assert json.loads(answer)["region"] == [60, 200, 420, 620]
    assert json.loads(refused)["code"] == "image-not-kept"
