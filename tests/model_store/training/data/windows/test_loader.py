"""Batches of windows in the order of steps depend only on seed, step and rank."""

import pytest
import torch
from support.ellipse_photos import write_ellipse_photos

from model_store.training.data.annotations import read_annotations
from model_store.training.data.windows.augmentation import PLAIN
from model_store.training.data.windows.dataset import WindowDataset, parse_windows
from model_store.training.data.windows.loader import WindowLoader


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return read_annotations(write_ellipse_photos(tmp_path_factory.mktemp("discs") / "data", 20, seed=0))


def a_loader(discs, **options):
    sizes = parse_windows("64:2:0.7,128:1:0.3")
    datasets = [WindowDataset(discs, size, boxes=1, points=1, augmentation=PLAIN) for size in sizes]
    return WindowLoader(datasets, seed=0, **options)


def sizes_and_frames(loader, count, first_step=0, progress_at=lambda _step: 0.0):
    batches = loader.batches(first_step, progress_at)
    return [next(batches).frames for _ in range(count)]


def test_all_processes_take_windows_of_the_same_size_but_not_the_same_ones(discs):
    first, second = (sizes_and_frames(a_loader(discs, rank=rank), 12) for rank in (0, 1))

    assert [frames.shape for frames in first] == [frames.shape for frames in second]
    assert len({frames.shape for frames in first}) == 2
    assert not any(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_windows_do_not_depend_on_who_makes_them_and_from_which_step_on(discs):
    here = sizes_and_frames(a_loader(discs), 7)

    by_workers = sizes_and_frames(a_loader(discs, workers=2), 7)
    later = sizes_and_frames(a_loader(discs), 3, first_step=4)

    assert all(torch.equal(*pair) for pair in zip(here, by_workers, strict=True))
    assert all(torch.equal(*pair) for pair in zip(here[4:], later, strict=True))


def test_towards_the_end_the_first_size_is_left_out(discs):
    loader = a_loader(discs, end_share=0.5)

    sides = [frames.shape[-1] for frames in sizes_and_frames(loader, 20, progress_at=lambda step: step / 20)]

    assert 64 in sides[:10]
    assert set(sides[10:]) == {128}
