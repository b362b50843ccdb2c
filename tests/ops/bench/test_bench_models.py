"""The table of architectures goes on working: one architecture, measured once beside its authors' graph."""

import json
import math

from tools.bench_models.__main__ import document, measure


def test_an_architecture_is_measured_beside_its_authors_graph(tmp_path):
    row = json.loads(json.dumps(measure("efficientvit-sam-l0", tmp_path, seconds=0.0)))

    assert row["encoder_parameters"] == 30_728_224
    assert row["other_parameters"] == 34_792_784 - 30_728_224
    assert set(row["threads"]) >= {"1"}
    for measured in row["threads"].values():
        assert all(math.isfinite(value) and value > 0 for value in measured.values())
    page = document("here", [row])
    assert page.count("| `efficientvit-sam-l0` |") == 1 + len(row["threads"])
