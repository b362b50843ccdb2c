"""`list`: names, purposes, sizes, licences, published figures with sources, times on this machine, and commands."""

import dataclasses
import json
import re
import shutil
import sys

import pytest
from support.documents import page
from support.model_store_cli import invoke
from support.sam2_weights import NAMES as SAM2_NAMES
from support.terminal_session import run_at_terminal

from model_store.architectures import ARCHITECTURES
from model_store.catalogue.entries import DEFAULT_TIME_LIMIT_S, catalog, check_name, slowness
from model_store.catalogue.published import PUBLISHED, S_LAB, known_licence
from model_store.catalogue.published_model import COCO_AP, SA_23_ONE_CLICK
from model_store.export.model_info import info_of_published
from model_store.export.output_folder import check_output_folder
from model_store.timings import TIMINGS_NAME, TimingError, Timings, measure, processor_name, store_timings
from service.manifest import load_manifest
from service.settings import BUNDLED_MODEL, Settings

LIST = [sys.executable, "-m", "model_store", "list"]
TIMES = Timings(encode_s=0.5, click_s=0.018, threads=2, processor=processor_name())


def listed(models):
    """Return the entries of `list --json` by name."""
    result = invoke("list", "--json", "--models-dir", models)
    assert result.exit_code == 0, result.output
    return {entry["name"]: entry for entry in json.loads(result.stdout)}


@pytest.fixture
def models(tmp_path):
    """A models directory with a copy of the bundled model under the name `mine`."""
    shutil.copytree(BUNDLED_MODEL, tmp_path / "mine", ignore=shutil.ignore_patterns("README.md", "*.jpg"))
    return tmp_path


def test_the_catalogue_has_all_published_checkpoints_of_the_family():
    efficientvit = {f"efficientvit-sam-{kind}" for kind in ("l0", "l1", "l2", "xl0", "xl1")}
    sam = {f"sam-vit-{kind}" for kind in ("b", "l", "h")}
    sam2 = {f"sam2.1-{kind}" for kind in ("tiny", "small", "base-plus", "large")}
    small = {"edgetam", "mobile-sam", "tiny-sam", "repvit-sam", "edge-sam", "edge-sam-3x"}

    assert set(PUBLISHED) == efficientvit | sam | sam2 | small


def test_the_recommended_model_comes_first():
    first, *others = PUBLISHED.values()

    assert first.name == "edgetam"
    assert first.purpose.startswith("First choice")
    assert not any(model.purpose.startswith("First choice") for model in others)


@pytest.mark.parametrize("model", PUBLISHED.values(), ids=list(PUBLISHED))
def test_an_entry_is_complete_and_points_to_https(model):
    assert check_name(model.name) == model.name
    assert model.urls
    assert all(url.startswith("https://") and url.endswith(model.file_name) for url in model.urls)
    assert model.sha256 is None or re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert model.sha256_source
    assert model.size_bytes in {None, model.approximate_bytes}
    assert model.approximate_bytes <= model.max_bytes <= 2 * model.approximate_bytes
    assert model.licence.url.startswith("https://")
    assert model.card.startswith("https://")
    assert model.licence.commercial_use == (not model.name.startswith("edge-sam"))
    assert model.quality[0].measure == (SA_23_ONE_CLICK if model.architecture in SAM2_NAMES else COCO_AP)
    assert all(30 < figure.value < 90 and figure.source for figure in model.quality)
    assert re.fullmatch(r"[A-Z][^.]*(\.\d[^.]*)?\.", model.purpose), "one sentence"
    assert model.training_data
    assert model.architecture in ARCHITECTURES
    assert model.architecture == model.name or model.licence == S_LAB


def test_a_licence_is_known_by_its_title_and_by_its_identifier_alone():
    assert known_licence("Apache License 2.0, https://www.example/LICENSE").short_title == "Apache-2.0"
    assert known_licence("Apache-2.0").short_title == "Apache-2.0"
    assert known_licence("S-Lab 1.0") == S_LAB
    assert known_licence("Apache-2.0 for research") is None


