"""Every control can be seen and clicked in windows from 320 to 2560 pixels, and the image keeps its place."""

from typing import Any

import pytest
from support.browser import Playground

WIDTHS = (320, 360, 390, 480, 600, 700, 761, 800, 870, 1024, 1280, 1920, 2560)
HEIGHTS = (320, 390, 521, 640, 844, 1180, 1440)
MIDDLE = (0.5, 0.45)
LONG = "A very long name of an object that nobody would ever want to read to its end"
TOUCH = {"has_touch": True, "is_mobile": True}

# Names the controls that are outside the window or behind something else. Those in a part that scrolls are scrolled to.
HIDDEN_CONTROLS = """async () => {
    const settled = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const name = (element) => element.id || element.ariaLabel || element.textContent.trim() || element.className;
    const covered = (element) => {
        element.scrollIntoView({ block: "nearest" });
        let box = element.getBoundingClientRect();
        const middle = () => document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        const isSeen = () => {
            const top = middle();
            return top && (element.contains(top) || top.contains(element) && top.matches("label, summary"));
        };
        if (!isSeen()) {
            element.scrollIntoView({ block: "start" }); // at the bottom of the panel are masks to choose from
            box = element.getBoundingClientRect();
        }
        const slack = 0.5;
        const isInside = box.left >= -slack && box.top >= -slack
            && box.right <= innerWidth + slack && box.bottom <= innerHeight + slack;
        const corners = [box.x, box.y, box.right, box.bottom].map(Math.round);
        return isInside && isSeen() ? [] : [`${name(element)} ${corners}`];
    };
    const shown = (root) => [...root.querySelectorAll("button, input, select, summary, a[href]")]
        .filter((element) => element.checkVisibility({ visibilityProperty: true }));
    await settled();
    const found = shown(document).flatMap(covered);
    const more = document.getElementById("more");
    if (more.checkVisibility()) {
        const menu = document.getElementById("more-menu");
        menu.showPopover();
        await settled();
        found.push(...shown(menu).flatMap(covered));
        menu.hidePopover();
    }
    const { scrollWidth, scrollHeight } = document.documentElement;
    if (scrollWidth > innerWidth || scrollHeight > innerHeight) found.push(`page of ${scrollWidth}x${scrollHeight}`);
    if (!document.getElementById("toolbar").checkVisibility()) return found;
    const tools = document.querySelectorAll(".toolbar .group > button, #more-menu > button");
    const reached = [...tools].filter((tool) => tool.closest("#more-menu") || tool.checkVisibility());
    if (reached.length < tools.length) found.push("a tool is neither in the bar nor in the menu");
    return found;
}"""


def hidden_controls(playground: Playground) -> list[str]:
    """Return the controls that cannot be clicked in each window size, one line each."""
    found: list[str] = []
    for width in WIDTHS:
        for height in HEIGHTS:
            playground.page.set_viewport_size({"width": width, "height": height})
            found += [f"{width}x{height}: {control}" for control in playground.page.evaluate(HIDDEN_CONTROLS)]
    return found


def place_of_canvas(playground: Playground) -> Any:
    """Return the box of the canvas in the window, in CSS pixels."""
    return playground.page.locator("#upper").bounding_box()


@pytest.fixture(params=["mouse", "touch"])
def used(request, visit, small, photo) -> Playground:
    """Two images; the second one has an ambiguous click and two more objects of long names. All sections are open."""
    playground: Playground = visit(**(TOUCH if request.param == "touch" else {}))
    playground.open_file(small)
    playground.open_file(photo)
    for index in range(3):
        if index:
            playground.page.click("#add-object")
        playground.click(0.4 + index / 10, 0.45)
        field = playground.page.locator(".object-name").nth(index)
        field.fill(f"{LONG} {index}")
        field.press("Enter")
    playground.page.evaluate(
        "() => document.querySelectorAll('details').forEach((details) => { details.open = true; })"
    )
    playground.page.focus("#upper")
    playground.page.keyboard.press("b")  # the brush has a bar of its own
    return playground


def test_every_control_can_be_reached_in_every_window(used):
    assert hidden_controls(used) == []


def test_every_control_can_be_reached_with_letters_of_twice_the_size(used):
    used.page.evaluate("() => { document.documentElement.style.fontSize = '175%'; }")  # 87.5 % by default

    assert hidden_controls(used) == []


def test_every_control_of_the_first_screen_can_be_reached(visit):
    assert hidden_controls(visit()) == []


