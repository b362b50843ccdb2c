"""The page says in words what the served models are, and switches between them."""

import json

import httpx
import pytest
from support.browser import rules_broken
from support.noise_images import noise_file

MIDDLE = (0.5, 0.45)
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def models_of(url):
    return httpx.get(f"{url}/models", trust_env=False).json()["models"]


@pytest.fixture
def two(visit, two_models_url):
    """The page of the service with two models."""
    playground = visit(url=f"{two_models_url}/")
    playground.page.locator("#welcome-model").wait_for()
    return playground


def words(playground, place):
    return " ".join(playground.page.locator(place).inner_text().split())


def chosen(playground, place):
    return playground.page.locator(f"{place} input:checked").get_attribute("value")


def choose(playground, name):
    """Choose a model beside an image without prompts, and wait until it has embedded the image."""
    playground.page.evaluate("document.getElementById('status').textContent = ''")
    playground.page.locator(f"#panel-model input[value='{name}']").check()
    playground.wait_ready()


def test_one_model_is_described_in_a_paragraph_with_its_licence_and_card(playground, bundled_url, small):
    (model,) = models_of(bundled_url.rstrip("/"))
    place = playground.page.locator("#welcome-model")
    place.wait_for()

    said = words(playground, "#welcome-model")
    with playground.page.context.expect_page() as opened:
        place.get_by_role("link", name="Model card").click()
    card = opened.value.locator("body").inner_text()
    playground.open_file(small)
    playground.page.locator("#panel-model summary").click()

    description = (
        "Small model trained by this project. Better ones are one command away: "
        "edgesam serve --model edgetam. Licence: research and non-commercial use. Model card"
    )
    assert said == f"{model['name']} – {description}"
    assert words(playground, "#panel-model") == f"Model {model['name']} {description}"
    assert place.locator("code").text_content() == "edgesam serve --model edgetam"
    assert card.startswith("# edgesam-lite")
    assert not playground.page.locator(".served-model [data-part=choices]:visible").count()
    assert playground.page.locator("#untrained").is_hidden()


def test_each_of_several_models_says_what_it_is_for(two, two_models_url):
    first, second = models_of(two_models_url)

    listed = two.page.locator("#welcome-model").get_by_role("group", name="Model").get_by_role("radio")

    assert [radio.get_attribute("value") for radio in listed.all()] == [first["name"], second["name"]]
    assert chosen(two, "#welcome-model") == first["name"]
    assert "Small model trained by this project." in words(two, "#welcome-model label:first-of-type")
    assert second["summary"] in words(two, "#welcome-model label:last-of-type")
    assert second["summary"] == "This model is not trained. Its masks mean nothing."


def test_the_licence_behind_several_models_is_that_of_the_chosen_one_by_name(two, two_models_url, photo):
    first, second = models_of(two_models_url)
    before = words(two, "#welcome-model > p")
    two.open_file(photo)
    choose(two, second["name"])

    assert before.startswith(f"{first['name']} – Licence: ")
    assert words(two, "#panel-model > p").startswith(f"{second['name']} – Licence: ")


def test_another_model_embeds_the_image_and_answers_all_prompts_anew(two, two_models_url, small):
    first, second = (model["name"] for model in models_of(two_models_url))
    two.open_file(small)
    two.click(*MIDDLE)
    two.click(0.6, 0.5)
    two.page.click("#add-object")
    two.click(0.3, 0.3)
    asked_before = two.segment_bodies()
    sent_before = len(two.sent("POST", "/embed"))

    two.page.locator(f"#panel-model input[value='{second}']").check()
    two.wait_for_clicks(5)  # both objects once more
    asked = two.segment_bodies()[len(asked_before) :]
    embeds = two.sent("POST", "/embed")[sent_before:]
    points = {len(body["prompts"][0]["points"]) for body in asked}
    answers = [httpx.post(f"{two_models_url}/segment", json=body, trust_env=False).json() for body in asked]
    two.page.click("#undo")
    two.says("found")

    assert {body["model"] for body in asked_before} == {first}
    assert {body["model"] for body in asked} == {second}
    assert points == {1, 2}
    assert all("mask_id" not in body["prompts"][0] for body in asked)  # a mask of the first model is not refined
    assert {answer["model"] for answer in answers} == {second}
    assert [request.url.partition("?")[2] for request in embeds] == [f"model={second}"]
    assert two.page.text_content("#model") == second
    assert two.page.locator("#untrained").is_visible()


