"""Runs stop, continue, validate and say how they went."""

import dataclasses
import json

import pytest
import torch
from PIL import Image
from support.ellipse_photos import write_ellipse_photos

from model_store.checkpoint import load_checkpoint, seeded_model
from model_store.training.data.annotations import read_annotations
from model_store.training.data.windows.augmentation import PLAIN
from model_store.training.data.windows.dataset import WindowDataset, parse_windows
from model_store.training.data.windows.loader import WindowLoader
from model_store.training.loop.run import Run, RunConfig
from model_store.training.loop.schedule import LearningRate
from model_store.training.loop.state import load_state
from model_store.training.loop.train_log import read_rows
from model_store.training.objectives.annotated import AnnotatedLoop
from model_store.training.tasks import AnnotatedTask


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_ellipse_photos(tmp_path_factory.mktemp("discs") / "data", 20, seed=0)


def a_config(folder, *, steps, **options):
    rate = LearningRate(1e-3, warm_up_steps=0, fall=1.0)
    quiet = {"log_every_s": 1e9, "save_every_s": 1e9, "validate_every_s": 1e9}
    return RunConfig(folder, 0.0, rate, steps=steps, **quiet | options)


def a_run(config, discs, *, model=None, **options):
    records = read_annotations(discs)
    datasets = [
        WindowDataset(records, size, boxes=1, points=1, augmentation=PLAIN)
        for size in parse_windows("64:2:0.7,128:1:0.3")
    ]
    loader = WindowLoader(datasets, seed=config.seed)
    task = AnnotatedTask(model or seeded_model(0, "edgesam-lite"), loader, AnnotatedLoop(corrections=(0.5, 0.5)))
    return Run(config, task, **options)


def weights(run):
    return {key: value.clone() for key, value in run.model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert different == []


def test_the_same_seed_gives_the_same_weights(tmp_path, discs):
    runs = [a_run(a_config(tmp_path / str(number), steps=2, seed=5), discs) for number in range(2)]
    other = a_run(a_config(tmp_path / "other", steps=2, seed=6), discs)

    for run in [*runs, other]:
        run.train()

    assert_same(weights(runs[0]), weights(runs[1]))
    name = "mask_decoder.iou_token.weight"
    assert not torch.equal(weights(runs[0])[name], weights(other)[name])


def test_a_stopped_run_continues_as_if_it_had_not_been_stopped(tmp_path, discs):
    whole = a_run(a_config(tmp_path / "whole", steps=6), discs)
    stopped = a_run(a_config(tmp_path / "parts", steps=6, log_every_s=0.0), discs)
    stopped.on_progress = lambda progress: stopped.stop() if progress.step == 3 else None

    whole.train()
    stopped.train()
    continued = a_run(a_config(tmp_path / "parts", steps=6), discs, model=seeded_model(1, "edgesam-lite"))
    continued.load(load_state(tmp_path / "parts"), fresh_budget=False)
    continued.train()

    assert stopped.step == 3
    assert continued.step == 6
    assert_same(weights(continued), weights(whole))
    assert_same(continued.ema.model.state_dict(), whole.ema.model.state_dict())


def test_a_new_budget_continues_weights_moments_and_counters(tmp_path, discs):
    first = a_run(a_config(tmp_path, steps=2), discs)
    first.train()

    second = a_run(a_config(tmp_path / "second", steps=3), discs)
    second.load(load_state(tmp_path), fresh_budget=True)

    assert second.progress == 0.0
    assert second.optimiser.moment_steps == 2
    assert_same(weights(second), weights(first))
    second.train()
    assert second.step == 5
    assert second.minutes > first.minutes


def test_a_budget_of_minutes_ends_by_the_clock(tmp_path, discs):
    config = dataclasses.replace(a_config(tmp_path, steps=None), minutes=1e-4)

    run = a_run(config, discs)
    run.train()

    assert run.step == 1
    assert run.progress == 1.0
    assert (tmp_path / "state.pt").is_file()


def test_a_batch_that_overflows_changes_no_weight_and_no_statistic(tmp_path, discs):
    run = a_run(a_config(tmp_path, steps=1), discs)
    before = weights(run)
    with torch.no_grad():  # finite, but what is computed with it is not
        run.model.image_encoder.neck.out.weight.fill_(3e38)

    run.train()

    after = weights(run)
    after["image_encoder.neck.out.weight"] = before["image_encoder.neck.out.weight"]
    counters = [key for key in after if key.endswith("num_batches_tracked")]
    assert_same(
        {key: after[key] for key in after if key not in counters},
        {key: before[key] for key in before if key not in counters},
    )


def test_the_best_checkpoint_is_kept_with_its_figures(tmp_path, discs):
    scores = iter([0.1, 0.2, 0.6, 0.4])  # the first before any step
    seen = []

    def eval_fn(model):
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"val_box": next(scores), "val_point": 0.1}

    run = a_run(a_config(tmp_path, steps=3, validate_every_s=0.0, log_every_s=0.0), discs, eval_fn=eval_fn)
    found = run.train()

    assert found == {"val_box": 0.4, "val_point": 0.1}
    assert_same(load_checkpoint(tmp_path / "best.safetensors").state_dict(), seen[2])
    assert_same(load_checkpoint(tmp_path / "model.safetensors").state_dict(), seen[3])
    best = json.loads((tmp_path / "best.json").read_text())
    assert best | {"minutes": 0, "score": 0} == {"minutes": 0, "step": 2, "score": 0, "val_box": 0.6, "val_point": 0.1}
    assert [row["val_box"] for row in read_rows(tmp_path / "log.csv") if row["val_box"]] == ["0.1", "0.2", "0.6", "0.4"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000
    assert json.loads((tmp_path / "config.json").read_text())["task"]["windows"][1]["pixels"] == 128