@pytest.mark.parametrize("size", [(390, 844), (844, 390), (320, 568), (820, 1180), (1280, 800)])
def test_the_image_keeps_its_place_when_masks_to_choose_from_appear(visit, small, size):
    playground = visit(viewport={"width": size[0], "height": size[1]}, **TOUCH)
    playground.open_file(small)
    before = place_of_canvas(playground)

    playground.click(*MIDDLE)
    playground.page.locator(".candidate").first.wait_for()

    assert place_of_canvas(playground) == before
    choices = playground.page.locator("#candidates").bounding_box()
    assert choices["y"] + choices["height"] <= size[1]  # seen without scrolling


@pytest.mark.parametrize("size", [(320, 640), (390, 844), (844, 390), (820, 1180), (1280, 800)])
def test_the_masks_to_choose_from_hold_their_drawings_and_names(visit, small, size):
    playground = visit(viewport={"width": size[0], "height": size[1]}, **TOUCH)
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.page.locator(".candidate").nth(3).wait_for()

    outside = playground.page.evaluate(
        """() => [...document.querySelectorAll(".candidate")].flatMap((button) => {
            button.querySelector("span").textContent = "Object 2"; // the longest name
            const outer = button.getBoundingClientRect();
            return [...button.children].map((child) => child.getBoundingClientRect())
                .filter((inner) => inner.left < outer.left || inner.right > outer.right
                    || inner.top < outer.top || inner.bottom > outer.bottom)
                .map((inner) => [inner.left - outer.left, outer.right - inner.right]);
        })"""
    )

    assert outside == []


@pytest.mark.parametrize("size", [(320, 640), (844, 390), (820, 1180), (1280, 800)])
def test_the_hint_covers_no_other_text(visit, small, size):
    playground = visit(viewport={"width": size[0], "height": size[1]}, **TOUCH)
    playground.open_file(small)

    covered = playground.page.evaluate(
        """() => {
            const hint = document.getElementById("hint").getBoundingClientRect();
            const texts = [...document.querySelectorAll("#latency p")];
            return texts.filter((text) => text.checkVisibility({ visibilityProperty: true }))
                .filter((text) => text.getBoundingClientRect().left < hint.right)
                .map((text) => text.textContent);
        }"""
    )

    assert covered == []


@pytest.mark.parametrize("size", [(320, 568), (390, 844), (844, 390), (820, 1180), (1280, 800)])
def test_messages_cover_neither_the_image_nor_a_control(visit, small, size):
    playground = visit(viewport={"width": size[0], "height": size[1]})
    playground.open_file(small)
    before = place_of_canvas(playground)

    covered = playground.page.evaluate(
        """async () => {
            const inner = (name) => document.getElementById(name);
            inner("progress").hidden = false;
            inner("progress-text").textContent = "Uploading the image 50 %";
            inner("notice").hidden = false;
            inner("notice").querySelector("[data-part=text]").textContent = "Your work is kept. ".repeat(4);
            inner("untrained").hidden = true;
            const messages = [".hint", "#progress", "#toast", "#notice"].map((name) => document.querySelector(name));
            inner("toast").textContent = "Saved a-file-with-quite-a-long-name-cutout.png";
            inner("toast").classList.add("is-shown");
            const boxes = [...document.querySelectorAll("#upper, .toolbar button, .top button")]
                .filter((element) => element.checkVisibility())
                .map((element) => element.getBoundingClientRect());
            return messages.flatMap((message) => {
                const box = message.getBoundingClientRect();
                return boxes.filter((other) => box.left < other.right && other.left < box.right
                    && box.top < other.bottom && other.top < box.bottom).map(() => message.className);
            });
        }"""
    )

    assert covered == []
    assert place_of_canvas(playground) == before


@pytest.mark.parametrize("size", [(390, 844), (844, 390), (820, 1180)])
def test_fingers_get_targets_of_44_pixels(visit, small, size):
    playground = visit(viewport={"width": size[0], "height": size[1]}, **TOUCH)
    playground.open_file(small)
    playground.click(*MIDDLE)

    smaller = playground.page.evaluate(
        """() => [...document.querySelectorAll("button, summary, label.check")]
            .filter((element) => element.checkVisibility())
            .map((element) => [element.id || element.className, element.getBoundingClientRect()])
            .filter(([, { width, height }]) => width < 44 || height < 44)
            .map(([name, { width, height }]) => `${name} ${width}x${height}`)"""
    )

    assert smaller == []


def test_a_notice_of_the_first_screen_is_shown_in_full(visit, tmp_path):
    playground = visit(viewport={"width": 390, "height": 844})
    path = tmp_path / "notes.txt"
    path.write_text("no image")

    playground.page.set_input_files("#file", path)
    action = playground.page.locator("#notice [data-part=action]")
    action.wait_for()

    notice, panel = (playground.page.locator(name).bounding_box() for name in ("#notice", ".panel"))
    assert notice["y"] >= panel["y"]
    assert notice["y"] + notice["height"] <= panel["y"] + panel["height"]
    action.click(trial=True)
