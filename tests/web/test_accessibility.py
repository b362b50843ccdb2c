"""The page follows the rules of axe-core on desktop, tablet and phone, in every state that a user can bring about."""

import pytest
from support.browser import rules_broken

MIDDLE = (0.5, 0.45)
TOUCH = {"has_touch": True, "is_mobile": True}
LAYOUTS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "tablet": {"viewport": {"width": 820, "height": 1180}, **TOUCH},
    "phone": {"viewport": {"width": 390, "height": 844}, **TOUCH},
    "phone on its side": {"viewport": {"width": 844, "height": 390}, **TOUCH},
}


@pytest.fixture
def broken(axe):
    """Return the findings in the present state of a page, and name the state in each."""

    def find(playground, state):
        return [f"{state}: {finding}" for finding in rules_broken(playground, axe)]

    return find


def objects_in_every_state(playground, small):
    """An image with an object that has a name and a class, and one of an ambiguous click."""
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.page.locator(".object-name").first.fill("Cup & saucer")
    playground.page.locator(".object-class").first.fill("dishes")
    playground.page.locator(".object-class").first.press("Enter")
    playground.page.click("#add-object")
    playground.click(0.6, 0.5)
    playground.page.locator(".candidate").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_page_follows_the_rules(visit, broken, layout, scheme, small):
    playground = visit(color_scheme=scheme, **LAYOUTS[layout])
    page = playground.page
    found = broken(playground, "first screen")
    objects_in_every_state(playground, small)
    found += broken(playground, "objects")
    page.evaluate("() => document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    found += broken(playground, "all sections")
    for dialog, button in (("help", "#help"), ("key", "#enter-key")):
        page.click(button)
        found += broken(playground, dialog)
        page.keyboard.press("Escape")
    if page.locator("#more").is_visible():
        page.click("#more")
        found += broken(playground, "more tools")
        page.keyboard.press("Escape")
    page.focus("#upper")
    page.keyboard.press("b")
    found += broken(playground, "brush")

    assert found == []


def test_a_notice_follows_the_rules(visit, broken, small, tmp_path):
    playground = visit()
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    playground.page.set_input_files("#file", path)
    playground.page.locator("#notice").wait_for()
    found = broken(playground, "first screen")

    playground.page.set_input_files("#file", small)
    playground.wait_ready()
    playground.page.set_input_files("#file", path)
    playground.page.locator("#notice").wait_for()
    found += broken(playground, "image")

    assert found == []


def test_tab_reaches_every_control_and_leaves_every_part(visit, small):
    playground = visit(viewport={"width": 1280, "height": 800})
    objects_in_every_state(playground, small)
    expected = set(
        playground.page.evaluate(
            """() => [...document.querySelectorAll("button[id], input[id], summary")]
                .filter((element) => element.checkVisibility({ visibilityProperty: true }))
                .filter((element) => !element.disabled && element.tabIndex >= 0)
                .map((element) => element.id || element.textContent.trim())"""
        )
    )

    playground.page.focus("#open")
    reached = set()
    for _ in range(120):
        reached.add(
            playground.page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()")
        )
        if playground.page.evaluate("() => document.activeElement.id") == "upper":
            playground.page.evaluate("() => document.querySelector('#toolbar button').focus()")  # Tab has a use there
        else:
            playground.page.keyboard.press("Tab")

    assert expected - reached - {"upper"} == set()
