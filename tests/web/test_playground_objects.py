"""The list of objects: names, classes with colours, visibility, and how masks are drawn."""

import json

import pytest
from support.noise_images import noise_file
from support.redis_server import wait_until


def set_class(playground, position, name):
    """Give an object of the list a class, as a user does."""
    playground.page.locator(".object-select").nth(position).click()
    field = playground.page.locator(".object-class").nth(position)
    field.fill(name)
    field.press("Enter")


def colours(playground):
    """The colours of the objects of the list."""
    return playground.page.eval_on_selector_all(
        "#objects li", "(all) => all.map((row) => row.style.getPropertyValue('--colour'))"
    )


def categories(playground):
    return [category["name"] for category in json.loads(playground.save("#save-coco"))["categories"]]


@pytest.fixture
def two_objects(playground, photo):
    """The page with two objects."""
    playground.open_file(photo)
    playground.click(0.45, 0.4)
    playground.page.keyboard.press("n")
    playground.click(0.6, 0.5)
    return playground


def test_a_click_on_a_name_selects_it_as_a_whole(two_objects):
    page = two_objects.page

    page.locator(".object-name").first.click()
    page.keyboard.type("cup")
    page.keyboard.press("Enter")

    assert page.locator(".object-name").first.input_value() == "cup"


def test_objects_of_a_class_have_its_colour_and_the_next_object_is_offered_it(two_objects):
    before = colours(two_objects)

    set_class(two_objects, 0, "cup")
    set_class(two_objects, 1, "cup")

    first, second = colours(two_objects)
    assert first == second
    assert before[0] != before[1]
    assert two_objects.page.eval_on_selector_all("#class-names option", "(all) => all.map(({ value }) => value)") == [
        "cup"
    ]
    two_objects.page.focus("#upper")
    two_objects.page.keyboard.press("Control+z")
    assert colours(two_objects) == [first, before[1]]


def test_classes_are_renamed_joined_and_coloured_in_the_list_and_survive_a_visit(two_objects):
    set_class(two_objects, 0, "cup")
    set_class(two_objects, 1, "plate")
    page = two_objects.page
    two_objects.unfold("#class-list")
    assert [text.strip() for text in page.locator(".class-count").all_text_contents()] == ["1", "1"]

    name = page.locator("#class-list .object-name").first
    name.fill("dish")
    name.press("Enter")
    assert categories(two_objects) == ["dish", "plate"]
    page.locator("#class-list .object-name").nth(1).fill("dish")
    page.locator("#class-list .object-name").nth(1).press("Enter")
    page.locator("#class-list input[type=color]").fill("#123456")

    assert categories(two_objects) == ["dish"]
    assert page.locator(".class-count").all_text_contents() == ["2"]
    assert colours(two_objects) == ["#123456", "#123456"]
    page.reload()
    page.locator("body.is-ready").wait_for()
    stored = json.loads(page.evaluate("() => localStorage.getItem('edgesam-classes')"))
    assert stored == [{"name": "dish", "colour": "#123456"}]


def test_a_class_is_renamed_in_all_images_and_can_be_removed(two_objects, tmp_path, next_seed):
    set_class(two_objects, 0, "cup")
    other = tmp_path / "other.png"
    other.write_bytes(noise_file((240, 320), next_seed + 1))
    two_objects.page.set_input_files("#file", [other])
    two_objects.page.locator("#objects li").nth(1).wait_for(state="detached")
    two_objects.wait_ready()
    two_objects.click(0.45, 0.4)
    set_class(two_objects, 0, "cup")
    two_objects.unfold("#class-list")

    name = two_objects.page.locator("#class-list .object-name")
    name.fill("mug")
    name.press("Enter")
    assert categories(two_objects) == ["mug", "object"]
    two_objects.page.click("#class-list button")

    assert categories(two_objects) == ["object"]
    assert not two_objects.page.locator("#classes").is_visible()


def test_objects_are_hidden_one_by_one_and_all_together(two_objects):
    page = two_objects.page
    page.mouse.move(1, 1)
    both = two_objects.drawn()

    page.click("[aria-label='Hide Object 2']")
    wait_until(lambda: 0 < two_objects.drawn() < both, timeout_s=30, what="the object is still drawn")
    page.click("[aria-label='Show all objects']")
    wait_until(lambda: two_objects.drawn() == both, timeout_s=30, what="the object is not drawn again")
    page.click("[aria-label='Hide all objects']")
    wait_until(lambda: two_objects.drawn() == 0, timeout_s=30, what="the objects are still drawn")

    assert len(json.loads(two_objects.save("#save-coco"))["annotations"]) == 2