def test_a_figure_of_unknown_size_says_so():
    clicks = {name: PUBLISHED[name].quality[0] for name in SAM2_NAMES}

    assert clicks["edgetam"].value == 55.5
    for name, figure in clicks.items():
        assert ("whose size it does not state" in figure.source) == (name != "edgetam")


def test_hashes_that_the_authors_do_not_publish_are_marked():
    copied = {model.name for model in PUBLISHED.values() if model.sha256_origin == "copies"}

    assert copied == {"sam2.1-small", "sam2.1-base-plus", "sam2.1-large", "mobile-sam", "sam-vit-b", "sam-vit-l",
                      "sam-vit-h"}  # fmt: skip
    for model in PUBLISHED.values():
        assert (model.sha256 is None) == (model.sha256_origin == "none")
        assert ("by others" in model.sha256_source) == (model.sha256_origin == "copies")


def test_only_tiny_sam_has_no_published_hash():
    assert [model.name for model in PUBLISHED.values() if model.sha256 is None] == ["tiny-sam"]


def test_a_file_with_another_hash_does_not_claim_the_published_figures():
    model = PUBLISHED["mobile-sam"]

    published = info_of_published(model, sha256=model.sha256).notes
    other = info_of_published(model, sha256="0" * 64).notes

    assert published.startswith("Published figures")
    assert other.startswith("The SHA-256 was stated by the user and is not that of the published file.")


def test_no_line_of_the_table_ends_with_spaces(tmp_path):
    text, _ = run_at_terminal([*LIST, "--models-dir", str(tmp_path)], columns=80)

    assert [line for line in text.splitlines() if line.endswith(" ")] == []


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_a_terminal_and_states_what_a_choice_needs(tmp_path, columns):
    text, status = run_at_terminal([*LIST, "--models-dir", str(tmp_path)], columns=columns)

    assert status == 0
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= columns
    for model in PUBLISHED.values():
        number = next(number for number, line in enumerate(lines) if line.split()[:1] == [model.name])
        kind = "click" if model.quality[0].measure == SA_23_ONE_CLICK else "AP"
        assert f"  {kind} {model.quality[0].value} " in lines[number]
        assert (lines[number].split()[1] == "*") == (model.sha256_origin == "copies")
        assert model.licence.short_title in lines[number]
        assert ("  yes, " if model.licence.commercial_use else "  no, ") in lines[number]
        assert model.purpose.split(",")[0][:40] in lines[number + 1]
        assert model.quality[0].source in " ".join(text.split())
    assert "python -m model_store fetch NAME" in text
    assert "* The SHA-256 is that of copies by others." in text


def test_a_table_in_a_file_has_the_command_of_each_model(tmp_path):
    result = invoke("list", "--models-dir", tmp_path)

    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert lines["mobile-sam"].endswith("  python -m model_store fetch mobile-sam")
    assert lines["tiny-sam"].endswith("  python -m model_store fetch tiny-sam --sha256 HASH")


def test_json_has_everything_that_the_table_has(tmp_path):
    entries = listed(tmp_path)

    entry = entries["mobile-sam"]
    assert entry["purpose"] == PUBLISHED["mobile-sam"].purpose
    assert (entry["state"], entry["commercial_use"], entry["licence"]) == ("available", True, "Apache License 2.0")
    assert entry["size_bytes"] == 40_728_226
    assert (entry["is_size_exact"], entries["efficientvit-sam-l0"]["is_size_exact"]) == (True, False)
    assert entry["command"] == "python -m model_store fetch mobile-sam"
    assert {"measure": COCO_AP, "value": 42.7, "source": "README of RepViT-SAM"} in entry["quality"]
    assert entry["timings"] is None
    assert (entry["is_hash_copied"], entries["edgetam"]["is_hash_copied"]) == (True, False)
    assert entries["edgesam-lite"]["commercial_use"] is False
    assert entries["edgesam-lite"]["command"] == ""


