"""The parts of a run, each by itself: learning rate, optimiser, EMA, state, train log, progress, priority."""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from model_store.training.loop.distributed import DistributedContext
from model_store.training.loop.ema import EMA
from model_store.training.loop.optimiser import Optimiser, OptimiserConfig
from model_store.training.loop.progress import TrainProgress, train_progress
from model_store.training.loop.schedule import LearningRate
from model_store.training.loop.state import STATE_NAME, StateError, load_state
from model_store.training.loop.train_log import TrainLog, draw_curves, read_rows

ROOT = Path(__file__).parents[4]
ALONE = DistributedContext()


def test_the_learning_rate_rises_stays_and_falls():
    rate = LearningRate(1.0, warm_up_steps=9, fall=0.5, last=0.02)

    assert [rate.at(0.0, moment_steps=steps) for steps in (0, 4, 9, 500)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert rate.at(0.5, moment_steps=9) == pytest.approx(1.0)
    assert rate.at(0.75, moment_steps=9) == pytest.approx(0.51)
    assert rate.at(1.0, moment_steps=9) == pytest.approx(0.02)
    assert LearningRate(1.0, warm_up_steps=0, fall=0.0).at(1.0, moment_steps=0) == 1.0


def test_a_short_run_reaches_its_highest_rate_after_a_tenth_of_the_budget():
    rate = LearningRate(1.0, warm_up_steps=1000, fall=0.5)

    assert rate.at(0.05, moment_steps=3) == pytest.approx(0.5)
    assert rate.at(0.1, moment_steps=7) == 1.0


@pytest.mark.parametrize("options", [{"highest": 0.0}, {"highest": 1.0, "fall": 1.5}])
def test_impossible_learning_rates_are_refused(options):
    with pytest.raises(ValueError, match="learning rate"):
        LearningRate(**options)


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow, self.fast = nn.Linear(3, 3), nn.Conv2d(1, 2, 3)
        self.unused = nn.Parameter(torch.ones(2, 2))
        nn.init.ones_(self.slow.weight)
        nn.init.ones_(self.fast.weight)
        # The layout of training: gradients and moments have to follow it.
        self.fast.weight.data = self.fast.weight.data.contiguous(memory_format=torch.channels_last)

    def groups(self):
        return [(0.2, list(self.slow.parameters())), (1.0, [*self.fast.parameters(), self.unused])]


def an_optimiser(model, **options):
    return Optimiser(model, model.groups(), OptimiserConfig(**options), ALONE)


def step(optimiser, loss, rate):
    optimiser.zero_gradients()
    loss.backward()
    return optimiser.step(rate)


def test_each_group_has_its_own_learning_rate_and_only_matrices_decay():
    model = TwoLayers()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser = an_optimiser(model, weight_decay=0.5)

    step(optimiser, model.slow.bias.sum() + model.fast.bias.sum(), 0.1)

    moved = {name: value.detach() - before[name] for name, value in model.named_parameters()}
    torch.testing.assert_close(moved["slow.bias"], torch.full((3,), -0.02))
    torch.testing.assert_close(moved["fast.bias"], torch.full((2,), -0.1))
    torch.testing.assert_close(moved["unused"], torch.full((2, 2), -0.1 * 0.5))
    torch.testing.assert_close(moved["slow.weight"], torch.full((3, 3), -0.02 * 0.5))


def test_the_optimiser_is_adamw_in_any_layout_of_memory():
    """Against torch's own loop over parameters, with frames in channels last and kernels that do not fit together."""
    torch.manual_seed(0)
    ours, theirs = TwoLayers(), TwoLayers()
    theirs.load_state_dict(ours.state_dict())
    optimiser = an_optimiser(ours, weight_decay=0.1, clip=1e9)
    reference = torch.optim.AdamW(
        [value for value in theirs.parameters() if value.ndim > 1],
        lr=0.01,
        betas=(0.9, 0.98),
        weight_decay=0.1,
        foreach=False,
    )
    for _ in range(3):
        x = torch.randn(2, 1, 5, 5).contiguous(memory_format=torch.channels_last)
        step(optimiser, ours.fast(x).square().sum(), 0.01)
        reference.zero_grad()
        theirs.fast(x).square().sum().backward()
        reference.step()
        theirs.fast.bias.data.copy_(ours.fast.bias.data)

    torch.testing.assert_close(ours.fast.weight, theirs.fast.weight)


def test_a_long_gradient_is_clipped_and_one_that_is_not_finite_changes_nothing():
    model = TwoLayers()
    optimiser = an_optimiser(model, clip=3.0)

    assert float(step(optimiser, 100 * model.slow.bias.sum(), 0.0)) == pytest.approx(100 * 3**0.5)
    assert float(torch.linalg.vector_norm(model.slow.bias.grad)) == pytest.approx(3.0)

    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert not torch.isfinite(step(optimiser, torch.nan * model.slow.bias.sum(), 0.1))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert optimiser.moment_steps == 1, "the step that was left out does not count"


def test_moments_are_found_again_by_name():
    first, second = TwoLayers(), TwoLayers()
    old = an_optimiser(first)
    for _ in range(3):
        step(old, first.fast.weight.square().sum(), 0.01)
    moments = copy.deepcopy(old.moments())
    second.load_state_dict(first.state_dict())

    new = an_optimiser(second)
    new.load_moments(moments)
    assert new.moment_steps == 3
    for model, optimiser in ((first, old), (second, new)):
        step(optimiser, model.fast.weight.square().sum(), 0.01)
    assert torch.equal(first.fast.weight, second.fast.weight)

    del moments["unused"]
    partly = an_optimiser(TwoLayers())
    partly.load_moments(moments)
    assert partly.moment_steps == 0, "a parameter without moments wants a warm-up"


def test_the_ema_follows_slowly_and_initial_weights_fade_quickly():
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    fresh, trained = EMA(model, 0.998), EMA(model, 0.998, is_trained=True)
    nn.init.ones_(model.weight)

    for ema in (fresh, trained):
        ema.update(model)

    assert float(fresh.model.weight) == pytest.approx(9 / 11)
    assert float(trained.model.weight) == pytest.approx(0.002)
    assert not any(value.requires_grad for value in fresh.model.parameters())


def test_statistics_that_are_not_finite_are_restored_from_the_ema():
    model = nn.BatchNorm1d(2)
    ema = EMA(model)
    model.running_mean.fill_(torch.nan)

    ema.restore_buffers(model)

    assert model.running_mean.tolist() == [0.0, 0.0]


def test_a_folder_without_a_readable_state_is_named(tmp_path):
    with pytest.raises(StateError, match=f"{tmp_path} contains no {STATE_NAME}"):
        load_state(tmp_path)
    (tmp_path / STATE_NAME).write_bytes(b"half a file")
    with pytest.raises(StateError, match="cannot be read"):
        load_state(tmp_path)
    torch.save({"model": {}}, tmp_path / STATE_NAME)
    with pytest.raises(StateError, match="resume from the checkpoint"):
        load_state(tmp_path)


def test_the_train_log_grows_in_rows_and_columns_and_becomes_an_image(tmp_path):
    log = TrainLog(tmp_path)
    for step in range(40):
        log.write({"minutes": step / 2, "step": step, "loss": 1 / (1 + step)})
    TrainLog(tmp_path).write({"minutes": 20.0, "val_box": 0.123456789})
    log = TrainLog(tmp_path)
    log.write({"minutes": 20.5, "step": 41, "loss": 0.01})

    path = draw_curves(tmp_path, {"losses": ("loss",), "validation": ("val_",), "nothing": ("absent",)})

    rows = read_rows(tmp_path / "log.csv")
    assert len(rows) == 42
    assert rows[40] == {"minutes": "20", "step": "", "loss": "", "val_box": "0.123457"}
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1.5 * image.height, "two panels beside each other"
        assert len(image.convert("RGB").resize((200, 100)).getcolors(20000)) > 20


PROGRESS = TrainProgress(
    0.25,
    12.34,
    431,
    images_per_s=3.21,
    figures={"mask": 0.5, "box_iou_0": 0.6, "loss": 0.987654, "point_iou_0": 0.4, "box_iou_1": 0.65, "gradient": 2.0},
    validation={"val_box": 0.611, "val_box_1": 0.62, "val_auto": 0.4, "val_oracle": 0.7, "val_obeyed_1": 0.5},
)


def test_progress_is_plain_lines_where_no_terminal_is(capsys):
    with train_progress() as show:
        show(TrainProgress(0.0, 0.0, 0, message="training for 50 minutes [on cpu]"))
        show(PROGRESS)

    first, second = capsys.readouterr().err.splitlines()
    assert first == "training for 50 minutes [on cpu]"
    assert second == (
        "12.3 min  step 431  loss 0.988  box 0.600/0.650  point 0.400  3.2 images/s  "
        "validation box 0.611/0.620 auto 0.400"
    )


def test_progress_is_one_live_line_on_a_terminal():
    screen = io.StringIO()

    with train_progress(Console(file=screen, force_terminal=True, width=160)) as show:
        show(TrainProgress(0.0, 0.0, 0, message="training for 50 minutes [on cpu]"))
        show(PROGRESS)

    shown = screen.getvalue()
    assert "training for 50 minutes [on cpu]" in shown
    assert "25%" in shown
    assert "step 431" in shown
    assert "validation box 0.611/0.620" in shown


def test_niceness_holds_for_the_session_that_the_process_leads():
    code = (
        "import os; from model_store.training.loop.process_priority import lower_priority\n"
        "lower_priority(7); lower_priority(3)\n"
        "autogroup = '/proc/self/autogroup'; exists = os.path.exists(autogroup)\n"
        "print(os.nice(0)); print(open(autogroup).read() if exists else '')"
    )
    lines = {
        leads: subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, start_new_session=leads, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for leads in (True, False)
    }

    assert lines[True][0] == lines[False][0] == str(max(7, os.nice(0)))
    if lines[True][1]:
        assert lines[True][1].endswith("nice 7")
        assert lines[False][1] == Path("/proc/self/autogroup").read_text().strip(), "others share that session"
