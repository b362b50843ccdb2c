"""Several images in the page: adding, the strip of thumbnails, folders, keys, closing, and what is embedded when."""

import json

import pytest
from PIL import Image
from support.browser import WAIT_MS, content_of, rules_broken
from support.noise_images import noise_file, noise_image
from support.redis_server import wait_until
from support.sample_images import sample_images

MIDDLE = (0.5, 0.45)
SAMPLES = [sample.path for sample in sample_images()]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

# Counts the bitmaps of the page that are not closed.
COUNT_BITMAPS = """
    window.bitmaps = { open: 0, most: 0 };
    const create = createImageBitmap;
    window.createImageBitmap = async (...given) => {
        const bitmap = await create(...given);
        window.bitmaps.most = Math.max(window.bitmaps.most, ++window.bitmaps.open);
        const close = bitmap.close.bind(bitmap);
        bitmap.close = () => {
            window.bitmaps.open--;
            close();
        };
        return bitmap;
    };"""


@pytest.fixture
def photos(tmp_path, next_seed):
    """Three images that the service has not seen, photo-1.png to photo-3.png."""
    paths = [tmp_path / f"photo-{number}.png" for number in (1, 2, 3)]
    for path in paths:
        path.write_bytes(noise_file((240, 320), next_seed + int(path.stem[-1])))
    return paths


def drop(playground, paths):
    """Drop files and folders of this machine on the page, as a file manager does."""
    session = playground.page.context.new_cdp_session(playground.page)
    x, y = playground.page.viewport_size["width"] / 2, playground.page.viewport_size["height"] / 2
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})


def test_opening_further_images_adds_them_and_each_keeps_its_objects_and_undo(playground, photos):
    playground.open_files(photos[:1])
    strip = playground.page.locator("#images")
    alone = strip.is_visible()
    playground.click(*MIDDLE)
    playground.open_files(photos[1:])
    playground.page.click("#add-object")
    playground.click(*MIDDLE)
    badges = playground.page.locator(".badge").all_inner_texts()

    playground.page.keyboard.press("PageUp")
    playground.wait_shown("photo-1.png")
    first = playground.page.locator(".object-name").count()
    playground.page.click("#undo")
    undone = playground.page.is_disabled("#undo"), playground.page.is_disabled("#save-mask")
    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-2.png")

    assert not alone
    assert strip.is_visible()
    assert playground.image_names == ["photo-1.png", "photo-2.png", "photo-3.png"]
    assert badges == ["1", "1", ""]
    assert first == 1
    assert undone == (True, True)
    assert playground.page.locator(".object-name").count() == 2
    assert playground.page.is_enabled("#undo")
    assert playground.page.is_enabled("#save-mask")


def test_buttons_and_keys_go_to_the_next_and_the_previous_image(playground, photos):
    playground.open_files(photos)
    position = playground.page.locator("#image-position")
    ends = [(playground.page.is_disabled("#previous-image"), position.inner_text())]

    playground.page.click("#next-image")
    playground.wait_shown("photo-2.png")
    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-3.png")
    playground.page.keyboard.press("PageDown")  # there is none
    ends.append((playground.page.is_disabled("#next-image"), position.inner_text()))
    playground.page.locator(".thumbnail").first.click()
    playground.wait_shown("photo-1.png")

    assert ends == [(True, "1 of 3"), (True, "3 of 3")]
    current = playground.page.locator(".thumbnail[aria-current=true]")
    assert current.get_attribute("title") == "photo-1.png"


def test_the_next_image_is_embedded_ahead_and_no_other(playground, photos):
    playground.open_files(photos)
    wait_until(lambda: len(playground.sent("POST", "/embed")) == 2, timeout_s=30, what="the next was not embedded")
    playground.click(*MIDDLE)
    before = len(playground.sent("POST", "/embed"))

    playground.page.keyboard.press("PageDown")
    playground.page.locator("#image-name", has_text="photo-2.png").wait_for()
    playground.click(*MIDDLE)
    hashes = [body["image_hash"] for body in playground.segment_bodies()]
    wait_until(lambda: len(playground.sent("POST", "/embed")) == 3, timeout_s=30, what="the third was not embedded")

    assert before == 2
    assert hashes[0] != hashes[-1]


def test_clicks_on_an_image_that_was_left_at_once_are_answered_when_it_comes_back(playground, photos):
    playground.open_files(photos[:2])
    playground.press(*MIDDLE)
    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-2.png")

    playground.page.keyboard.press("PageUp")
    playground.page.locator("#image-name", has_text="photo-1.png").wait_for()

    playground.page.locator("#save-mask:enabled").wait_for(state="attached")
    assert playground.page.locator(".badge").first.inner_text() == "1"


