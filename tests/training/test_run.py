"""Runs learn, stop, go on and say how they went."""

import dataclasses

import pytest
import torch
from training.bright_discs import SIDE, bright_discs

from model_store.checkpoint import load_checkpoint
from model_store.training.data.augmentation import Augmentation
from model_store.training.data.sources import ResidentSource
from model_store.training.initial import initial_model
from model_store.training.loop.run import Run, RunConfig
from model_store.training.loop.schedule import Schedule, Stage, describe_stages, parse_stages
from model_store.training.loop.state import StateError, load_state, split_state
from model_store.training.loop.train_log import read_rows
from model_store.training.loop.validation import ValidationSet, validate
from model_store.training.objectives.annotated import AnnotatedLoop
from model_store.training.tasks import AnnotatedTask

CPU = torch.device("cpu")
GENTLE = Augmentation(whole=0.5, zoom=(0.9, 1.5), paste=0.2)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads would add up in another order, and wait for one another on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def a_config(folder, *, steps, batch=2, **options):
    schedule = Schedule((Stage((SIDE,), 1.0),), batch=batch, batch_frame=SIDE, learning_rate=1e-3)
    quiet = {"log_every_s": 1e9, "save_every_s": 1e9, "look_every_s": 1e9}
    return RunConfig(folder, 0.0, schedule, steps=steps, **quiet | options)


def a_run(config, *, prompts=2, passes=1, look=None, show=lambda _share, _line: None, pictures=8):
    loop = AnnotatedLoop(prompts=prompts, passes=passes)
    task = AnnotatedTask(
        initial_model(0), ResidentSource(bright_discs(pictures, seed=0), CPU), loop, GENTLE, max_masks=2
    )
    return Run(config, task, look=look, show=show)


def weights(run):
    return {key: value.clone() for key, value in run.learner.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert different == []


def test_training_lowers_the_loss_and_raises_held_out_iou(tmp_path):
    held_out = ValidationSet(bright_discs(16, seed=1), photos=16, passes=1)
    before = validate(initial_model(0).eval(), held_out, SIDE)
    config = a_config(tmp_path, steps=26, batch=8, log_every_s=0.0, average_decay=0.8)

    after = a_run(
        config, prompts=4, pictures=80, look=lambda model, frame_size: validate(model, held_out, frame_size)
    ).train()

    losses = [float(row["loss"]) for row in read_rows(tmp_path / "log.csv") if row["loss"]]
    assert len(losses) == 26
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert after["val_box_0"] > before["val_box_0"] + 0.25
    assert after["val_point_0"] > before["val_point_0"] + 0.25
    # What is left on disk is what was measured, under the official keys.
    again = validate(load_checkpoint(tmp_path / "edgesam.pth"), held_out, SIDE)
    assert again == pytest.approx(after)
    assert "polyline" in (tmp_path / "curves.svg").read_text()


def test_the_same_seed_gives_the_same_weights(tmp_path):
    runs = [a_run(a_config(tmp_path / str(number), steps=2, seed=5)) for number in range(2)]
    other = a_run(a_config(tmp_path / "other", steps=2, seed=6))

    for run in [*runs, other]:
        run.train()

    assert_same(weights(runs[0]), weights(runs[1]))
    name = "mask_decoder.iou_token.weight"
    assert not torch.equal(weights(runs[0])[name], weights(other)[name])


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = a_run(a_config(tmp_path / "whole", steps=4), passes=2)
    stopped = a_run(a_config(tmp_path / "parts", steps=4, log_every_s=0.0), passes=2)
    stopped._show = lambda share, _line: stopped.stop() if share == 0.5 else None

    whole.train()
    stopped.train()
    continued = a_run(a_config(tmp_path / "parts", steps=4), passes=2)
    continued.continue_from(tmp_path / "parts", fresh_budget=False)
    first_half = continued.step
    continued.train()

    assert first_half == 3, "the step after the one that asked for it is the last"
    assert continued.step == 4
    assert_same(weights(continued), weights(whole))
    assert_same(continued.average.model.state_dict(), whole.average.model.state_dict())


def test_a_fresh_budget_starts_a_new_schedule_with_the_old_weights(tmp_path):
    first = a_run(a_config(tmp_path, steps=2))
    first.train()

    second = a_run(a_config(tmp_path / "second", steps=3))
    second.continue_from(tmp_path, fresh_budget=True)

    assert second.progress == 0.0
    assert_same(weights(second), weights(first))
    second.train()
    assert second.step == 5
    assert second.minutes > first.minutes


def test_a_budget_of_minutes_ends_by_the_clock(tmp_path):
    config = dataclasses.replace(a_config(tmp_path, steps=None), minutes=1e-4)

    run = a_run(config)
    run.train()

    assert run.step == 1
    assert run.progress == 1.0
    assert (tmp_path / "state.pt").is_file()


def test_a_state_travels_in_pieces(tmp_path):
    run = a_run(a_config(tmp_path / "run", steps=1))
    run.train()

    paths = split_state(load_state(tmp_path / "run"), tmp_path / "pieces")
    back = load_state(tmp_path / "pieces")

    assert max(path.stat().st_size for path in paths) <= 16 * 2**20
    assert sum(path.stat().st_size for path in paths) < 100e6
    assert_same(back["model"], run.state()["model"])
    for key, value in run.average.model.state_dict().items():
        torch.testing.assert_close(back["average"][key], value, rtol=0.01, atol=1e-3)
    continued = a_run(a_config(tmp_path / "run", steps=2))
    continued.continue_from(tmp_path / "pieces", fresh_budget=False)
    continued.train()
    assert continued.step == 2


def test_a_damaged_piece_is_named(tmp_path):
    run = a_run(a_config(tmp_path / "run", steps=1))
    run.train()
    paths = split_state(load_state(tmp_path / "run"), tmp_path / "pieces")
    paths[1].write_bytes(b"")

    with pytest.raises(StateError, match=paths[1].name):
        load_state(tmp_path / "pieces")
    with pytest.raises(StateError, match="holds no"):
        load_state(tmp_path / "nothing")


def test_the_schedule_is_one_of_shares_of_the_time():
    schedule = Schedule(parse_stages("128:0.5,256/512:0.9,512"), batch=16, learning_rate=1.0, warm_up=0.1)

    assert [schedule.stage(share).frame_sizes for share in (0.0, 0.49, 0.5, 0.95, 1.0)] == [
        (128,), (128,), (256, 512), (512,), (512,),
    ]  # fmt: skip
    assert [schedule.stage(0.6).frame_size(step) for step in range(3)] == [256, 512, 256]
    assert [schedule.batch_size(size) for size in (128, 256, 512, 1024)] == [64, 16, 4, 2]
    assert schedule.batch_size(256, 4) == 4
    assert schedule.rate(0.05) == pytest.approx(0.5)
    assert schedule.rate(0.1) == pytest.approx(1.0)
    assert schedule.rate(0.55) == pytest.approx(0.51)
    assert schedule.rate(1.0) == pytest.approx(0.02)
    assert describe_stages(schedule.stages) == "128:0.5,256/512:0.9,512:1"


@pytest.mark.parametrize("text", ["100:1", "256:0.5", "256:1,512:1", "256:1,512:0.5", ""])
def test_stages_that_make_no_schedule_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Schedule(parse_stages(text))
