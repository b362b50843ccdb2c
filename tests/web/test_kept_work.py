"""The work on open images survives a reload, two tabs do not mix theirs, and nothing is lost without a question."""

import contextlib
import json

import pytest
from support.browser import PLAIN_HOST, Playground
from support.noise_images import noise_file
from support.redis_server import wait_until

MIDDLE = (0.5, 0.45)
# What a browser does that stores nothing, as private windows of some browsers.
WITHOUT_STORAGE = """
    IDBFactory.prototype.open = () => { throw new DOMException("", "InvalidStateError"); };
"""
# What a browser does whose disk is full: it takes no large files.
FULL_DISK = """
    const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (value) {
        if (value.file?.size > 1e6) {
            this.transaction.abort();
            throw new DOMException("", "QuotaExceededError");
        }
        return put.call(this, value);
    };
"""
# What a browser does whose storage fails some times.
FAILING_DISK = """
    let failures = %d;
    const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (value) {
        if (failures-- > 0) {
            this.transaction.abort();
            throw new DOMException("", "UnknownError");
        }
        return put.call(this, value);
    };
"""
OPEN_DATABASE = """
    const done = (request) => new Promise((resolve) => { request.onsuccess = () => resolve(request.result); });
    const [{ name }] = await indexedDB.databases();
    const database = await done(indexedDB.open(name));
"""
# The number of records of each store of the page's database.
STORED = f"""async () => {{
    {OPEN_DATABASE}
    const found = {{}};
    for (const store of database.objectStoreNames) {{
        found[store] = await done(database.transaction(store).objectStore(store).count());
    }}
    database.close();
    return found;
}}"""
MAKE_OLD = f"""async () => {{
    {OPEN_DATABASE}
    const store = database.transaction("sessions", "readwrite").objectStore("sessions");
    const [session] = await done(store.getAll());
    await done(store.put({{ ...session, dump: {{ ...session.dump, version: 0 }} }}));
    database.close();
}}"""


@pytest.fixture
def photos(tmp_path, next_seed):
    """Two images that the service has not seen."""
    paths = [tmp_path / f"photo-{number}.png" for number in (1, 2)]
    for i, path in enumerate(paths):
        path.write_bytes(noise_file((240, 320), next_seed + i))
    return paths


@contextlib.contextmanager
def questions(playground):
    """The kinds of the browser's own questions in this block, which all get the answer yes."""
    asked = []

    def agree(dialog):
        asked.append(dialog.type)
        dialog.accept()

    playground.page.on("dialog", agree)
    yield asked
    playground.page.remove_listener("dialog", agree)


def reload(playground):
    playground.page.reload()
    playground.page.locator("body.is-ready").wait_for()


def test_images_objects_order_and_the_image_in_view_survive_a_reload(playground, photos):
    playground.open_files(photos)
    playground.click(*MIDDLE)
    playground.page.keyboard.press("n")
    playground.click(0.3, 0.3)
    playground.page.locator(".object-name").first.fill("Cup")
    playground.page.locator(".object-name").first.press("Enter")
    first = json.loads(playground.save("#save-coco"))
    playground.page.keyboard.press("PageDown")
    playground.wait_shown("photo-2.png")
    playground.click(*MIDDLE)
    playground.page.click("#zoom-in")
    zoom = playground.page.text_content("#zoom")
    playground.wait_kept()
    posted = len(playground.sent("POST", "/embed"))

    with questions(playground) as asked:
        reload(playground)
    playground.wait_shown("photo-2.png")
    again = playground.image_names, playground.page.text_content("#zoom"), playground.page.is_enabled("#save-mask")
    playground.page.keyboard.press("PageUp")
    playground.wait_shown("photo-1.png")

    assert asked == []
    assert again == (["photo-1.png", "photo-2.png"], zoom, True)
    exported = json.loads(playground.save("#save-coco"))["annotations"]
    assert exported[:2] == first["annotations"]
    assert [annotation["image_id"] for annotation in exported] == [1, 1, 2]
    assert playground.page.locator(".object-name").first.input_value() == "Cup"
    assert len(playground.sent("POST", "/embed")) == posted  # the service still has both images


def test_work_goes_on_after_a_reload(playground, photos):
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.wait_kept()
    reload(playground)
    playground.wait_shown("photo-1.png")

    playground.click(0.6, 0.5)
    playground.open_files(photos[1:])
    playground.wait_kept()
    reload(playground)
    playground.wait_shown("photo-2.png")

    points = playground.segment_bodies()[-1]["prompts"][0]["points"]
    assert len(points) == 2
    assert playground.image_names == ["photo-1.png", "photo-2.png"]
    assert playground.page.locator(".badge").all_inner_texts() == ["1", ""]


def test_zoom_alone_survives_a_reload_and_is_no_work_to_ask_about(playground, photos):
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.wait_kept()
    playground.page.click("#zoom-in")
    zoom = playground.page.text_content("#zoom")

    with questions(playground) as asked:
        reload(playground)
    playground.wait_shown("photo-1.png")

    assert asked == []
    assert playground.page.text_content("#zoom") == zoom


def test_start_over_stops_files_that_are_being_opened(playground, tmp_path, next_seed):
    paths = [tmp_path / f"{number:02}.png" for number in range(40)]
    for path in paths:
        path.write_bytes(noise_file((600, 800), next_seed))
    playground.page.set_input_files("#file", paths)
    playground.page.locator("#images.is-opening").wait_for()

    playground.page.click("#start-over")
    playground.page.click("#question-yes")
    playground.page.locator("#toast.is-shown", has_text="removed").wait_for()
    playground.page.locator("#images:not(.is-opening)").wait_for(state="attached")

    assert playground.page.locator(".thumbnail").count() == 0
    assert playground.page.locator(".welcome").is_visible()


