"""Finding all objects in the page: progress, hover, taking objects, and what happens if the service cannot."""

import json
import re

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco
from support.browser import rules_broken
from support.noise_images import noise_file
from support.ranked_model import with_everything
from support.redis_server import wait_until
from support.service_process import ServiceProcess

from service.mask_rules import EverythingDefaults
from service.settings import BUNDLED_MODEL

SAMPLE = "dogs.jpg"
EVERYTHING = "/segment/everything"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def quick_url(tmp_path_factory):
    """The service with the bundled model and a coarse grid of points, whose masks nearly all count as objects."""
    defaults = EverythingDefaults(
        points_per_side=5, pred_iou_thresh=0.5, stability_score_thresh=0.5, quality="stability"
    )
    model = with_everything(BUNDLED_MODEL, tmp_path_factory.mktemp("quick") / "model", defaults)
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(model)}) as service:
        yield f"{service.url}/"


@pytest.fixture
def found(visit, quick_url):
    """A sample image whose objects were found, in the page."""
    playground = visit(url=quick_url)
    playground.open_sample(SAMPLE)
    playground.page.click("#find-all")
    playground.page.locator("#found").wait_for()
    return playground


@pytest.fixture
def records(quick_url):
    """The masks that the service finds in the sample image, as records with `pixels` (H, W) bool."""

    def ask(playground):
        (request,) = playground.sent("POST", EVERYTHING)
        body = json.loads(request.post_data)
        response = httpx.post(f"{quick_url}segment/everything", json=body, timeout=60, trust_env=False)
        masks = response.json()["masks"]
        return [{**mask, "pixels": coco.decode(mask["segmentation"]).astype(bool)} for mask in masks]

    return ask


def inside(records, count):
    """A position x, y of the image that lies in at least `count` masks, and those masks, smallest first."""
    depth = sum(record["pixels"].astype(int) for record in records)
    deep = depth >= count
    # The middle of a pixel whose neighbours lie in the same masks: the page's positions are to a tenth of a pixel.
    for y, x in np.argwhere(deep):
        around = [record["pixels"][y - 1 : y + 2, x - 1 : x + 2] for record in records]
        if (
            2 < x < deep.shape[1] - 3
            and 2 < y < deep.shape[0] - 3
            and all(one.all() or not one.any() for one in around)
        ):
            masks = [record for record in records if record["pixels"][y, x]]
            return (x + 0.5, y + 0.5), sorted(masks, key=lambda record: record["area"])
    raise AssertionError(f"no position lies in {count} masks")


def exported(playground):
    """The masks of the page's objects, (H, W) bool each."""
    dataset = json.loads(playground.save("#save-coco-rle"))
    size = dataset["images"][0]["height"], dataset["images"][0]["width"]
    rles = [coco.frPyObjects(annotation["segmentation"], *size) for annotation in dataset["annotations"]]
    return [coco.decode(rle).astype(bool) for rle in rles]


def point_at(playground, position):
    """Move the pointer to a position of the image, and return it as a part of the stage."""
    place = playground.place(*position)
    playground.page.mouse.move(*playground.at(*place))
    return place


def test_the_found_objects_are_shown_and_counted(found, records):
    answered = records(found)

    assert found.page.inner_text("#found-count") == f"{len(answered)} objects found."
    wait_until(lambda: found.drawn() > 1000, timeout_s=30, what="the found objects were not drawn")
    assert found.page.locator("#status", has_text=f"{len(answered)} objects found.").count() == 1
    assert found.page.inner_text("#hint") == "Click a found object to add it."
    found.page.click("#found-done")
    assert found.page.inner_text("#hint").startswith("Click an object")


def test_hovering_shows_a_found_object_without_a_request(found, records):
    position, _ = inside(records(found), 1)
    wait_until(lambda: found.drawn() > 1000, timeout_s=30, what="the found objects were not drawn")
    before = len(found.segment_bodies())

    seen = set()
    for shift in range(5):
        point_at(found, (position[0] + shift / 10, position[1]))
        found.page.evaluate("() => new Promise(requestAnimationFrame)")
        seen.add(found.page.locator("#upper").screenshot())
    point_at(found, position)
    with_hover = found.page.locator("#upper").screenshot()
    found.page.mouse.move(1, 1)
    found.page.evaluate("() => new Promise(requestAnimationFrame)")

    assert with_hover != found.page.locator("#upper").screenshot()
    assert len(found.segment_bodies()) == before


def test_a_click_takes_the_smallest_object_and_tab_the_next_larger_one(found, records):
    position, masks = inside(records(found), 2)

    found.press(*point_at(found, position))
    (smallest,) = exported(found)
    found.page.focus("#upper")  # the export has taken the focus
    point_at(found, (position[0] + 0.1, position[1]))
    found.page.keyboard.press("Tab")
    found.page.mouse.down()
    found.page.mouse.up()
    both = exported(found)
    found.press(*point_at(found, position))  # it is taken already, and is selected

    assert np.array_equal(smallest, masks[0]["pixels"])
    assert np.array_equal(both[1], masks[1]["pixels"])
    assert found.page.locator("#objects li").count() == 2
    assert "is-selected" in found.page.locator("#objects li").first.get_attribute("class")
    assert all("everything" in request.url for request in found.sent("POST", "/segment"))


