"""The quick form of each experiment, in which all promises hold. `make faults` measures times."""

from pathlib import Path

import pytest
from tools.bench.load_generator import Exchange
from tools.faults.models import UnknownModelError, artifact_of
from tools.faults.outcome import Interval, Outcome, row_of
from tools.faults.report import BEGIN, END, write_into
from tools.faults.run import EXPERIMENTS, run
from tools.faults.scene import zipf

from service.settings import BUNDLED_MODEL


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_promise_is_kept(name: str):
    (outcome,) = run([name], quick=True)

    assert outcome.broken == []
    assert outcome.rows or outcome.facts


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", ["redis", "process", "isolation", "staying"])
def test_every_promise_is_kept_with_three_maps_per_image(name: str, edgetam_artifact: Path):
    (outcome,) = run([name], quick=True, model=edgetam_artifact)

    assert outcome.broken == []
    assert outcome.rows or outcome.facts


def test_the_model_is_a_folder_or_an_architecture(tmp_path: Path):
    assert artifact_of(None, tmp_path) == BUNDLED_MODEL
    assert artifact_of(str(BUNDLED_MODEL), tmp_path) == BUNDLED_MODEL
    with pytest.raises(UnknownModelError, match="'edge-tam' is neither the folder of an artifact nor an architecture"):
        artifact_of("edge-tam", tmp_path)


def test_a_request_counts_at_the_time_when_it_was_due():
    trace = [
        Exchange(0.0, 10.0, "200", "", ""),
        Exchange(1.5, 700.0, "503", "cache-unavailable", ""),
        Exchange(3.0, 40.0, "404", "embedding-not-found", ""),
        Exchange(4.0, 20.0, "200", "", ""),
    ]

    row = row_of("a fault", "clicks", trace, Interval(1.0, 2.0))

    assert row.p99_ms == (10.0, 700.0, pytest.approx(39.8))
    assert row.errors == {"503 cache-unavailable": 1, "404 embedding-not-found": 1}
    assert row.recovery_s == pytest.approx(1.04)
    assert row.slowest_ms == 700.0


def test_the_report_keeps_other_text_and_other_sections(tmp_path):
    path = tmp_path / "reliability.md"
    path.write_text(f"before\n{BEGIN}\n\n### Redis\n\nold\n\n### Clients\n\nstays\n\n{END}\nbehind\n")
    outcome = Outcome(
        "Redis", [row_of("a fault", "clicks", [], Interval(0.0, 1.0))], {"a figure": "5 ms"}, ["it broke"], "a machine"
    )

    for _ in range(2):
        write_into(path, [Outcome.of(outcome.document())])

    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nbehind\n")
    assert "old" not in text
    assert "| a figure | 5 ms |" in text
    assert "it broke" in text
    assert text.count("### Redis\n\nMeasured by `make faults` on: a machine.\n") == 1
    assert "### Clients\n\nstays\n" in text


def test_the_first_images_get_most_of_the_prompts():
    clicks = [b"%d" % number for number in range(10)]

    mixed = zipf(clicks, [b"upload"], 5000, uploads_share=0.1, seed=0)

    assert 350 < mixed.count(b"upload") < 650
    assert mixed.count(b"0") > 1.5 * mixed.count(b"1") > 3 * mixed.count(b"9")
