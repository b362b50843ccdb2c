"""Sharper here: clicks in a part of a large image, embedded by itself."""

from pathlib import Path

import pytest
from support.browser import Playground
from support.noise_images import noise_file

SIZE = (1800, 2400)
BUTTON = "#sharper"


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of more pixels than the model sees."""
    path = tmp_path_factory.mktemp("images") / "large.png"
    path.write_bytes(noise_file(SIZE, 77))
    return path


def zoom_in(playground: Playground, times: int = 5) -> None:
    playground.page.locator("#upper").focus()
    for _ in range(times):
        playground.page.keyboard.press("+")


def sharpen(playground: Playground) -> None:
    playground.page.locator(BUTTON, has_text="Sharper here").click()
    playground.says("more detail")


def image_ids(playground: Playground) -> list[str]:
    """The images of all clicks, without previews."""
    return [body["image_hash"] for body in playground.segment_bodies() if body.get("cleanup") == "auto"]


def test_clicks_in_a_sharper_region_are_answered_by_it_and_others_by_the_image(playground, large):
    playground.open_file(large)
    assert playground.page.locator(BUTTON).is_hidden()

    zoom_in(playground)
    assert "s" in (playground.page.locator(BUTTON).text_content() or "")
    before = playground.drawn()
    sharpen(playground)
    assert playground.page.locator(BUTTON).is_hidden()  # what is in view is sharp already
    assert playground.drawn() > before  # the outline

    playground.click(0.5, 0.5)
    inside = playground.segment_bodies()[-1]
    whole, _, region = inside["image_hash"].partition("~region=")
    x0, y0, x1, y1 = map(int, region.split(","))
    assert 3 * max(x1 - x0, y1 - y0) <= 1.2 * max(SIZE)
    point = inside["prompts"][0]["points"][0]
    assert x0 < point["x"] < x1
    assert y0 < point["y"] < y1
    playground.unfold("#code-curl")
    playground.page.locator("#code-curl", has_text=inside["image_hash"]).wait_for()

    playground.page.click("#zoom")  # the whole image
    playground.page.click("#add-object")
    playground.click(*playground.place(40, 40))
    assert playground.segment_bodies()[-1]["image_hash"] == whole


def test_undo_and_redo_ask_nothing_anew_and_another_image_has_no_region(playground, large, small):
    playground.open_file(large)
    zoom_in(playground)
    sharpen(playground)
    playground.click(0.5, 0.5)
    count = len(playground.segment_bodies())

    playground.page.click("#undo")
    playground.page.click("#redo")
    playground.page.locator("#save-cut-out:enabled").wait_for()
    assert len([body for body in playground.segment_bodies()[count:] if "points" not in body["prompts"][0]]) == 0

    playground.open_file(small)
    playground.click(0.5, 0.5)
    assert "~region" not in playground.segment_bodies()[-1]["image_hash"]
    zoom_in(playground)
    assert playground.page.locator(BUTTON).is_hidden()  # the model sees all pixels of it


def test_a_region_that_cannot_be_embedded_is_reported_and_can_be_repeated(playground, tmp_path, next_seed):
    image = tmp_path / "new.png"  # the service has no region of it
    image.write_bytes(noise_file(SIZE, next_seed))
    playground.open_file(image)
    zoom_in(playground)
    playground.page.route("**/embed?*region*", lambda route: route.abort())
    playground.page.locator(BUTTON, has_text="Sharper here").click()
    playground.page.locator("#notice:not([hidden])").wait_for()
    playground.page.unroute("**/embed?*region*")
    playground.errors.clear()  # of the request that failed

    sharpen(playground)

    playground.click(0.5, 0.5)
    assert "~region" in playground.segment_bodies()[-1]["image_hash"]


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, {"width": 390, "height": 844}])
def test_the_button_fits_into_the_stage(visit, large, viewport):
    playground = visit(viewport=viewport)
    playground.open_file(large)
    zoom_in(playground)
    box = playground.page.locator(BUTTON).bounding_box()
    stage = playground.page.locator("#upper").bounding_box()

    assert box is not None
    assert stage is not None
    assert box["x"] >= stage["x"]
    assert box["y"] >= stage["y"]
    assert box["x"] + box["width"] <= stage["x"] + stage["width"]
