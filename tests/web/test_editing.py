"""Editing in the page in a real browser: points, boxes, brush and eraser, by mouse, keys and fingers."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.browser import rules_broken
from support.redis_server import wait_until

MIDDLE = (0.5, 0.45)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
SIZE = (240, 320)  # of the image `small`


def saved_mask(playground):
    """The pixels (H, W) of all masks, as the page saves them."""
    return np.asarray(Image.open(io.BytesIO(playground.save("#save-mask"))).convert("L")) > 127


def last_prompt(playground):
    """The prompt of the newest request."""
    return playground.segment_bodies()[-1]["prompts"][0]


def place_of(playground, position):
    """The part of the stage where a point of a request is shown."""
    return playground.place(position["x"], position["y"])


def drag(playground, start, end, *, count=1):
    """Drag, and wait for the mask that follows."""
    clicks = playground.clicks
    playground.drag(start, end)
    playground.wait_for_clicks(clicks + count)


def disc(middle, radius):
    """The pixels (H, W) whose middles lie within a circle."""
    rows, columns = np.indices(SIZE)
    return np.hypot(columns + 0.5 - middle[0], rows + 0.5 - middle[1]) <= radius


def press_key(playground, key, *, times=1):
    """Press and release a key some times."""
    for _ in range(times):
        playground.page.keyboard.press(key)


def test_a_dragged_point_gets_another_mask_in_one_undo_step(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.click(0.55, 0.55)
    before, (first, second) = saved_mask(playground), last_prompt(playground)["points"]

    drag(playground, place_of(playground, first), (0.42, 0.3))

    prompt = last_prompt(playground)
    assert "mask_id" not in prompt  # it would hold the old place
    assert prompt["points"][1] == second
    assert place_of(playground, prompt["points"][0]) == pytest.approx((0.42, 0.3), abs=0.01)
    after, count = saved_mask(playground), len(playground.segment_bodies())
    assert not np.array_equal(after, before)
    playground.page.click("#undo")
    assert np.array_equal(saved_mask(playground), before)
    playground.page.click("#redo")
    assert np.array_equal(saved_mask(playground), after)
    assert len(playground.segment_bodies()) == count


def test_the_mask_follows_a_drag_before_the_button_is_released(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    before, count = playground.drawn(), len(playground.segment_bodies())
    mouse = playground.page.mouse
    mouse.move(*playground.at(*place_of(playground, last_prompt(playground)["points"][0])))
    mouse.down()

    for step in range(20):
        mouse.move(*playground.at(0.5 - step / 100, 0.4))
    wait_until(lambda: playground.drawn() != before, timeout_s=30, what="no preview was drawn")

    assert playground.clicks == 1
    assert 1 <= len(playground.segment_bodies()) - count < 20
    playground.page.keyboard.press("Escape")  # the drag is dropped
    mouse.up()
    wait_until(lambda: playground.drawn() == before, timeout_s=30, what="the drag was not dropped")
    assert playground.clicks == 1


def test_a_clicked_point_is_selected_switched_and_removed(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.click(0.6, 0.55)
    second = place_of(playground, last_prompt(playground)["points"][1])

    playground.press(*second)
    playground.says("Point 2 of 2, include, selected")
    playground.page.keyboard.press("x")
    playground.wait_for_clicks(3)
    labels = [point["label"] for point in last_prompt(playground)["points"]]
    playground.press(*second, button="right")
    playground.wait_for_clicks(4)
    labels_again = [point["label"] for point in last_prompt(playground)["points"]]
    playground.press(*second)
    assert playground.page.locator("#handle-bar").is_hidden()  # it was selected, and is no longer
    playground.press(*second)
    playground.page.keyboard.press("Delete")
    playground.says("Point removed")
    playground.wait_for_clicks(5)

    assert (labels, labels_again) == ([1, 0], [1, 1])
    assert len(last_prompt(playground)["points"]) == 1
    assert playground.page.locator("#handle-bar").is_hidden()
    playground.page.keyboard.press("Delete")  # nothing is selected now: the whole prompt goes
    assert playground.page.is_disabled("#save-mask")


def test_the_bar_beside_a_point_switches_and_removes_it(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.press(*place_of(playground, last_prompt(playground)["points"][0]))

    playground.page.click("#handle-bar >> [aria-label='Make it an exclude point']")
    playground.wait_for_clicks(2)
    labels = [point["label"] for point in last_prompt(playground)["points"]]
    playground.page.click("#handle-bar >> [aria-label='Remove the point']")

    assert labels == [0]
    assert playground.page.is_disabled("#save-mask")
    assert playground.page.evaluate("() => document.activeElement.id") == "upper"


def test_two_clicks_of_the_box_tool_make_a_box(playground, small):
    playground.open_file(small)
    playground.page.keyboard.press("r")
    assert playground.page.get_attribute("#box", "aria-pressed") == "true"

    playground.press(0.3, 0.3)
    playground.page.mouse.move(*playground.at(0.5, 0.5))
    wait_until(lambda: playground.drawn() > 200, timeout_s=30, what="no box was drawn")
    playground.page.keyboard.press("Escape")
    wait_until(lambda: playground.drawn() == 0, timeout_s=30, what="Escape left the box")
    playground.press(0.65, 0.7)
    playground.click(0.3, 0.3)

    prompt = last_prompt(playground)
    assert "points" not in prompt
    assert playground.place(*prompt["box"][:2]) == pytest.approx((0.3, 0.3), abs=0.01)
    assert playground.place(*prompt["box"][2:]) == pytest.approx((0.65, 0.7), abs=0.01)


def test_a_box_is_resized_moved_and_clicked_into(playground, small):
    playground.open_file(small)
    playground.drag((0.35, 0.3), (0.6, 0.6))
    playground.wait_for_clicks(1)
    first, mask = last_prompt(playground)["box"], saved_mask(playground)

    drag(playground, (0.6, 0.6), (0.65, 0.7))
    resized = last_prompt(playground)["box"]
    drag(playground, (0.6, 0.4), (0.55, 0.4))
    moved = last_prompt(playground)["box"]
    playground.click(0.45, 0.5)
    prompt = last_prompt(playground)
    for _ in range(3):
        playground.page.click("#undo")

    assert resized[:2] == first[:2]
    assert playground.place(*resized[2:]) == pytest.approx((0.65, 0.7), abs=0.01)
    assert moved[0] < resized[0] - 5
    assert np.subtract(moved[2:], moved[:2]) == pytest.approx(np.subtract(resized[2:], resized[:2]), abs=0.11)
    assert (prompt["box"], len(prompt["points"])) == (moved, 1)
    assert np.array_equal(saved_mask(playground), mask)


def test_a_selected_box_is_removed_and_its_points_stay(playground, small):
    playground.open_file(small)
    playground.drag((0.35, 0.3), (0.6, 0.6))
    playground.wait_for_clicks(1)
    playground.click(0.45, 0.45)

    playground.press(0.35, 0.3)  # its corner
    playground.says("Box, selected")
    playground.page.keyboard.press("Backspace")
    playground.wait_for_clicks(3)

    assert set(last_prompt(playground)) == {"points"}


def test_keys_alone_move_and_remove_points_and_boxes(playground, small):
    playground.open_file(small)
    playground.page.keyboard.press("r")
    for key in ("ArrowLeft", "ArrowLeft", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        playground.page.keyboard.press(key)
    playground.wait_for_clicks(1)
    playground.page.keyboard.press("a")
    press_key(playground, "ArrowRight", times=2)
    playground.page.keyboard.press("Enter")
    playground.wait_for_clicks(2)
    before = last_prompt(playground)

    playground.page.keyboard.press(".")
    playground.says("Point 1 of 1, include, selected")
    playground.page.keyboard.down("ArrowDown")
    playground.page.keyboard.down("ArrowDown")  # the key repeats
    playground.page.keyboard.up("ArrowDown")
    playground.says("Point 1 of 1, include, moved")
    playground.wait_for_clicks(3)
    moved = last_prompt(playground)
    for key, says in ((".", "Box, selected"), (".", "Box, top left corner"), (",", "Box, selected")):
        playground.page.keyboard.press(key)
        playground.says(says)
    playground.page.keyboard.press("Delete")
    playground.wait_for_clicks(4)

    assert moved["points"][0]["y"] > before["points"][0]["y"]
    assert moved["box"] == before["box"]
    assert set(last_prompt(playground)) == {"points"}
    playground.page.keyboard.press("Control+z")
    playground.page.keyboard.press("Control+z")  # both steps of the key are one
    playground.page.keyboard.press(".")
    playground.says("Point 1 of 1, include, selected")
    playground.page.keyboard.press("Escape")
    assert playground.page.locator("#handle-bar").is_hidden()
    assert playground.page.evaluate("() => document.activeElement.id") == "upper"
    playground.page.keyboard.press("Escape")
    assert playground.page.evaluate("() => document.activeElement.id") != "upper"


def touch(phone):
    """Send touches of one finger or several: kind, then places of the stage."""
    session = phone.page.context.new_cdp_session(phone.page)

    def send(kind, *places):
        points = [dict(zip("xy", phone.at(*place), strict=True), id=i) for i, place in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return send


def test_a_finger_drags_switches_and_removes_a_point(visit, small):
    phone = visit(**PHONE)
    phone.open_file(small)
    send = touch(phone)
    phone.page.touchscreen.tap(*phone.at(*MIDDLE))
    phone.wait_for_clicks(1)
    x, y = place_of(phone, last_prompt(phone)["points"][0])
    beside = x + 18 / phone.page.locator("#upper").bounding_box()["width"]  # within the 44 pixels of a finger

    send("touchStart", (beside, y))
    for step in range(1, 5):
        send("touchMove", (beside - 0.04 * step, y))
    send("touchEnd")
    phone.wait_for_clicks(2)
    moved = place_of(phone, last_prompt(phone)["points"][0])
    send("touchStart", moved)
    phone.wait_for_clicks(3)  # a long press, while the finger is still down
    send("touchEnd")
    labels = [point["label"] for point in last_prompt(phone)["points"]]
    bar = phone.page.locator("#remove-handle")  # the point is selected now
    bar.wait_for()
    box = bar.bounding_box()
    bar.tap()

    assert moved == pytest.approx((x - 0.16, y), abs=0.01)
    assert labels == [0]
    assert min(box["width"], box["height"]) >= 44
    assert phone.page.is_disabled("#save-mask")


def test_a_painted_mask_is_exported_as_it_was_painted(playground, small):
    playground.open_file(small)
    count = len(playground.segment_bodies())
    playground.page.keyboard.press("b")
    playground.page.locator("#brush-size").fill("50")
    diameter = int(playground.page.text_content("#brush-size-text").split()[0])

    playground.press(*playground.place(100, 80))
    painted = saved_mask(playground)
    dataset = json.loads(playground.save("#save-coco-rle"))
    playground.page.keyboard.press("e")
    playground.press(*playground.place(110, 80))
    erased = saved_mask(playground)

    (annotation,) = dataset["annotations"]
    rle = coco.frPyObjects(annotation["segmentation"], *SIZE)
    assert diameter > 8
    assert np.array_equal(coco.decode(rle).astype(bool), painted)
    wanted = disc((100, 80), diameter / 2)
    # The pointer is at a whole pixel of the screen, so the middle is not exactly at 100, 80.
    assert np.count_nonzero(painted ^ wanted) < 0.15 * wanted.sum()
    assert np.count_nonzero(erased ^ (wanted & ~disc((110, 80), diameter / 2))) < 0.15 * wanted.sum()
    assert len(playground.segment_bodies()) == count
    playground.page.click("#undo")
    assert np.array_equal(saved_mask(playground), painted)
    playground.page.click("#undo")
    assert playground.page.is_disabled("#save-mask")


def test_a_stroke_mends_the_mask_of_a_click_in_one_step(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    before = saved_mask(playground)
    playground.page.keyboard.press("b")

    playground.drag(playground.place(20, 20), playground.place(300, 220))

    after = saved_mask(playground)
    assert np.all(after[before])
    assert all(after[20 + step * 20, 20 + step * 28] for step in range(11))
    playground.drag(playground.place(20, 20), playground.place(300, 220), button="right")  # erases
    erased = saved_mask(playground)
    assert not any(erased[20 + step * 20, 20 + step * 28] for step in range(11))
    playground.page.click("#undo")
    playground.page.click("#undo")
    assert np.array_equal(saved_mask(playground), before)


def test_refine_lets_the_model_smooth_a_painted_mask(playground, small):
    playground.open_file(small)
    playground.page.keyboard.press("b")
    assert playground.page.is_disabled("#refine")
    playground.drag(playground.place(80, 80), playground.place(200, 140))
    painted = saved_mask(playground)

    playground.page.click("#refine")
    playground.wait_for_clicks(1)

    prompt = last_prompt(playground)
    refined = saved_mask(playground)
    assert set(prompt) == {"mask"}
    assert np.array_equal(coco.decode(prompt["mask"]).astype(bool), painted)
    assert playground.page.is_disabled("#refine")
    assert 0 < np.count_nonzero(refined ^ painted) < 0.2 * painted.sum()
    playground.page.click("#undo")
    assert np.array_equal(saved_mask(playground), painted)
    playground.page.keyboard.press("a")
    playground.click(*playground.place(140, 110))
    assert np.array_equal(coco.decode(last_prompt(playground)["mask"]).astype(bool), painted)


def test_the_brush_keeps_its_size_on_the_image_at_every_zoom(playground, small):
    playground.open_file(small)
    playground.page.keyboard.press("b")
    default = playground.page.text_content("#brush-size-text")
    press_key(playground, "]", times=6)
    size = playground.page.text_content("#brush-size-text")

    def circle():
        playground.page.mouse.move(*playground.at(*MIDDLE))
        playground.page.mouse.move(*playground.at(0.51, 0.45))
        wait_until(lambda: playground.drawn() > 0, timeout_s=30, what="no circle was drawn")
        return playground.page.evaluate(
            """() => {
                const canvas = document.getElementById("upper");
                const { width, height } = canvas;
                const copy = new OffscreenCanvas(width, height).getContext("2d");
                copy.drawImage(canvas, 0, 0);
                const pixels = copy.getImageData(0, 0, width, height).data;
                const columns = new Set();
                for (let i = 3; i < pixels.length; i += 4) if (pixels[i] > 0) columns.add(((i - 3) / 4) % width);
                return Math.max(...columns) - Math.min(...columns);
            }"""
        )

    before = circle() / json.loads(playground.page.get_attribute("#upper", "data-view"))["scale"]
    playground.page.mouse.wheel(0, -500)
    after = circle() / json.loads(playground.page.get_attribute("#upper", "data-view"))["scale"]

    pixels = int(re.match(r"\d+", size).group())
    assert int(re.match(r"\d+", default).group()) < pixels
    assert before == pytest.approx(pixels, abs=2)
    assert after == pytest.approx(pixels, abs=2)


def test_a_finger_paints_and_two_fingers_zoom(visit, small):
    phone = visit(**PHONE)
    phone.open_file(small)
    phone.page.evaluate("() => document.getElementById('brush').click()")
    fitted, send = phone.page.text_content("#zoom"), touch(phone)

    send("touchStart", (0.5, 0.5))
    send("touchStart", (0.5, 0.5), (0.6, 0.6))
    send("touchMove", (0.3, 0.3), (0.8, 0.8))
    send("touchEnd")
    zoomed = phone.page.text_content("#zoom")
    is_empty = phone.page.is_disabled("#save-mask")
    phone.page.keyboard.press("0")
    phone.page.locator("#zoom", has_text=fitted).wait_for(state="attached")
    send("touchStart", phone.place(60, 60))
    send("touchMove", phone.place(120, 90))
    send("touchMove", phone.place(240, 150))
    send("touchEnd")

    assert is_empty
    assert int(zoomed.split()[0]) > 1.5 * int(fitted.split()[0])
    painted = saved_mask(phone)
    assert painted[60, 60]
    assert painted[90, 120]
    assert painted[120, 180]
    assert not painted[60, 120]


def test_an_object_is_selected_by_its_mask(playground, small):
    playground.open_file(small)
    playground.page.keyboard.press("b")
    playground.drag(playground.place(40, 40), playground.place(100, 40))
    playground.page.keyboard.press("n")
    playground.drag(playground.place(40, 160), playground.place(100, 160))
    playground.page.keyboard.press("a")

    playground.press(*playground.place(70, 40), modifiers=["Alt"])
    playground.says("Object 1 selected")
    playground.page.keyboard.press("h")
    playground.press(*playground.place(70, 160))
    playground.says("Object 2 selected")

    assert playground.clicks == 0
    assert playground.page.locator("#objects li.is-selected .object-name").input_value() == "Object 2"


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_the_canvas_keeps_its_size_when_the_brush_is_chosen(visit, small, options):
    playground = visit(**options)
    playground.open_file(small)
    before = playground.page.locator("#upper").bounding_box()
    playground.page.keyboard.press("b")
    assert playground.page.locator("#brush-bar").is_visible()
    assert playground.page.locator("#upper").bounding_box() == before


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_labels_and_contrast_of_the_bars_follow_the_rules(visit, axe, small, options):
    playground = visit(**options)
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.press(*place_of(playground, last_prompt(playground)["points"][0]))
    playground.page.locator("#handle-bar").wait_for()
    found = rules_broken(playground, axe)
    playground.page.keyboard.press("b")
    found += rules_broken(playground, axe)

    assert found == []


def test_a_stroke_on_an_image_of_52_megapixels_is_painted_in_full(playground, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("L", (8800, 5900), 90).save(path)
    playground.page.set_input_files("#file", path)
    playground.page.locator("#image-size", has_text="8800 × 5900").wait_for()
    playground.page.keyboard.press("b")

    playground.drag(playground.place(1000, 1000), playground.place(7800, 4900))

    dataset = json.loads(playground.save("#save-coco-rle"))
    (annotation,) = dataset["annotations"]
    mask = coco.decode(coco.frPyObjects(annotation["segmentation"], 5900, 8800))
    diameter = int(playground.page.text_content("#brush-size-text").split()[0])
    length = np.hypot(6800, 3900)
    assert mask.sum() == pytest.approx(diameter * length + np.pi * diameter**2 / 4, rel=0.01)
    assert mask[2950, 4400]
