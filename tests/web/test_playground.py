"""The page in a real browser: what a user does with mouse, keys and fingers, and what leaves it."""

import io
import json
import re
import subprocess

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.browser import PLAIN_HOST
from support.noise_images import noise_image
from support.redis_server import wait_until
from support.sample_images import sample_image
from support.service_client import open_client

MIDDLE = (0.5, 0.45)


def answer(url, body):
    """What the service says to a request that the page sent."""
    response = httpx.post(f"{url}segment", json={**body, "format": "rle"}, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()


def pixels(rle):
    """A mask as (H, W) bool."""
    return coco.decode(rle).astype(bool)


def annotated_pixels(segmentation, size):
    """The pixels (H, W) inside a segmentation of a COCO file, as its loaders read it."""
    rles = coco.frPyObjects(segmentation, *size)
    return coco.decode(coco.merge(rles) if isinstance(rles, list) else rles).astype(bool)


def image(data):
    """A downloaded PNG."""
    return Image.open(io.BytesIO(data))


def svg_pixels(path, size):
    """The pixels (H, W) inside a path of M, H, V and Z along the grid. A vertical side flips pixels to its right."""
    flips = np.zeros((size[0], size[1] + 1), bool)
    for ring in path.split("Z")[:-1]:
        x, y = map(int, re.match(r"M(\d+) (\d+)", ring).groups())
        start_y = y
        for axis, value in re.findall(r"([HV])(\d+)", ring):
            if axis == "H":
                x = int(value)
            else:
                top, bottom = sorted((y, int(value)))
                flips[top:bottom, x] ^= True
                y = int(value)
        top, bottom = sorted((y, start_y))
        flips[top:bottom, x] ^= True  # Z returns along a vertical side, or along a horizontal one, of no height
    return np.logical_xor.accumulate(flips, axis=1)[:, :-1]


def test_a_fresh_user_reaches_a_saved_cut_out_in_three_clicks(playground, bundled_url):
    playground.open_sample()
    playground.click(*MIDDLE)
    saved = image(playground.save("#save-cut-out"))

    click = next(body for body in playground.segment_bodies() if body.get("format") != "alpha")
    best = answer(bundled_url, click)["results"][0]["masks"][0]
    soft = httpx.post(f"{bundled_url}segment", json={**click, "format": "alpha"}, timeout=60, trust_env=False).json()
    x0, y0, x1, y1 = soft["results"][0]["masks"][0]["alpha_box"]
    is_inside = pixels(best["rle"])[y0:y1, x0:x1]
    sample = sample_image("dahlia.jpg").path.read_bytes()
    original = np.asarray(image(sample).convert("RGB"), np.int16)[y0:y1, x0:x1]
    colours, alpha = np.split(np.asarray(saved), [3], axis=2)
    assert saved.mode == "RGBA"
    assert np.array_equal(alpha[..., 0] >= 128, is_inside)
    assert np.abs(colours[is_inside] - original[is_inside]).max() <= 4  # two decoders of one JPEG


def test_a_dropped_image_can_be_clicked_on(playground, photo):
    data = list(photo.read_bytes())
    transfer = playground.page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        data,
    )
    playground.page.dispatch_event(".stage", "dragover", {"dataTransfer": transfer})
    assert playground.page.locator("#drop-mark").is_visible()

    playground.page.dispatch_event(".stage", "drop", {"dataTransfer": transfer})
    playground.wait_ready()
    playground.click(*MIDDLE)

    assert playground.page.text_content("#image-name") == "dropped.png"
    assert not playground.page.locator("#drop-mark").is_visible()