def test_all_objects_are_added_at_once_and_removed_by_one_undo(found, records):
    masks = records(found)

    found.page.click("#take-all")
    found.says(f"Added {len(masks)} objects")
    names = found.page.locator(".object-name").evaluate_all("(all) => all.map(({ value }) => value)")
    assert names == [f"Object {number}" for number in range(1, len(masks) + 1)]
    added = exported(found)
    found.page.keyboard.press("Control+z")

    assert len(added) == len(masks)
    assert all(np.array_equal(one, record["pixels"]) for one, record in zip(added, masks, strict=True))
    assert found.page.locator("#objects li").count() == 1
    assert found.page.is_disabled("#undo")


def test_after_done_the_result_stays_and_an_empty_object_takes_from_it(found, records):
    position, masks = inside(records(found), 1)

    found.page.click("#found-done")
    wait_until(lambda: found.drawn() == 0, timeout_s=30, what="the found objects stayed")
    found.press(*point_at(found, position))
    (taken,) = exported(found)
    found.page.keyboard.press("f")

    assert np.array_equal(taken, masks[0]["pixels"])
    assert found.page.locator("#found").is_visible()
    assert len(found.sent("POST", EVERYTHING)) == 1


def test_a_point_on_a_taken_object_refines_it(found, records):
    position, _ = inside(records(found), 1)
    found.press(*point_at(found, position))
    found.page.click("#found-done")

    found.click(*found.place(*position), button="right")

    (prompt,) = found.segment_bodies()[-1]["prompts"]
    assert [point["label"] for point in prompt["points"]] == [0]
    assert set(prompt["mask"]) == {"size", "counts"}


def test_the_keyboard_alone_takes_a_found_object(found):
    assert found.page.evaluate("() => document.activeElement.id") == "upper"
    for _ in range(40):
        found.page.keyboard.press("ArrowDown")
        found.page.keyboard.press("Enter")
        if not found.page.is_disabled("#save-mask"):
            break

    assert len(exported(found)) == 1


def test_a_search_can_be_cancelled(visit, quick_url):
    playground = visit(url=quick_url)
    playground.open_sample(SAMPLE)
    held = []
    playground.page.route(f"**{EVERYTHING}", lambda route: held.append(route))  # noqa: PLW0108 - playwright marks it

    playground.page.click("#find-all")
    playground.page.click("#finding-cancel")

    playground.page.locator("#find-all:enabled").wait_for()
    assert not playground.page.locator("#notice").is_visible()
    assert len(held) == 1


def test_leaving_an_image_says_that_its_search_stopped(visit, quick_url, tmp_path, next_seed):
    playground = visit(url=quick_url)
    paths = [tmp_path / f"{number}.png" for number in (1, 2)]
    for number, path in enumerate(paths):
        path.write_bytes(noise_file((120, 160), next_seed + number))
    playground.open_files(paths)
    playground.wait_ready()
    playground.page.route(f"**{EVERYTHING}", lambda route: None)

    playground.page.click("#find-all")
    playground.page.locator("#finding:not([hidden])").wait_for()
    playground.page.keyboard.press("PageDown")

    playground.page.locator("#toast", has_text="search for objects was stopped").wait_for()


def test_a_service_without_the_route_is_named(visit, quick_url):
    playground = visit(url=quick_url)
    playground.open_sample(SAMPLE)
    playground.page.route(
        f"**{EVERYTHING}", lambda route: route.continue_(url=route.request.url.replace("every", "no"))
    )

    playground.page.click("#find-all")

    playground.page.locator("#notice", has_text="cannot find all objects").wait_for()
    assert playground.page.is_enabled("#find-all")
    # The browser itself writes down that a request was answered 404.
    assert all("404" in error for error in playground.errors)
    playground.errors.clear()


def test_a_search_that_broke_off_can_be_repeated(visit, quick_url):
    playground = visit(url=quick_url)
    playground.open_sample(SAMPLE)
    playground.page.route(f"**{EVERYTHING}", lambda route: route.abort(), times=1)
    playground.page.click("#find-all")
    playground.page.locator("#notice", has_text=re.compile("does not answer")).wait_for()

    playground.page.locator("#found").wait_for()  # by itself, as soon as the service answers

    playground.errors.clear()


def test_the_found_objects_follow_the_rules(found, axe):
    assert rules_broken(found, axe) == []


@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 800}}, PHONE])
def test_the_texts_beside_the_result_are_whole_sentences(visit, quick_url, options):
    playground = visit(url=quick_url, **options)
    playground.open_sample(SAMPLE)
    playground.page.click("#find-all")
    playground.page.locator("#found").wait_for()

    text = " ".join(playground.page.inner_text("#found > p").split())

    assert re.fullmatch(r"\d+ objects found. Click one to add it.( Tab shows a larger one at the same place.)?", text)


def test_coco_is_in_view_when_all_objects_are_added(visit, quick_url):
    playground = visit(url=quick_url, viewport={"width": 1280, "height": 800})
    playground.open_sample(SAMPLE)
    playground.page.click("#find-all")
    playground.page.click("#take-all")

    assert playground.page.locator("#objects").evaluate("(list) => list.scrollHeight > list.clientHeight")
    panel, button = (playground.page.locator(each).bounding_box() for each in (".panel", "#save-coco"))
    assert button["y"] + button["height"] <= panel["y"] + panel["height"]