def test_a_dropped_folder_gives_its_images_by_name_and_nothing_else(playground, tmp_path, next_seed):
    folder = tmp_path / "trip"
    (folder / "day 2").mkdir(parents=True)
    for i, name in enumerate(["photo 10.png", "photo 9.png", "day 2/beach.png"]):
        (folder / name).write_bytes(noise_file((64, 96), next_seed + i))
    (folder / "notes.txt").write_text("no image")
    (folder / "z" / "y" / "x" / "w" / "v").mkdir(parents=True)
    for i, name in enumerate(["z/y/x/w/deep.png", "z/y/x/w/v/too deep.png"]):
        (folder / name).write_bytes(noise_file((64, 80), next_seed + i))
    playground.open_sample()

    drop(playground, [folder])
    playground.wait_shown("beach.png")
    playground.page.locator(".thumbnail").nth(4).wait_for()
    playground.page.locator("#images:not(.is-opening)").wait_for()

    assert playground.image_names == ["dahlia.jpg", "beach.png", "photo 9.png", "photo 10.png", "deep.png"]


def test_a_folder_of_too_many_images_is_opened_in_part_and_the_page_says_so(playground, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(203):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")

    drop(playground, [folder])
    playground.page.locator("#notice", has_text="largest number").wait_for(timeout=4 * WAIT_MS)

    assert playground.image_names == [f"{number}.png" for number in range(200)]


def test_a_fresh_user_exports_the_objects_of_three_images_as_one_coco_file(playground, photos):
    playground.open_files(photos)
    for number in (1, 2, 3):
        playground.wait_shown(f"photo-{number}.png")
        playground.click(*MIDDLE)
        if number < 3:
            playground.page.click("#next-image")

    dataset = json.loads(playground.save("#save-coco"))

    assert [image["file_name"] for image in dataset["images"]] == ["photo-1.png", "photo-2.png", "photo-3.png"]
    assert [annotation["image_id"] for annotation in dataset["annotations"]] == [1, 2, 3]


def test_several_dropped_files_are_added_and_an_unreadable_one_is_told(playground, photos, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 64)

    drop(playground, [photos[0], broken, photos[1]])
    playground.wait_shown("photo-1.png")
    playground.page.locator(".thumbnail").nth(1).wait_for()
    playground.page.locator("#notice", has_text="cannot show that file").wait_for()

    assert playground.image_names == ["photo-1.png", "photo-2.png"]


def test_a_chosen_folder_is_opened(playground, tmp_path, next_seed):
    folder = tmp_path / "chosen"
    folder.mkdir()
    for number in (2, 1):
        (folder / f"{number}.png").write_bytes(noise_file((64, 96), next_seed + number))
    (folder / "labels.csv").write_text("1,2\n")

    playground.page.set_input_files("#folder", folder)
    playground.wait_shown("1.png")
    playground.page.locator(".thumbnail").nth(1).wait_for()

    assert playground.image_names == ["1.png", "2.png"]


def test_a_folder_without_images_is_answered_with_what_to_do(playground, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")

    drop(playground, [folder])

    playground.page.locator("#notice", has_text="not an image").wait_for()


def test_images_of_the_same_name_are_told_apart_and_the_same_file_is_opened_once(playground, tmp_path, next_seed):
    paths = [tmp_path / folder / "image.png" for folder in ("a", "b")]
    for i, path in enumerate(paths):
        path.parent.mkdir()
        path.write_bytes(noise_file((64 + i, 96), next_seed + i))
    playground.open_files(paths[:1])

    playground.page.set_input_files("#file", paths[1])
    playground.wait_shown("image-2.png")
    playground.page.set_input_files("#file", paths[0])
    playground.wait_shown("image.png")

    assert playground.image_names == ["image.png", "image-2.png"]


def test_closing_asks_only_where_work_is_lost(playground, photos):
    playground.open_files(photos)
    playground.click(*MIDDLE)
    question = playground.page.locator("#question[open]")

    playground.page.get_by_role("button", name="Close photo-1.png").click()
    asked = question.inner_text()
    playground.page.keyboard.press("Escape")
    kept = playground.image_names
    playground.page.get_by_role("button", name="Close photo-1.png").click()
    playground.page.click("#question-yes")
    playground.wait_shown("photo-2.png")
    playground.page.get_by_role("button", name="Close photo-2.png").click()
    playground.wait_shown("photo-3.png")

    assert "Its object will be lost." in asked
    assert kept == ["photo-1.png", "photo-2.png", "photo-3.png"]
    assert playground.image_names == ["photo-3.png"]
    assert not playground.page.locator("#images").is_visible()
    assert playground.page.is_disabled("#save-mask")


def test_zoom_and_position_are_those_of_each_image(playground, photos):
    playground.open_files(photos[:2])
    fitted = playground.page.text_content("#zoom")
    playground.page.click("#zoom-in")
    zoomed = playground.page.text_content("#zoom")

    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-2.png")
    other = playground.page.text_content("#zoom")
    playground.page.keyboard.press("PageUp")
    playground.wait_shown("photo-1.png")

    assert (other, playground.page.text_content("#zoom")) == (fitted, zoomed)
    assert zoomed != fitted


def test_only_few_images_are_decoded_at_a_time(playground, tmp_path, next_seed):
    playground.page.context.add_init_script(COUNT_BITMAPS)
    playground.visit()
    paths = [tmp_path / f"{number}.jpg" for number in range(8)]
    for i, path in enumerate(paths):
        Image.fromarray(noise_image((900, 1200), next_seed + i)).save(path, quality=70)

    playground.open_files(paths)
    for path in paths[1:]:
        playground.page.keyboard.press("PageDown")
        playground.wait_shown(path.name)
    counts = playground.page.evaluate("bitmaps")

    assert counts["open"] == 1  # the one in view
    assert counts["most"] <= 4  # being opened, in view, coming into view, and being embedded


def test_all_samples_open_with_one_press(playground):
    playground.page.get_by_role("button", name="All five").click()
    playground.wait_shown(SAMPLES[0].name)
    playground.page.locator(".thumbnail").nth(4).wait_for()

    assert playground.image_names == [path.name for path in SAMPLES]


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
def test_the_first_screen_and_the_strip_fit_all_widths(visit, width):
    playground = visit(viewport={"width": width, "height": 844})

    def cut_off():
        return playground.page.evaluate(
            """() => [...document.querySelectorAll("button, .credits, .headline, #image-position")]
                .filter((element) => element.checkVisibility() && !element.closest("#thumbnails"))
                .filter((element) => {
                    const { left, right } = element.getBoundingClientRect();
                    return left < 0 || right > innerWidth + 0.5 || element.scrollWidth > element.clientWidth + 1;
                }).map(({ id, className }) => id || className)"""
        )

    welcome = cut_off()
    playground.open_files(SAMPLES)
    strip = playground.page.locator("#images").bounding_box()

    assert welcome == []
    assert strip["x"] >= 0
    assert strip["x"] + strip["width"] <= width
    for button in ("#previous-image", "#next-image", "#image-position"):
        box = playground.page.locator(button).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_the_strip_and_the_questions_follow_the_rules(visit, axe, options):
    playground = visit(**options)
    found = rules_broken(playground, axe)
    playground.open_files(SAMPLES[:3])
    playground.click(*MIDDLE)

    found += rules_broken(playground, axe)
    playground.page.click("#start-over")
    found += rules_broken(playground, axe)

    assert found == []


def test_after_the_last_image_is_closed_the_first_screen_comes_back(playground, photo):
    playground.open_file(photo)
    playground.page.click("#start-over")
    playground.page.click("#question-yes")
    playground.page.locator(".welcome").wait_for()
    wait_until(lambda: is_blank(playground), timeout_s=30, what="the closed image is behind the first screen")

    playground.open_sample()
    playground.click(*MIDDLE)

    assert playground.page.text_content("#image-name") == "dahlia.jpg"
    assert playground.page.is_enabled("#save-mask")


def is_blank(playground):
    """Whether the canvas of the image is empty."""
    return playground.page.evaluate(
        """() => {
            const canvas = document.getElementById("lower");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.every((value) => value === 0);
        }"""
    )


def test_an_export_of_all_images_waits_for_a_click_whose_image_was_left(playground, photos):
    held = []
    playground.open_files(photos[:2])

    def hold(route):
        if not held and '"cleanup"' in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    playground.page.route("**/segment", hold)
    with playground.page.expect_request(lambda request: '"cleanup"' in (request.post_data or "")):
        playground.press(*MIDDLE)
    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-2.png")
    playground.click(*MIDDLE)

    with playground.page.expect_download() as waiting:
        playground.page.click("#save-coco")
        held[0].continue_()
    dataset = json.loads(content_of(waiting.value))

    assert [image["file_name"] for image in dataset["images"]] == ["photo-1.png", "photo-2.png"]
    assert len(dataset["annotations"]) == 2


def test_an_export_says_which_clicks_have_no_mask_yet(playground, photos):
    playground.open_files(photos[:2])
    playground.page.route("**/segment", lambda route: route.abort())
    playground.press(*MIDDLE)
    playground.page.locator("#notice").wait_for()
    playground.page.unroute("**/segment")
    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-2.png")
    playground.click(*MIDDLE)

    playground.save("#save-coco")

    playground.says("Saved photo-2-coco.json. 1 object has no new mask yet")
    playground.errors.clear()  # of the request that was broken off