def test_times_are_measured_and_listed_on_the_same_processor_only(models):
    times = measure(models / "mine")
    store_timings(models / "mine", times)

    here = listed(models)["mine"]
    text = invoke("list", "--models-dir", models).stdout
    store_timings(models / "mine", dataclasses.replace(times, processor="another one"))

    assert 0 < times.click_s < times.encode_s < 60
    assert here["timings"] == dataclasses.asdict(times)
    assert f"{times.click_s * 1e3:.0f} ms" in next(line for line in text.splitlines() if line.startswith("mine"))
    assert listed(models)["mine"]["timings"] is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"encode_s": -1, "click_s": 1, "threads": 1, "processor": "x"}', "9" * 20_000, "\ud800",
     "[" * 9999, f'{{"encode_s": {10**400}, "click_s": 1, "threads": 1, "processor": "x"}}'],
    ids=["empty", "list", "no members", "negative", "long", "no text", "deep", "huge"],
)  # fmt: skip
def test_a_file_of_times_that_is_none_is_ignored(models, content):
    (models / "mine" / TIMINGS_NAME).write_bytes(content.encode("utf-8", "surrogatepass"))

    assert listed(models)["mine"]["timings"] is None


def test_a_model_keeps_its_times_file_when_it_is_verified_and_is_still_replaced_as_a_model(models, tmp_path):
    store_timings(models / "mine", TIMES)

    assert invoke("verify", "mine", "--models-dir", models).exit_code == 0
    check_output_folder(models / "mine", force=True)


def test_a_slow_model_is_listed_with_a_warning(models, monkeypatch):
    store_timings(models / "mine", dataclasses.replace(TIMES, encode_s=45.0))
    over_objective = listed(models)["mine"]["warning"]
    monkeypatch.setenv("EDGESAM_EMBED_TIMEOUT_S", "30")
    over_limit = invoke("list", "--models-dir", models)

    assert "objective is 2.5 s" in over_objective
    assert "Slow: encoding an image takes 45 s here, longer than the service's limit of 30 s" in over_limit.stdout
    assert "EDGESAM_EMBED_TIMEOUT_S" in over_limit.stderr
    assert slowness(TIMES) == slowness(None) == ""


def test_the_time_limit_is_the_service_s(monkeypatch):
    monkeypatch.setenv("EDGESAM_EMBED_TIMEOUT_S", "soon")

    assert Settings.model_fields["embed_timeout_s"].default == DEFAULT_TIME_LIMIT_S
    assert slowness(dataclasses.replace(TIMES, encode_s=DEFAULT_TIME_LIMIT_S + 1)) != ""


def test_a_timing_that_fails_says_why(tmp_path):
    with pytest.raises(TimingError, match=r"manifest\.json"):
        measure(tmp_path)


def test_the_bundled_model_comes_first(tmp_path):
    assert catalog(tmp_path)[0].name == "edgesam-lite"


def test_the_table_of_the_readme_has_the_figures_of_the_catalogue():
    section = page("README.md").partition("## Get a better model")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    stated = {}
    for names, _, sizes, licence, figures in rows:
        first, *others = [name.strip("` ") for name in names.split(",")]
        full = [first, *(other if not other.startswith("-") else _stem(first) + other for other in others)]
        quality = figures.split(", ")
        if len(quality) == 1:  # one figure for several sizes
            quality *= len(full)
        for name, size, figure in zip(full, sizes.split(", "), quality, strict=False):
            stated[name] = (size, licence, figure)

    bundled_size = rows[0][2].removeprefix("bundled, ")
    del stated["edgesam-lite"]
    assert bundled_size == f"{sum(one.size_bytes for one in load_manifest(BUNDLED_MODEL).files) / 1e6:.0f}"
    assert stated == {
        model.name: (
            f"{model.approximate_bytes / 1e6:.0f}",
            f"{'yes' if model.licence.commercial_use else 'no'}, {model.licence.short_title}",
            f"{'click' if model.quality[0].measure == SA_23_ONE_CLICK else 'AP'} {model.quality[0].value}",
        )
        for model in PUBLISHED.values()
    }


def _stem(name):
    """Return the name of a family without the size, which is the last word but for base-plus."""
    return name.rpartition("-")[0]
