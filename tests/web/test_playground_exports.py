"""Exports of the page: soft edges, indexed PNG, outlines, several images, and programs that use the service."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco
from shapely import LinearRing
from support.browser import needed_program, rules_broken
from support.noise_images import noise_file
from support.redis_server import wait_until
from support.service_process import ROOT

SIZE = (240, 320)
TIMEOUT_S = 120
PATH = "{http://www.w3.org/2000/svg}path"


def image(data):
    return Image.open(io.BytesIO(data))


def set_class(playground, position, name):
    """Give an object of the list a class, as a user does."""
    playground.page.locator(".object-select").nth(position).click()
    field = playground.page.locator(".object-class").nth(position)
    field.fill(name)
    field.press("Enter")


def point_bodies(playground):
    """Bodies of the requests of clicks, without previews and exports."""
    bodies = [body for body in playground.segment_bodies() if body.get("format") != "alpha"]
    return [body for body in bodies if "points" in body["prompts"][0]]


def asked(url, body, **changes):
    """The masks of the service's answer to a request of the page."""
    response = httpx.post(f"{url}segment", json={**body, **changes}, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()["results"][0]["masks"]


def whole(mask, size):
    """An alpha of the service in the whole image, (H, W)."""
    return np.asarray(image(base64.b64decode(mask["alpha"])).convert("L")).reshape(size)


@pytest.fixture
def clicked(playground, photo):
    """The page with one object on an image of 320 x 240 pixels."""
    playground.open_file(photo)
    playground.click(0.45, 0.4)
    return playground


def test_a_cut_out_has_the_soft_edge_of_the_service(clicked, bundled_url):
    body = point_bodies(clicked)[-1]
    clicked.page.focus("#upper")
    clicked.page.keyboard.press("Tab")  # the second mask

    saved = image(clicked.save("#save-cut-out"))

    mask = asked(bundled_url, body, format="alpha")[1]
    x0, y0, x1, y1 = mask["alpha_box"]
    alpha = whole(mask, SIZE)
    assert np.array_equal(np.asarray(saved)[..., 3], alpha[y0:y1, x0:x1])
    assert np.any((alpha > 0) & (alpha < 255))


def test_a_refined_mask_has_a_soft_edge_too(clicked, bundled_url):
    clicked.click(0.6, 0.5)
    body = point_bodies(clicked)[-1]

    saved = image(clicked.save("#save-cut-out"))

    assert "mask_id" in body["prompts"][0]
    (mask,) = asked(bundled_url, body, format="alpha")
    x0, y0, x1, y1 = mask["alpha_box"]
    assert np.array_equal(np.asarray(saved)[..., 3], whole(mask, SIZE)[y0:y1, x0:x1])


def test_a_cut_out_without_soft_edges_is_the_mask_and_the_choice_stays(clicked):
    clicked.page.uncheck("#soft-edges")
    mask = np.asarray(image(clicked.save("#save-mask")).convert("L")) > 127
    rows, columns = np.nonzero(mask)

    alpha = np.asarray(image(clicked.save("#save-cut-out")))[..., 3]

    expected = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert np.array_equal(alpha, np.where(expected, 255, 0))
    clicked.page.reload()
    clicked.page.locator("body.is-ready").wait_for()
    assert not clicked.page.locator("#soft-edges").is_checked()


def test_a_service_that_does_not_answer_leaves_a_cut_out_with_plain_edges(clicked):
    mask = np.asarray(image(clicked.save("#save-mask")).convert("L")) > 127
    clicked.page.route("**/segment", lambda route: route.fulfill(status=422, json={"code": "refused", "detail": "no"}))

    alpha = np.asarray(image(clicked.save("#save-cut-out")))[..., 3]

    clicked.page.locator("#toast.is-shown", has_text="not soft").wait_for()
    rows, columns = np.nonzero(mask)
    top, left = max(0, rows.min() - 1), max(0, columns.min() - 1)
    height, width = alpha.shape
    assert np.array_equal(alpha >= 128, mask[top : top + height, left : left + width])
    assert np.any((alpha > 0) & (alpha < 255))
    assert all("422" in error for error in clicked.errors)
    clicked.errors.clear()


def test_indexed_images_have_a_number_for_each_object_and_for_each_class(clicked):
    page = clicked.page
    for x in (0.55, 0.62):
        page.keyboard.press("n")
        clicked.click(x, 0.6)
    set_class(clicked, 0, "cup")
    set_class(clicked, 2, "cup")
    page.check("#only-selected")
    masks = []
    for position in range(3):
        page.locator(".object-select").nth(position).click()
        masks.append(np.asarray(image(clicked.save("#save-mask")).convert("L")) > 127)
    page.uncheck("#only-selected")

    objects = image(clicked.save("#save-index-objects"))
    classes = image(clicked.save("#save-index-classes"))

    expected, expected_classes = np.zeros(SIZE, int), np.zeros(SIZE, int)
    for index, mask in enumerate(masks):
        expected[mask] = index + 1
        expected_classes[mask] = [1, 2, 1][index]
    assert objects.mode == classes.mode == "P"
    assert np.array_equal(np.asarray(objects), expected)
    assert np.array_equal(np.asarray(classes), expected_classes)
    assert json.loads(objects.text["Labels"]) == {"1": "Object 1", "2": "Object 2", "3": "Object 3"}
    assert json.loads(classes.text["Labels"]) == {"1": "cup", "2": "object"}
    swatch = page.locator("#class-list input[type=color]").first.input_value()
    assert classes.getpalette()[3:6] == [int(swatch[i : i + 2], 16) for i in (1, 3, 5)]


def test_the_slider_of_the_outline_changes_the_corners_of_the_drawing(clicked):
    clicked.unfold("#svg-tolerance")
    shown = clicked.page.locator("#svg-corners")
    corners, paths = [], []
    for tolerance in ("0", "1", "5"):
        clicked.page.locator("#svg-tolerance").fill(tolerance)
        text = corners[-1] if corners else ""
        wait_until(lambda text=text: shown.text_content() not in ("", text), timeout_s=30, what="no count was shown")
        corners.append(shown.text_content())
        paths.append(ET.fromstring(clicked.save("#save-svg")).find(PATH).get("d"))

    counts = [int(text.split()[0].replace(",", "")) for text in corners]
    assert counts == sorted(counts, reverse=True)
    assert "Q" not in paths[0]
    for path in paths[1:]:
        assert "Q" in path
        for part in path.split("M")[1:]:
            points = [text.split("Q")[0].split() for text in part.removesuffix("Z").split("L")]
            assert LinearRing([tuple(map(float, point)) for point in points]).is_simple


@pytest.fixture
def three_images(playground, tmp_path, next_seed):
    """The page with an object on each of three images, two of which differ only in the endings of their names."""
    names = ["one.png", "two.png", "two.jpg.png"]
    paths = [tmp_path / name for name in names]
    for offset, path in enumerate(paths):
        path.write_bytes(noise_file(SIZE, next_seed + offset))
    for path in paths:
        playground.page.set_input_files("#file", [path])
        playground.page.locator("#image-size", has_text="320").wait_for()
        playground.wait_ready()
        playground.click(0.45, 0.4)
    set_class(playground, 0, "cup")
    return playground, names, [path.read_bytes() for path in paths]


def test_annotations_of_all_images_go_into_one_file(three_images):
    playground, names, contents = three_images

    dataset = json.loads(playground.save("#save-coco"))
    archive = zipfile.ZipFile(io.BytesIO(playground.save("#save-yolo")))

    assert [each["file_name"] for each in dataset["images"]] == names
    assert [each["image_id"] for each in dataset["annotations"]] == [1, 2, 3]
    assert [each["name"] for each in dataset["categories"]] == ["object", "cup"]
    for annotation in dataset["annotations"]:
        drawn = coco.decode(coco.merge(coco.frPyObjects(annotation["segmentation"], *SIZE)))
        assert drawn.sum() == annotation["area"] > 0
    images = [name for name in archive.namelist() if name.startswith("images/")]
    assert [archive.read(name) for name in images] == contents
    labels = [name for name in archive.namelist() if name.startswith("labels/")]
    assert [archive.read(name).decode().split()[0] for name in labels] == ["0", "0", "1"]
    assert yaml.safe_load(archive.read("data.yaml"))["names"] == {0: "object", 1: "cup"}


def test_files_of_all_images_go_into_an_archive_and_one_image_can_be_chosen(three_images):
    playground, names, _ = three_images

    cut_outs = zipfile.ZipFile(io.BytesIO(playground.save("#save-cut-out")))
    masks = zipfile.ZipFile(io.BytesIO(playground.save("#save-mask")))
    drawings = zipfile.ZipFile(io.BytesIO(playground.save("#save-svg")))
    playground.page.uncheck("#all-images")
    one = image(playground.save("#save-mask"))

    stems = [name.removesuffix(".png") for name in names]
    assert cut_outs.namelist() == [f"{stem}-cutout.png" for stem in stems]
    assert masks.namelist() == [f"{stem}-mask.png" for stem in stems]
    assert [name.removesuffix("-outline.svg") for name in drawings.namelist()] == stems
    for name in cut_outs.namelist():
        alpha = np.asarray(image(cut_outs.read(name)))[..., 3]
        assert alpha.max() == 255
        assert np.any((alpha > 0) & (alpha < 255))
    last = image(masks.read(masks.namelist()[-1]))
    assert np.array_equal(np.asarray(one.convert("L")), np.asarray(last.convert("L")))


def copied(playground, name):
    """The program that a copy button of the code panel copies."""
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.unfold(f"#tab-{name}")
    playground.page.click(f"#tab-{name}")
    playground.page.click(f"#copy-{name}")
    playground.page.locator("#toast.is-shown", has_text="Copied").wait_for()
    text = playground.page.evaluate("() => navigator.clipboard.readText()")
    assert text.strip() == playground.page.text_content(f"#code-{name} code").strip()
    return text


@pytest.fixture
def answered(clicked, bundled_url):
    """The page with an object of two points, and the areas of its masks as the programs get them."""
    clicked.click(0.6, 0.5, modifiers=["Shift"])
    body = point_bodies(clicked)[-1]
    (prompt,) = body["prompts"]
    lasting = {name: value for name, value in prompt.items() if name != "mask_id"}
    return clicked, [mask["area"] for mask in asked(bundled_url, body, prompts=[lasting])]


def test_the_python_program_runs(answered, photo):
    playground, areas = answered

    program = copied(playground, "python")

    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=photo.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [int(line.split()[1]) for line in ran.stdout.splitlines()] == areas


def test_the_javascript_program_runs_in_a_page(answered, photo):
    playground, areas = answered
    program = copied(playground, "javascript")
    page = playground.page.context.new_page()
    page.route("**/photo.png", lambda route: route.fulfill(body=photo.read_bytes(), content_type="image/png"))
    page.route(
        "**/program.js",
        lambda route: route.fulfill(body=program + "\ndocument.title = 'done';", content_type="text/javascript"),
    )
    logged = []
    page.on("console", lambda message: logged.append(message.text))

    page.goto(f"{playground.url}web/samples/samples.json")  # a page of this origin
    page.evaluate("() => import('/program.js')")
    wait_until(lambda: page.title() == "done", timeout_s=30, what="the program did not end")

    assert [int(text.split()[1]) for text in logged] == areas


def test_the_javascript_program_is_valid_in_node(answered, tmp_path):
    playground, _ = answered
    program = tmp_path / "program.mjs"
    program.write_text(copied(playground, "javascript"))

    checked = subprocess.run(
        [needed_program("node", "nodejs"), "--check", str(program)], capture_output=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_the_panel_links_the_documentation_and_the_model_card(clicked, bundled_url):
    clicked.unfold("#copy-curl")

    links = clicked.page.eval_on_selector_all("#code a:not([hidden])", "(all) => all.map(({ href }) => href)")

    assert f"{bundled_url}docs" in links
    assert any("card" in link for link in links)
    for link in links:
        assert httpx.get(link, trust_env=False, timeout=30).status_code == 200
    assert "Licence" in clicked.page.text_content("#code [data-part=licence]")


def test_tabs_of_the_code_panel_are_reached_by_arrow_keys(clicked):
    clicked.unfold("#tab-curl")
    clicked.page.focus("#tab-curl")

    clicked.page.keyboard.press("ArrowLeft")

    assert clicked.page.evaluate("() => document.activeElement.id") == "tab-javascript"
    assert clicked.page.locator("#code-javascript").is_visible()
    assert not clicked.page.locator("#code-curl").is_visible()


@pytest.mark.parametrize("window", [{"width": 1280, "height": 800}, {"width": 390, "height": 844}])
def test_the_open_panel_breaks_no_rule_of_accessibility(visit, photo, axe, window):
    playground = visit(viewport=window)
    playground.open_file(photo)
    playground.click(0.45, 0.4)
    set_class(playground, 0, "cup")
    for selector in ("#save-svg", "#class-list", "#opacity", "#copy-curl"):
        playground.unfold(selector)

    assert rules_broken(playground, axe) == []
    assert playground.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    overflow = playground.page.evaluate(
        "() => { const panel = document.querySelector('.panel'); return panel.scrollWidth - panel.clientWidth; }"
    )
    assert overflow <= 0


def test_a_mask_with_curves_stays_where_the_mask_is(clicked):
    clicked.unfold("#svg-tolerance")
    clicked.page.locator("#svg-tolerance").fill("1")
    mask = np.asarray(image(clicked.save("#save-mask")).convert("L")) > 127
    path = ET.fromstring(clicked.save("#save-svg")).find(PATH).get("d")

    drawn = clicked.page.evaluate(
        """(path) => {
            const context = new OffscreenCanvas(320, 240).getContext("2d");
            context.fill(new Path2D(path), "evenodd");
            return [...context.getImageData(0, 0, 320, 240).data].filter((_, i) => i % 4 === 3);
        }""",
        path,
    )

    found = np.reshape(drawn, SIZE) > 127
    assert np.count_nonzero(found & mask) > 0.9 * np.count_nonzero(found | mask)
    assert re.fullmatch(r"[MLQZ0-9. ]+", path)


def test_a_painted_mask_is_cut_out_as_it_was_painted_without_a_request(clicked):
    clicked.page.click("#brush")
    clicked.drag((0.3, 0.3), (0.4, 0.3))
    asked_before = len(clicked.segment_bodies())
    mask = np.asarray(image(clicked.save("#save-mask")).convert("L")) > 127

    alpha = np.asarray(image(clicked.save("#save-cut-out")))[..., 3]

    rows, columns = np.nonzero(mask)
    top, left = max(0, rows.min() - 1), max(0, columns.min() - 1)
    height, width = alpha.shape
    assert np.array_equal(alpha >= 128, mask[top : top + height, left : left + width])
    assert len(clicked.segment_bodies()) == asked_before


def test_cut_outs_of_all_images_have_soft_edges_after_a_reload_too(three_images):
    playground, names, _ = three_images
    before = zipfile.ZipFile(io.BytesIO(playground.save("#save-cut-out")))
    playground.wait_kept()

    playground.page.reload()
    playground.page.locator("body.is-ready").wait_for()
    playground.wait_shown(names[-1])
    playground.wait_ready()
    after = zipfile.ZipFile(io.BytesIO(playground.save("#save-cut-out")))

    assert playground.page.locator(".object-class").first.input_value() == "cup"
    assert after.namelist() == before.namelist()
    for name in before.namelist():
        alphas = [np.asarray(image(archive.read(name)))[..., 3] for archive in (before, after)]
        assert np.array_equal(*alphas)