def test_a_pasted_image_can_be_clicked_on(playground, photo):
    playground.page.evaluate(
        """(bytes) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        list(photo.read_bytes()),
    )
    playground.wait_ready()
    playground.click(*MIDDLE)

    assert playground.page.text_content("#image-size") == "320 × 240"


def test_a_known_image_is_not_uploaded_again(visit, photo):
    visit().open_file(photo)

    again = visit()
    again.open_file(photo)

    (look_up,) = again.sent("HEAD", "/embed/")
    assert look_up.headers["prefer"] == "prefetch"
    assert again.sent("POST", "/embed") == []


def test_clicks_during_the_upload_are_answered_after_it(playground, photo):
    playground.page.set_input_files("#file", photo)
    playground.page.locator("body.has-image").wait_for()

    playground.click(*MIDDLE)

    (body,) = playground.segment_bodies()
    assert body["image_hash"] == playground.sent("HEAD", "/embed/")[0].url[-64:]


def test_a_click_lets_the_model_choose_among_all_masks_and_names_the_image_in_a_header(playground, small):
    playground.open_file(small)

    playground.click(*MIDDLE)

    (request,) = [sent for sent in playground.sent("POST", "/segment") if "points" in (sent.post_data or "")][-1:]
    body = json.loads(request.post_data)
    assert request.headers["x-image-hash"] == body["image_hash"]
    assert body["multimask"] == "auto"
    assert playground.page.locator(".candidate").count() == 4


@pytest.mark.parametrize("how", [{"button": "right"}, {"modifiers": ["Shift"]}])
def test_a_right_or_shift_click_is_negative_and_refines_the_mask(playground, bundled_url, how, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    first = playground.segment_bodies()[-1]

    playground.click(0.4, 0.4, **how)

    second = playground.segment_bodies()[-1]
    (prompt,) = second["prompts"]
    assert [point["label"] for point in prompt["points"]] == [1, 0]
    assert prompt["points"][0] == first["prompts"][0]["points"][0]
    assert prompt["mask_id"] == answer(bundled_url, first)["results"][0]["masks"][0]["mask_id"]
    assert second["multimask"] == "auto"
    assert playground.page.locator(".candidate").count() == 0


def test_the_exclude_tool_makes_plain_clicks_negative(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)

    playground.page.click("#exclude")
    playground.click(0.6, 0.5)

    assert [point["label"] for point in playground.segment_bodies()[-1]["prompts"][0]["points"]] == [1, 0]


def test_a_drag_is_a_box_in_the_images_pixels(playground, small):
    playground.open_file(small)

    playground.drag((0.3, 0.3), (0.6, 0.7))
    playground.wait_for_clicks(1)

    (prompt,) = playground.segment_bodies()[-1]["prompts"]
    x0, y0, x1, y1 = prompt["box"]
    stage = playground.page.locator("#upper").bounding_box()
    scale = (x1 - x0) / (0.3 * stage["width"])
    assert "points" not in prompt
    assert 0 < x0 < x1 < 320
    assert y1 - y0 == pytest.approx(0.4 * stage["height"] * scale, rel=0.02)


def test_undo_redo_and_clear_need_no_request(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    playground.click(0.6, 0.5)
    playground.page.mouse.move(0, 0)
    count, both = len(playground.segment_bodies()), playground.save("#save-mask")

    playground.page.click("#undo")
    one = playground.save("#save-mask")
    playground.page.keyboard.press("Control+z")
    assert playground.page.is_disabled("#save-mask")
    assert playground.page.is_disabled("#undo")
    playground.page.keyboard.press("Control+Shift+z")
    assert playground.save("#save-mask") == one
    playground.page.click("#redo")
    assert playground.save("#save-mask") == both
    playground.page.click("#clear")

    assert playground.page.is_disabled("#save-mask")
    assert len(playground.segment_bodies()) == count
    assert one != both


def test_a_click_undone_and_redone_before_its_answer_is_answered(playground, small):
    playground.open_file(small)

    playground.press(*MIDDLE)
    playground.page.evaluate("() => { for (const id of ['undo', 'redo']) document.getElementById(id).click(); }")

    playground.page.locator("#save-cut-out:enabled").wait_for()
    assert playground.page.is_enabled("#undo")


def test_a_photo_that_lies_on_its_side_is_shown_and_cut_out_upright(playground, bundled_url, tmp_path, next_seed):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned clockwise
    Image.fromarray(noise_image((240, 320), next_seed)).save(path, exif=exif)

    playground.open_file(path)
    playground.click(*MIDDLE)

    segmented = answer(bundled_url, playground.segment_bodies()[-1])
    assert playground.page.text_content("#image-size") == "240 × 320"
    assert (segmented["width"], segmented["height"]) == (240, 320)


def test_tab_goes_through_the_masks_and_shift_tab_leads_out(playground, bundled_url, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    masks = answer(bundled_url, playground.segment_bodies()[-1])["results"][0]["masks"]

    playground.page.keyboard.press("Tab")
    second = np.asarray(image(playground.save("#save-mask")).convert("L")) > 127
    playground.page.focus("#upper")
    for _ in masks[1:]:
        playground.page.keyboard.press("Tab")
    first_again = np.asarray(image(playground.save("#save-mask")).convert("L")) > 127
    playground.page.focus("#upper")
    playground.page.keyboard.press("Shift+Tab")

    assert np.array_equal(second, pixels(masks[1]["rle"]))
    assert np.array_equal(first_again, pixels(masks[0]["rle"]))
    assert playground.page.evaluate("() => document.activeElement.id") != "upper"


def test_several_objects_are_exported_under_their_names(playground, photo, bundled_url):
    playground.open_file(photo)
    playground.click(0.45, 0.4)
    playground.page.keyboard.press("n")
    playground.click(0.6, 0.5)
    playground.page.locator(".object-name").first.fill("Cup & saucer")
    playground.page.locator(".object-name").first.press("Enter")
    sent = [body for body in playground.segment_bodies() if "points" in body["prompts"][0]]

    dataset = json.loads(playground.save("#save-coco"))
    playground.unfold("#svg-tolerance")
    playground.page.fill("#svg-tolerance", "0")
    svg = playground.save("#save-svg").decode()
    together = np.asarray(image(playground.save("#save-mask")).convert("L")) > 127

    masks = [annotated_pixels(annotation["segmentation"], (240, 320)) for annotation in dataset["annotations"]]
    assert dataset["images"] == [{"id": 1, "file_name": "photo.png", "width": 320, "height": 240}]
    assert [each["attributes"]["name"] for each in dataset["annotations"]] == ["Cup & saucer", "Object 2"]
    assert np.array_equal(masks[1], pixels(answer(bundled_url, sent[-1])["results"][0]["masks"][0]["rle"]))
    for annotation, mask in zip(dataset["annotations"], masks, strict=True):
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
    paths = re.findall(r' d="([^"]+)"', svg)
    assert [np.array_equal(svg_pixels(path, (240, 320)), mask) for path, mask in zip(paths, masks, strict=True)] == [
        True,
        True,
    ]
    assert "<title>Cup &amp; saucer</title>" in svg
    assert np.array_equal(together, masks[0] | masks[1])


def test_one_object_of_several_can_be_exported_alone(playground, photo):
    playground.open_file(photo)
    playground.click(0.45, 0.4)
    playground.page.click("#add-object")
    playground.click(0.6, 0.5)

    playground.page.check("#only-selected")

    dataset = json.loads(playground.save("#save-coco"))
    assert [annotation["attributes"]["name"] for annotation in dataset["annotations"]] == ["Object 2"]


def test_the_copied_curl_command_gives_the_same_answer(playground, photo, tmp_path):
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.open_file(photo)
    playground.click(*MIDDLE)

    playground.unfold("#copy-curl")
    playground.page.click("#copy-curl")
    playground.page.locator("#toast.is-shown", has_text="Copied").wait_for()
    command = playground.page.evaluate("() => navigator.clipboard.readText()")

    environment = {"PATH": "/usr/bin:/bin", "no_proxy": "*"}
    ran = subprocess.run(
        ["bash", "-euc", command], cwd=photo.parent, env=environment, capture_output=True, timeout=60, check=True
    )
    embedded, segmented = (json.loads(line) for line in ran.stdout.replace(b"}{", b"}\n{").splitlines())
    assert segmented["image_hash"] == embedded["image_hash"]
    assert len(segmented["results"][0]["masks"]) == 4


def test_hovering_shows_what_a_click_would_give(playground, small):
    playground.open_file(small)
    playground.page.mouse.move(*playground.at(0.1, 0.1))
    before = playground.drawn()

    for step in range(20):
        playground.page.mouse.move(*playground.at(0.3 + step / 50, 0.45))
    wait_until(lambda: playground.drawn() > before + 1000, timeout_s=30, what="no preview was drawn")

    assert len(playground.segment_bodies()) >= 1
    assert playground.clicks == 0
    playground.page.mouse.move(1, 1)
    wait_until(lambda: playground.drawn() == 0, timeout_s=30, what="the preview stayed")


def test_many_moves_of_the_pointer_ask_for_the_preview_of_the_last_place(playground, small):
    playground.open_file(small)
    moves = [playground.at(0.3 + step / 50, 0.45) for step in range(20)]

    # In one task of the page, so that the number of requests does not depend on the speed of the machine.
    playground.page.evaluate(
        """(moves) => moves.forEach(([clientX, clientY]) => document.getElementById("upper").dispatchEvent(
            new PointerEvent("pointermove", { clientX, clientY, pointerType: "mouse", bubbles: true })))""",
        moves,
    )
    wait_until(lambda: playground.drawn() > 1000, timeout_s=30, what="no preview was drawn")

    points = [body["prompts"][0]["points"][0] for body in playground.segment_bodies()]
    places = [playground.place(point["x"], point["y"]) for point in points]
    assert len(places) == 1
    assert places[0] == pytest.approx((0.68, 0.45), abs=0.01)


def test_zoom_and_pan_move_the_image_under_the_pointer(playground, small):
    playground.open_file(small)
    fitted = playground.page.text_content("#zoom")
    playground.page.mouse.move(*playground.at(*MIDDLE))

    playground.page.mouse.wheel(0, -600)
    playground.page.locator(f"#zoom:not(:has-text('{fitted}'))").wait_for()
    playground.click(*MIDDLE)
    near = playground.segment_bodies()[-1]["prompts"][0]["points"][0]
    playground.drag((0.5, 0.5), (0.6, 0.5), button="middle")
    playground.page.click("#clear")
    playground.click(*MIDDLE)
    moved = playground.segment_bodies()[-1]["prompts"][0]["points"][0]
    playground.page.keyboard.press("0")
    playground.page.locator("#zoom", has_text=fitted).wait_for()
    playground.page.click("#clear")
    playground.click(*MIDDLE)
    far = playground.segment_bodies()[-1]["prompts"][0]["points"][0]

    assert near == pytest.approx(far, abs=1.5)  # zooming keeps what is under the pointer
    assert moved["x"] < near["x"] - 10


def test_the_keyboard_alone_reaches_a_saved_cut_out(playground):
    playground.page.focus("[data-sample='dahlia.jpg']")
    playground.page.keyboard.press("Enter")
    playground.wait_ready()

    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        playground.page.keyboard.press(key)
    playground.wait_for_clicks(1)
    with playground.page.expect_download() as waiting:
        playground.page.keyboard.press("Control+s")

    assert waiting.value.suggested_filename == "dahlia-cutout.png"
    assert playground.segment_bodies()[-1]["prompts"][0]["points"][0]["label"] == 1


def test_the_preview_of_the_cut_out_shows_squares_where_nothing_is(playground, small):
    playground.open_file(small)
    playground.click(*MIDDLE)
    mask = np.asarray(image(playground.save("#save-mask")).convert("L")) > 127

    playground.page.click("#cut-out")
    seen = image(playground.page.screenshot()).convert("RGB")

    assert playground.page.get_attribute("#cut-out", "aria-pressed") == "true"
    corners = np.array([playground.at(*playground.place(0, 0)), playground.at(*playground.place(320, 240))])
    outside = np.argwhere(~mask)[:, ::-1] + 0.5
    places = corners[0] + outside / (320, 240) * (corners[1] - corners[0])
    shades = {seen.getpixel((int(x), int(y))) for x, y in places.tolist()}
    assert {(255, 255, 255), (220, 220, 216)} <= shades
    playground.page.click("#undo")
    assert playground.page.get_attribute("#cut-out", "aria-pressed") == "false"


def test_the_strip_shows_stages_and_percentiles(playground, small):
    playground.open_file(small)
    for x in (0.4, 0.5, 0.6):
        playground.click(x, 0.45)

    strip = playground.page.locator("#latency")
    assert "model" in strip.locator("[data-part=bar]").get_attribute("aria-label")
    assert int(strip.locator("[data-part=p50]").text_content()) <= int(strip.locator("[data-part=p95]").text_content())


def test_an_image_of_twelve_megapixels_shows_its_upload_and_is_cut_out_in_full(
    playground, bundled_url, tmp_path, next_seed
):
    path = tmp_path / "large.jpg"
    Image.fromarray(noise_image((3000, 4000), next_seed)).save(path, quality=90)
    session = playground.page.context.new_cdp_session(playground.page)
    rates = {"downloadThroughput": -1, "uploadThroughput": path.stat().st_size, "latency": 1}  # about a second
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", {"offline": False, **rates})

    playground.page.set_input_files("#file", path)
    playground.page.locator("#progress-text", has_text=re.compile(r"Uploading the image [1-9]\d? %")).wait_for()
    playground.wait_ready()
    playground.click(*MIDDLE)
    saved = image(playground.save("#save-mask"))

    best = answer(bundled_url, playground.segment_bodies()[-1])["results"][0]["masks"][0]
    assert playground.page.text_content("#image-size") == "4000 × 3000"
    assert np.array_equal(np.asarray(saved.convert("L")) > 127, pixels(best["rle"]))


def test_an_image_that_was_evicted_is_embedded_again_by_itself(playground, photo, bundled_url):
    playground.open_file(photo)
    image_hash = playground.sent("HEAD", "/embed/")[0].url[-64:]
    with open_client(bundled_url) as client:
        assert client.delete(f"/embed/{image_hash}").status_code == 204
    playground.errors.clear()

    playground.click(*MIDDLE)

    assert len(playground.sent("POST", "/embed")) == 2
    assert not playground.page.locator("#notice").is_visible()
    # The browser itself writes down that a request was answered 404.
    assert all("404" in error and "/segment" in error for error in playground.errors)
    playground.errors.clear()


def test_over_plain_http_the_page_hashes_and_copies_without_the_browsers_help(visit, photo, bundled_url):
    playground = visit(url=bundled_url.replace("127.0.0.1", PLAIN_HOST))
    assert playground.page.evaluate("() => window.crypto.subtle === undefined")

    playground.open_file(photo)
    playground.click(*MIDDLE)
    playground.unfold("#copy-curl")
    playground.page.click("#copy-curl")

    playground.page.locator("#toast.is-shown", has_text="Copied").wait_for()
    assert len(playground.sent("POST", "/embed")) == 1  # and the service found the same hash
    with open_client(bundled_url) as client:
        assert client.head(f"/embed/{playground.segment_bodies()[0]['image_hash']}").status_code == 200


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("notes.txt", b"no image", "cannot show"),
        ("broken.png", b"\x89PNG\r\n\x1a\n" + b"0" * 64, "cannot show"),
    ],
)
def test_what_is_no_image_is_answered_with_what_to_do(playground, tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)

    playground.page.set_input_files("#file", path)

    playground.page.locator("#notice", has_text=says).wait_for()
    assert playground.page.inner_text("#notice [data-part=action]") == "Choose an image"


def test_a_phone_taps_presses_long_and_scrolls_nothing_sideways(visit):
    phone = visit(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True, device_scale_factor=2)
    phone.page.tap("[data-sample='dogs.jpg']")
    phone.wait_ready()

    phone.page.touchscreen.tap(*phone.at(*MIDDLE))
    phone.wait_for_clicks(1)
    x, y = phone.at(0.6, 0.5)
    session = phone.page.context.new_cdp_session(phone.page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    phone.wait_for_clicks(2)  # while the finger is still down
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    assert [point["label"] for point in phone.segment_bodies()[-1]["prompts"][0]["points"]] == [1, 0]
    assert phone.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert phone.save("#save-cut-out").startswith(b"\x89PNG")
    for button in ("#include", "#undo", "#more"):
        assert phone.page.locator(button).bounding_box()["height"] >= 44


def test_two_fingers_zoom_and_are_no_click(visit, small):
    phone = visit(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True, device_scale_factor=2)
    phone.open_file(small)
    fitted = phone.page.text_content("#zoom")
    (x, y), session = phone.at(*MIDDLE), phone.page.context.new_cdp_session(phone.page)

    for kind, spread in (("touchStart", 20), ("touchMove", 50), ("touchMove", 90)):
        points = [{"x": x - spread, "y": y, "id": 0}, {"x": x + spread, "y": y, "id": 1}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    assert int(phone.page.text_content("#zoom").split()[0]) > 2 * int(fitted.split()[0])
    assert phone.segment_bodies() == []


def test_help_says_what_the_model_is_and_under_which_licence(playground, bundled_url):
    (model,) = httpx.get(f"{bundled_url}models", trust_env=False).json()["models"]

    playground.page.click("#help")

    about = playground.page.locator("#about-model")
    assert about.is_visible()
    for part in ("name", "architecture", "encoder", "licence"):
        assert about.locator(f"[data-part={part}]").inner_text() == model[part]


def test_the_theme_is_kept_for_the_next_visit(playground):
    playground.page.click("#theme")
    chosen = playground.page.get_attribute("html", "data-theme")

    playground.visit()

    assert chosen == "dark"
    assert playground.page.get_attribute("html", "data-theme") == "dark"
