"""The prompt loop on annotated masks: what a step computes, and that a model learns by it."""

import pytest
import torch
from support.disc_windows import disc_windows

from model_store.training.initial import initial_model
from model_store.training.objectives.annotated import AnnotatedLoop, annotated_step
from model_store.training.objectives.mask_losses import LossWeights

LOOP = AnnotatedLoop()


@pytest.fixture
def trained_model():
    return initial_model(0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(model, rounds, *, batch=None, loop=LOOP):
    return annotated_step(model, batch or disc_windows((20, 30)), loop, generator(), rounds=rounds)


def without_effect(name):
    """A key's bias adds the same to all scores of a row, which softmax takes out again."""
    return name.endswith("token_to_image.k_proj.bias")


def test_every_trained_part_gets_a_gradient(trained_model):
    step(trained_model, (False, True)).total.backward()

    without = [name for name, value in trained_model.named_parameters() if value.grad is None]
    assert [name for name in without if not without_effect(name)] == []


def test_frozen_parameters_get_no_gradient(trained_model):
    trained_model.prompt_encoder.requires_grad_(False)
    trained_model.image_encoder.features.requires_grad_(False)

    step(trained_model, (True,)).total.backward()

    with_gradient = {name for name, value in trained_model.named_parameters() if value.grad is not None}
    free = {name for name, value in trained_model.named_parameters() if value.requires_grad}
    assert with_gradient == {name for name in free if not without_effect(name)}
    assert not any(name.startswith(("prompt_encoder.", "image_encoder.features.")) for name in with_gradient)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradients_pass_by_pass_are_those_of_the_mean_loss(bfloat16, trained_model):
    found = []
    for backward in (False, True):
        trained_model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            losses = annotated_step(
                trained_model, disc_windows((20, 30)), LOOP, generator(), rounds=(False, True), backward=backward
            )
        if not backward:
            losses.total.backward()
        found.append((losses, {name: value.grad for name, value in trained_model.named_parameters()}))
    (whole, expected), (by_pass, gradients) = found

    assert torch.equal(whole.total, by_pass.total)
    assert not by_pass.total.requires_grad
    total = torch.stack([value.norm() for value in expected.values() if value is not None]).norm()
    for name, gradient in gradients.items():
        if not without_effect(
            name
        ):  # in bfloat16 the encoder gets the gradients of its output rounded once, not thrice
            assert (gradient - expected[name]).norm() < (1e-2 if bfloat16 else 1e-5) * total, name


def test_the_parts_report_every_pass(trained_model):
    first = step(trained_model, ()).parts
    later = step(trained_model, (False, True, False)).parts

    passes = {f"{kind}_iou_{number}" for kind in ("box", "point") for number in range(4)}
    obeyed = {f"obeyed_{number}" for number in (1, 2, 3)}
    assert set(first) == {"mask", "ambiguous", "iou_error", "box_iou_0", "point_iou_0"}
    assert set(later) == {"mask", "ambiguous", "iou_error", "click"} | passes | obeyed
    assert not any(value.requires_grad for value in later.values())
    assert all(0 <= float(later[name]) <= 1 for name in passes | obeyed)


def test_the_loss_is_the_mean_of_all_passes():
    """A model with constant outputs has the same loss in each pass, but for the weights of later ones."""
    model = initial_model(0).eval()
    with torch.no_grad():
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.zero_()  # masks do not depend on the prompt
        model.mask_decoder.iou_prediction_head.layers[-1].weight.zero_()
        loop = AnnotatedLoop(weights=LossWeights(ambiguous=0.25, later_ambiguous=0.25, click=0.0))

        totals = [float(step(model, rounds, loop=loop).total) for rounds in ((), (False,), (False, True))]

    assert totals[1:] == pytest.approx([totals[0]] * 2, rel=1e-2)


def test_the_earlier_mask_comes_along_where_it_is_to(trained_model):
    trained_model.eval()
    used = []
    trained_model.prompt_encoder.mask_downscaling.register_forward_hook(lambda *_: used.append(True))

    with torch.no_grad():
        step(trained_model, (False, False))
        without = len(used)
        step(trained_model, (False, True, True))

    assert (without, len(used)) == (0, 2)


def test_a_batch_of_several_positions_and_photos_gives_the_mean_of_each(trained_model):
    trained_model.eval()
    origins = [(0, 0), (20, 30)]

    with torch.no_grad():
        together = step(trained_model, (), batch=disc_windows(*origins)).total
        alone = [step(trained_model, (), batch=disc_windows(origin)).total for origin in origins]

    assert float(alone[0]) != pytest.approx(float(alone[1]), rel=1e-6), "the position in the frame matters"
    assert float(together) == pytest.approx(float(sum(alone)) / 2, rel=1e-5)


def test_a_step_in_bfloat16_is_near_that_in_float32(trained_model):
    trained_model.eval()

    with torch.no_grad():
        expected = step(trained_model, ()).total
        with torch.autocast("cpu", torch.bfloat16):
            found = step(trained_model, ()).total

    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=0.05)


def test_rounds_are_drawn_by_their_shares_and_alike_in_all_processes():
    loop = AnnotatedLoop(corrections=(0.5, 0.0, 0.25, 0.25), mask_prompt=0.5)

    first, second = (generator(7), generator(7))
    drawn = [loop.draw_rounds(first) for _ in range(2000)]

    assert drawn == [loop.draw_rounds(second) for _ in range(2000)]
    counts = [sum(len(rounds) == number for rounds in drawn) / 2000 for number in range(5)]
    assert counts == pytest.approx([0.5, 0.0, 0.25, 0.25, 0.0], abs=0.04)
    masks = [uses_mask for rounds in drawn for uses_mask in rounds]
    assert sum(masks) / len(masks) == pytest.approx(0.5, abs=0.05)
    assert any(len(set(rounds)) == 2 for rounds in drawn), "with and without a mask in one step"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corrections": (0.5, 0.2)}, "sum to 1"),
        ({"corrections": (1.5, -0.5)}, "sum to 1"),
        ({"corrections": ()}, "sum to 1"),
        ({"mask_prompt": 1.1}, "mask_prompt is a share"),
        ({"anywhere": -0.1}, "anywhere is a share"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnnotatedLoop(**settings)


def test_a_model_overfits_one_window(trained_model):
    optimiser = torch.optim.AdamW(trained_model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    drawn, batch, rows = generator(), disc_windows((20, 30)), []
    trained_model.train()

    for _ in range(32):
        losses = annotated_step(trained_model, batch, LOOP, drawn, rounds=(False,))
        optimiser.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(trained_model.parameters(), 1.0)
        optimiser.step()
        rows.append({name: float(value) for name, value in {**losses.parts, "total": losses.total.detach()}.items()})

    best = min(rows, key=lambda row: row["total"])
    assert best["total"] < 0.5 * rows[0]["total"]
    # A mask with both discs has an IoU of 0.5 with each.
    assert best["box_iou_0"] > 0.6
    assert best["point_iou_0"] > 0.6
