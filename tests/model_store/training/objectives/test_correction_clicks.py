"""Correcting clicks fall into what is wrong."""

import torch
from support.disc_windows import disc

from model_store.training.objectives.correction_clicks import correction, inner_cells, random_cells

SIDE = 32


def generator():
    return torch.Generator().manual_seed(0)


def test_random_cells_are_drawn_from_the_whole_set_alone():
    candidates = torch.zeros(400, 4, 4, dtype=torch.bool)
    candidates[:, 1, 2] = candidates[:, 3, 0] = True

    cells = random_cells(candidates, generator())

    assert {tuple(cell) for cell in cells.tolist()} == {(2, 1), (0, 3)}
    assert random_cells(torch.zeros(1, 4, 4, dtype=torch.bool)).tolist() == [[0, 0]]


def test_inner_cells_keep_away_from_the_rim():
    patch = disc(12, 12, 5, side=SIDE).bool()
    rim = disc(24, 24, 6, side=SIDE).bool() & ~disc(24, 24, 5, side=SIDE).bool()
    candidates = (patch | rim).expand(500, -1, -1)

    cells = inner_cells(candidates, generator())

    distances = (cells - torch.tensor([12, 12])).float().norm(dim=1)
    assert candidates[0, cells[:, 1], cells[:, 0]].all()
    assert (distances <= 5).float().mean() > 0.99, "a rim is drawn where there is nothing else"
    assert (distances <= 3).float().mean() > 0.8
    assert len({tuple(cell) for cell in cells.tolist()}) > 10, "not always the same one"


def test_inner_cells_take_a_rim_where_there_is_nothing_else():
    candidates = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    candidates[0, 7, 3] = True

    assert inner_cells(candidates, generator()).tolist() == [[3, 7], [0, 0]]


def test_corrections_add_what_lacks_and_take_what_is_too_much():
    truth = disc(16, 16, 6, side=SIDE).bool()
    empty, full = torch.full((SIDE, SIDE), -5.0), torch.full((SIDE, SIDE), 5.0)
    right = torch.where(truth, 5.0, -5.0)

    points, labels = correction(
        torch.stack([empty, full, right]), truth.expand(3, -1, -1), torch.ones(3, SIDE, SIDE), generator()
    )

    assert labels[:, 0].tolist() == [1, 0, -2]
    lacking, too_much = (points[:2, 0] / 4).long().tolist()
    assert truth[lacking[1], lacking[0]]
    assert not truth[too_much[1], too_much[0]]
    assert points[2].tolist() == [[0.0, 0.0]]


def test_less_than_ten_wrong_cells_are_no_correction():
    truth = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    truth[0, 4, :9] = truth[1, 4, :10] = True

    _, labels = correction(torch.full((2, SIDE, SIDE), -5.0), truth, torch.ones(2, SIDE, SIDE), generator())

    assert labels[:, 0].tolist() == [-2, 1]


def test_nothing_outside_the_photo_is_wrong():
    valid = torch.zeros(1, SIDE, SIDE)
    valid[:, :16] = 1.0

    points, labels = correction(
        torch.full((1, SIDE, SIDE), 5.0), torch.zeros(1, SIDE, SIDE, dtype=torch.bool), valid, generator()
    )

    assert labels.tolist() == [[0]]
    assert points[0, 0, 1] < 16 * 4