def test_a_closed_image_does_not_come_back(playground, photos):
    playground.open_files(photos)
    playground.wait_kept()

    playground.page.get_by_role("button", name="Close photo-1.png").click()
    playground.wait_shown("photo-2.png")
    wait_until(
        lambda: playground.page.evaluate(STORED)["images"] == 1, timeout_s=30, what="the closed image stayed stored"
    )
    reload(playground)
    playground.wait_shown("photo-2.png")

    assert playground.page.locator(".thumbnail").count() == 1


def test_start_over_asks_and_removes_everything(playground, photos):
    playground.open_files(photos)
    playground.click(*MIDDLE)
    playground.wait_kept()
    before = playground.page.evaluate(STORED)

    playground.page.click("#start-over")
    playground.page.get_by_role("button", name="Cancel").click()
    still = playground.image_names
    playground.page.click("#start-over")
    playground.page.click("#question-yes")
    playground.page.locator("#toast.is-shown", has_text="removed").wait_for()
    after = playground.page.evaluate(STORED)
    reload(playground)

    assert before == {"images": 2, "sessions": 2, "works": 1}
    assert still == ["photo-1.png", "photo-2.png"]
    assert after == {"images": 0, "sessions": 0, "works": 0}
    assert playground.page.locator(".welcome").is_visible()


def test_two_tabs_keep_their_own_work(playground, photos):
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.wait_kept()

    other = Playground(playground.page.context, playground.url)
    other.visit()
    other.page.locator("#kept-note[data-state=kept]").wait_for(state="attached")
    is_empty = other.page.locator(".welcome").is_visible()
    other.open_files(photos[1:])
    other.wait_kept()
    reload(playground)
    playground.wait_shown("photo-1.png")
    reload(other)
    other.wait_shown("photo-2.png")

    assert is_empty
    assert playground.page.is_enabled("#save-mask")
    assert [len(tab.image_names) for tab in (playground, other)] == [1, 1]
    assert other.errors == []


def test_a_new_tab_takes_up_the_work_of_a_closed_one(playground, photos):
    context = playground.page.context
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.wait_kept()
    playground.page.close()

    later = Playground(context, playground.url)
    later.visit()
    later.wait_shown("photo-1.png")

    assert later.page.is_enabled("#save-mask")


def test_more_tabs_than_are_kept_say_so(playground):
    context = playground.page.context
    tabs = [playground]
    for _ in range(4):
        tab = Playground(context, playground.url)
        tab.visit()
        tabs.append(tab)
        tab.page.locator("#kept-note:not(:empty)").wait_for(state="attached")

    states = [tab.page.get_attribute("#kept-note", "data-state") for tab in tabs]

    assert states == ["kept"] * 4 + ["tabs"]


@pytest.mark.parametrize("why", ["no storage", "plain http"])
def test_where_nothing_is_stored_the_page_works_and_asks_before_it_is_left(visit, bundled_url, photos, why):
    if why == "plain http":
        playground = visit(url=bundled_url.replace("127.0.0.1", PLAIN_HOST))
    else:
        playground = visit()
        playground.page.context.add_init_script(WITHOUT_STORAGE)
        playground.visit()
    playground.open_files(photos[:1])
    note = playground.page.inner_text("#kept-note")
    with questions(playground) as asked_before:
        reload(playground)
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    with questions(playground) as asked:
        reload(playground)
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.save("#save-coco")
    with questions(playground) as asked_after_export:
        reload(playground)

    assert "does not keep your work" in note
    assert asked_before == []  # an image without objects is no work
    assert asked == ["beforeunload"]
    assert asked_after_export == []


def test_a_full_storage_is_told_and_what_fits_is_kept(playground, photos, tmp_path, next_seed):
    playground.page.context.add_init_script(FULL_DISK)
    playground.visit()
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.wait_kept()
    large = tmp_path / "large.png"
    large.write_bytes(noise_file((1500, 1500), next_seed))

    playground.open_files([large])
    playground.page.locator("#notice", has_text="no space left").wait_for()
    playground.page.locator("#kept-note[data-state=full]").wait_for(state="attached")
    playground.click(*MIDDLE)
    with questions(playground) as asked:
        reload(playground)
    playground.wait_shown("photo-1.png")

    assert asked == ["beforeunload"]  # the work on the large image
    assert playground.page.locator(".thumbnail").count() == 1
    assert playground.page.is_enabled("#save-mask")


def test_work_of_another_version_of_the_page_leaves_the_images(playground, photos):
    playground.open_files(photos[:1])
    playground.click(*MIDDLE)
    playground.wait_kept()
    playground.page.evaluate(MAKE_OLD)

    reload(playground)
    playground.page.locator("#notice", has_text="earlier work").wait_for()
    playground.wait_shown("photo-1.png")

    assert playground.page.is_disabled("#save-mask")


def test_work_is_stored_although_the_storage_failed_once(playground, photos):
    playground.page.context.add_init_script(FAILING_DISK % 1)
    reload(playground)
    playground.open_files(photos)
    playground.wait_kept()

    reload(playground)

    playground.wait_shown("photo-1.png")
    assert playground.page.locator(".thumbnail").count() == 2


def test_a_storage_that_always_fails_is_not_called_full(playground, photos):
    playground.page.context.add_init_script(FAILING_DISK % 1_000_000)
    reload(playground)
    playground.open_files(photos)

    playground.page.locator("body", has_text="This browser does not keep your work").wait_for()