def test_opacity_and_outline_change_how_masks_are_drawn_and_stay(two_objects):
    page = two_objects.page
    page.mouse.move(1, 1)
    before = two_objects.drawn()
    two_objects.unfold("#opacity")

    page.locator("#opacity").fill("0")
    wait_until(lambda: 0 < two_objects.drawn() < before, timeout_s=30, what="the masks are still filled")
    only_outlines = two_objects.drawn()
    page.uncheck("#outline")
    wait_until(lambda: two_objects.drawn() < only_outlines, timeout_s=30, what="the outlines are still drawn")

    page.reload()
    page.locator("body.is-ready").wait_for()
    assert page.locator("#opacity").input_value() == "0"
    assert not page.locator("#outline").is_checked()


def test_candidates_are_drawn_in_the_colour_of_their_object(two_objects):
    page = two_objects.page

    seen = page.evaluate(
        """() => {
            const canvas = document.querySelector(".candidate canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const i = data.findIndex((value, at) => at % 4 === 3 && value === 255) - 3;
            return "#" + [...data.slice(i, i + 3)].map((value) => value.toString(16).padStart(2, "0")).join("");
        }"""
    )

    assert seen == colours(two_objects)[1]
    names = page.locator(".candidate span").all_text_contents()
    assert len(set(names)) == len(names) == 4


def marked(playground):
    return playground.page.eval_on_selector_all(".object-mark", "(all) => all.map(({ checked }) => checked)")


@pytest.fixture
def four_objects(two_objects):
    for x in (0.5, 0.65):
        two_objects.page.keyboard.press("n")
        two_objects.click(x, 0.3)
    return two_objects


def test_marked_objects_are_merged_in_one_step_that_can_be_undone(four_objects):
    page = four_objects.page
    before = [each["area"] for each in json.loads(four_objects.save("#save-coco"))["annotations"]]

    page.locator(".object-select").nth(1).click(modifiers=["Control"])
    page.locator(".object-select").nth(3).click(modifiers=["Shift"])
    assert marked(four_objects) == [False, True, True, True]
    page.locator(".object-mark").nth(2).uncheck()
    page.click("#merge-marked")

    names = page.eval_on_selector_all(".object-name", "(all) => all.map(({ value }) => value)")
    assert names == ["Object 1", "Object 2", "Object 3"]
    areas = [each["area"] for each in json.loads(four_objects.save("#save-coco"))["annotations"]]
    assert max(before[1], before[3]) <= areas[1] <= before[1] + before[3]
    assert not page.locator("#marked-actions").is_visible()
    page.focus("#upper")
    page.keyboard.press("Control+z")
    assert [each["area"] for each in json.loads(four_objects.save("#save-coco"))["annotations"]] == before


def test_marked_objects_get_a_class_and_are_deleted_together(four_objects):
    page = four_objects.page
    page.click("#select-several")
    assert page.is_disabled("#merge-marked")
    assert page.is_disabled("#delete-marked")

    page.check("#mark-all")
    page.locator(".object-mark").first.uncheck()
    page.fill("#class-of-marked", "cup")
    page.press("#class-of-marked", "Enter")

    assert categories(four_objects) == ["object", "cup"]
    assert marked(four_objects) == [False, True, True, True]
    page.click("#delete-marked")
    assert page.locator("#objects li").count() == 1
    assert not page.locator("#select-several").is_visible()


def test_a_new_object_is_seen_in_a_long_list(playground, small):
    playground.open_file(small)

    for _ in range(25):
        playground.page.keyboard.press("n")

    is_seen = """() => {
        const list = document.getElementById("objects");
        const row = list.querySelector(".is-selected").getBoundingClientRect();
        const { top, bottom } = list.getBoundingClientRect();
        return list.scrollTop > 0 && row.top >= top - 1 && row.bottom <= bottom + 1;
    }"""
    wait_until(lambda: playground.page.evaluate(is_seen), timeout_s=30, what="the list did not scroll")
    assert playground.page.locator("#objects li").last.get_attribute("class") == "is-selected"