def test_images_that_are_not_in_view_keep_the_masks_of_their_model_until_they_are_shown(
    two, two_models_url, tmp_path, next_seed
):
    _, second = (model["name"] for model in models_of(two_models_url))
    paths = [tmp_path / f"{number}.png" for number in (1, 2)]
    for i, path in enumerate(paths):
        path.write_bytes(noise_file((120, 160), next_seed + i))
    two.open_files(paths)
    two.click(*MIDDLE)
    two.page.keyboard.press("PageDown")
    two.wait_shown("2.png")
    two.click(*MIDDLE)

    two.page.locator(f"#panel-model input[value='{second}']").check()
    two.wait_for_clicks(3)  # the prompt of the image in view
    badges = two.page.locator(".badge").all_inner_texts()
    two.page.keyboard.press("PageUp")
    two.wait_for_clicks(4)

    asked = [body for body in two.segment_bodies() if "points" in body["prompts"][0]]
    assert badges[0] == "1"  # its mask can be exported
    assert [body["model"] for body in asked[-2:]] == [second, second]
    assert asked[-1]["image_hash"] == asked[0]["image_hash"]


def test_the_choice_is_made_by_keyboard_and_kept_for_the_next_visit(two, two_models_url, small):
    first, second = (model["name"] for model in models_of(two_models_url))
    two.page.locator(f"#welcome-model input[value='{first}']").focus()

    two.page.keyboard.press("ArrowDown")
    two.visit()
    two.page.locator("#welcome-model").wait_for()
    kept = chosen(two, "#welcome-model"), chosen(two, "#panel-model")
    two.open_file(small)
    two.click(*MIDDLE)
    two.unfold("#copy-curl")
    two.page.click("#copy-curl")

    assert kept == (second, second)
    assert two.segment_bodies()[-1]["model"] == second


def test_a_copied_curl_command_names_the_model(two, two_models_url, photo):
    second = models_of(two_models_url)[1]["name"]
    two.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    two.open_file(photo)
    choose(two, second)
    two.click(*MIDDLE)

    two.unfold("#copy-curl")
    two.page.click("#copy-curl")
    copied = two.page.evaluate("navigator.clipboard.readText()")

    embed, segment = copied.splitlines()
    assert f"embed?model={second}'" in embed
    assert json.loads(segment.split(" -d '")[1].removesuffix("'"))["model"] == second


def test_a_model_that_went_away_is_answered_with_what_to_do(two, small):
    two.open_file(small)
    two.page.route("**/segment", lambda route: route.continue_(post_data=renamed(route.request)))

    two.press(*MIDDLE)
    two.page.locator("#notice", has_text="no longer has this model").wait_for()

    assert "reload this page" in two.page.text_content("#notice")
    assert all("404" in error for error in two.errors)
    two.errors.clear()  # Chromium writes down each 404


def renamed(request):
    """The body of a request to /segment with a model that the service does not have."""
    return json.dumps({**json.loads(request.post_data), "model": "gone"})


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=str)
def test_the_description_of_two_models_follows_the_rules(visit, two_models_url, axe, options, small):
    playground = visit(url=f"{two_models_url}/", **options)
    playground.page.locator("#welcome-model").wait_for()

    found = rules_broken(playground, axe)
    playground.open_file(small)
    playground.page.locator("#panel-model").scroll_into_view_if_needed()
    found += rules_broken(playground, axe)
    width = playground.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")

    assert found == []
    assert width[0] <= width[1]
