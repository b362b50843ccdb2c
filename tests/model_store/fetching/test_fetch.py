"""Downloads against a real server: right bytes, wrong bytes, half a body, silence, and ending amid it all."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from support.file_server import FileServer, Reply

from model_store.errors import UsageError
from model_store.fetching.fetch import FetchError, Limits, fetch
from model_store.fetching.mirrors import refuse_redirect, shown_url
from model_store.fetching.partial_download import DownloadInUseError, open_partial_download

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(len(DATA))
ONCE = Limits(connect_s=2.0, read_s=2.0, rounds=1)


@pytest.fixture(autouse=True)
def _no_proxy_for_this_machine(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fetch_data(urls, destination, *, limits=ONCE, **callbacks):
    sha256 = hashlib.sha256(DATA).hexdigest()
    return fetch(tuple(urls), destination, size_bytes=len(DATA), sha256=sha256, limits=limits, **callbacks)


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_fetched_and_nothing_else_is_left(tmp_path):
    seen = []
    with FileServer(model=Reply(DATA)) as server:
        destination = fetch_data(
            [server.url("model")], tmp_path / "new" / "m.pth", on_progress=lambda *p: seen.append(p)
        )

    assert destination.read_bytes() == DATA
    assert names_in(destination.parent) == ["m.pth"]
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))


def test_wrong_bytes_are_removed_and_both_hashes_are_named(tmp_path):
    with FileServer(model=Reply(OTHER)) as server, pytest.raises(FetchError) as caught:
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert hashlib.sha256(DATA).hexdigest() in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert names_in(tmp_path) == []


def test_a_mirror_with_wrong_bytes_is_not_tried_again_and_its_reason_is_named_once(tmp_path):
    limits = Limits(rounds=3, backoff_s=0.0)
    notices = []
    with FileServer(model=Reply(OTHER)) as server, pytest.raises(FetchError, match="wrong SHA-256"):
        fetch_data([server.url("model")], tmp_path / "m.pth", limits=limits, on_notice=notices.append)

    assert len(server.requests) == 1
    assert notices == []


def test_a_truncated_body_is_continued_by_the_next_call(tmp_path):
    with FileServer(model=Reply(DATA, break_after=100_000)) as server:
        with pytest.raises(FetchError, match="100000 of 300000 bytes are kept"):
            fetch_data([server.url("model")], tmp_path / "m.pth")
        server.replies["model"] = Reply(DATA)
        destination = fetch_data([server.url("model")], tmp_path / "m.pth")

    assert server.requests[1].headers["Range"] == "bytes=100000-"
    assert server.requests[1].headers["If-Range"] == '"first"'
    assert destination.read_bytes() == DATA
    assert names_in(tmp_path) == ["m.pth"]


def test_a_connection_that_breaks_again_and_again_still_brings_the_file(tmp_path):
    limits = Limits(rounds=3, backoff_s=0.0)
    notices = []
    with FileServer(model=Reply(DATA, break_after=100_000)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth", limits=limits, on_notice=notices.append)

    assert [request.headers.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / "m.pth").read_bytes() == DATA
    assert [notice.rpartition("; ")[2] for notice in notices] == ["attempt 2 of 3 follows", "attempt 3 of 3 follows"]


def test_the_second_mirror_is_used_when_the_first_has_no_such_file(tmp_path):
    with FileServer(model=Reply(DATA)) as server:
        fetch_data([server.url("absent"), server.url("model")], tmp_path / "m.pth")

    assert [request.path for request in server.requests] == ["absent", "model"]
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_the_second_mirror_continues_what_the_first_began(tmp_path):
    with FileServer(first=Reply(DATA, break_after=100_000), second=Reply(DATA, etag='"other"')) as server:
        fetch_data([server.url("first"), server.url("second")], tmp_path / "m.pth")

    assert server.requests[1].headers["Range"] == "bytes=100000-"
    assert "If-Range" not in server.requests[1].headers
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_server_error_is_tried_again_and_a_missing_file_is_not(tmp_path):
    limits = Limits(rounds=3, backoff_s=0.0)
    notices = []
    with FileServer(broken=Reply(status=500)) as server:
        broken, absent = server.url("broken"), server.url("absent")
        with pytest.raises(FetchError) as caught:
            fetch_data([broken, absent], tmp_path / "m.pth", limits=limits, on_notice=notices.append)

    assert [request.path for request in server.requests] == ["broken", "absent", "broken", "broken"]
    assert notices == [
        f"{broken}: the server responded with 500; attempt 2 of 3 follows",
        f"{absent}: the server responded with 404",
        f"{broken}: the server responded with 500; attempt 3 of 3 follows",
    ]
    assert "500" in str(caught.value)
    assert "404" in str(caught.value)


def test_a_server_without_ranges_begins_again(tmp_path):
    (tmp_path / "m.pth.part").write_bytes(DATA[:50_000])
    with FileServer(model=Reply(DATA, has_ranges=False)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert server.requests[0].headers["Range"] == "bytes=50000-"
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_file_that_changed_at_the_mirror_is_not_stitched_together(tmp_path):
    with FileServer(model=Reply(OTHER, break_after=100_000)) as server:
        with pytest.raises(FetchError):
            fetch_data([server.url("model")], tmp_path / "m.pth")
        server.replies["model"] = Reply(DATA, etag='"second"')
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert (tmp_path / "m.pth").read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_weak_tag_is_no_reason_to_trust_a_range(tmp_path):
    with FileServer(model=Reply(DATA, etag='W/"first"', break_after=100_000)) as server:
        with pytest.raises(FetchError):
            fetch_data([server.url("model")], tmp_path / "m.pth")
        server.replies["model"] = Reply(DATA, etag='W/"first"')
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert "If-Range" not in server.requests[1].headers
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_part_of_another_file_costs_one_more_transfer_and_no_more(tmp_path):
    (tmp_path / "m.pth.part").write_bytes(OTHER[:50_000])
    limits = Limits(rounds=2, backoff_s=0.0)
    with FileServer(model=Reply(DATA)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth", limits=limits)

    assert [request.headers.get("Range") for request in server.requests] == ["bytes=50000-", None]
    assert (tmp_path / "m.pth").read_bytes() == DATA


@pytest.mark.parametrize("part", [OTHER, DATA + b"more"])
def test_a_part_that_cannot_be_right_is_dropped_before_asking(tmp_path, part):
    (tmp_path / "m.pth.part").write_bytes(part)
    with FileServer(model=Reply(DATA)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert "Range" not in server.requests[0].headers
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_complete_partial_download_needs_no_server(tmp_path):
    (tmp_path / "m.pth.part").write_bytes(DATA)
    with FileServer() as server:
        fetch_data([server.url("absent")], tmp_path / "m.pth")

    assert server.requests == []
    assert names_in(tmp_path) == ["m.pth"]


def test_a_file_that_is_here_is_not_fetched_again(tmp_path):
    (tmp_path / "m.pth").write_bytes(DATA)
    with FileServer() as server:
        fetch_data([server.url("absent")], tmp_path / "m.pth")

    assert server.requests == []


def test_a_wrong_file_under_the_final_name_is_replaced(tmp_path):
    (tmp_path / "m.pth").write_bytes(OTHER)
    notices = []
    with FileServer(model=Reply(DATA)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth", on_notice=notices.append)

    assert (tmp_path / "m.pth").read_bytes() == DATA
    assert "replaced" in notices[0]


def test_silence_ends_in_bounded_time_and_what_came_is_kept(tmp_path):
    limits = Limits(read_s=0.2, rounds=1)
    started = time.monotonic()
    with (
        FileServer(model=Reply(DATA, stall_after=100_000)) as server,
        pytest.raises(FetchError, match="no response in time"),
    ):
        fetch_data([server.url("model")], tmp_path / "m.pth", limits=limits)

    assert time.monotonic() - started < 5.0
    assert (tmp_path / "m.pth.part").read_bytes() == DATA[:100_000]


def test_a_trickle_is_not_progress(tmp_path):
    limits = Limits(read_s=2.0, stall_s=0.2, rounds=1)
    started = time.monotonic()
    with FileServer(model=Reply(DATA, trickle_s=0.02)) as server, pytest.raises(FetchError, match="too slow"):
        fetch_data([server.url("model")], tmp_path / "m.pth", limits=limits)

    assert time.monotonic() - started < 5.0


def test_a_refused_connection_is_an_error_without_traceback(tmp_path):
    with FileServer() as server:
        url = server.url("model")

    with pytest.raises(FetchError, match="the connection failed"):
        fetch_data([url], tmp_path / "m.pth")


@pytest.mark.parametrize("data", [DATA + b"x", DATA[:-1]], ids=["longer", "shorter"])
def test_a_body_of_another_stated_length_is_refused_before_it_is_read(tmp_path, data):
    (tmp_path / "m.pth.part").write_bytes(DATA[:1000])
    with FileServer(model=Reply(data, has_ranges=False)) as server, pytest.raises(FetchError, match="were expected"):
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert (tmp_path / "m.pth.part").read_bytes() == DATA[:1000]


def test_a_body_that_does_not_end_is_never_written_beyond_the_size(tmp_path):
    sizes = []
    endless = DATA + OTHER

    def watch(_done, _total):
        sizes.append((tmp_path / "m.pth.part").stat().st_size)

    with (
        FileServer(model=Reply(endless, is_chunked=True)) as server,
        pytest.raises(FetchError, match="longer than the expected 300000 bytes"),
    ):
        fetch_data([server.url("model")], tmp_path / "m.pth", on_progress=watch)

    assert 0 < max(sizes) <= len(DATA)
    assert names_in(tmp_path) == []


def test_a_body_of_unstated_length_is_accepted_if_its_hash_is_right(tmp_path):
    with FileServer(model=Reply(DATA, is_chunked=True)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_different_range_than_requested_is_refused(tmp_path):
    (tmp_path / "m.pth.part").write_bytes(DATA[:1000])
    with FileServer(model=Reply(DATA, range_shift=7)) as server, pytest.raises(FetchError, match="different range"):
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert (tmp_path / "m.pth.part").read_bytes() == DATA[:1000]


def test_an_encoded_body_is_refused(tmp_path):
    with (
        FileServer(model=Reply(DATA, content_encoding="gzip")) as server,
        pytest.raises(FetchError, match="compressed"),
    ):
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_redirect_is_followed_with_the_range(tmp_path):
    (tmp_path / "m.pth.part").write_bytes(DATA[:1000])
    with FileServer(model=Reply(DATA)) as server:
        server.replies["front"] = Reply(redirect_to=server.url("model"))
        fetch_data([server.url("front")], tmp_path / "m.pth")

    assert server.requests[1].headers["Range"] == "bytes=1000-"
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_the_body_of_a_redirect_is_not_read(tmp_path):
    with FileServer(model=Reply(DATA)) as server:
        server.replies["front"] = Reply(DATA, redirect_to=server.url("model"), stall_after=100)
        fetch_data([server.url("front")], tmp_path / "m.pth")

    assert [request.path for request in server.requests] == ["front", "model"]
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_redirect_away_from_https_is_refused_and_the_next_mirror_used(tmp_path):
    notices = []
    with FileServer(front=Reply(redirect_to="http://mirror.invalid/x"), model=Reply(DATA)) as server:
        fetch_data([server.url("front"), server.url("model")], tmp_path / "m.pth", on_notice=notices.append)

    assert "only https" in notices[0]
    assert (tmp_path / "m.pth").read_bytes() == DATA


@pytest.mark.parametrize(
    "location", ["javascript:1", "http://xn--/", "http://[::1", "//", "http://127.0.0.1:port/", "https://\xff\xfe./"]
)
def test_a_redirect_to_no_url_is_an_error_of_the_mirror(tmp_path, location):
    with FileServer(front=Reply(redirect_to=location)) as server, pytest.raises(FetchError, match="could not fetch"):
        fetch_data([server.url("front")], tmp_path / "m.pth")

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "[::1]", "[fd00::1]"])
def test_a_redirect_from_outside_does_not_lead_into_this_network(host):
    request = httpx.Request("GET", "https://mirror.example/m.pth")
    response = httpx.Response(302, headers={"Location": f"https://{host}/m.pth"}, request=request)

    with pytest.raises(Exception, match="an address inside this network"):
        refuse_redirect(response)


def test_a_tag_that_no_request_can_contain_is_not_sent(tmp_path):
    with FileServer(model=Reply(DATA, etag='"\xe9"', break_after=1000)) as server:
        with pytest.raises(FetchError):
            fetch_data([server.url("model")], tmp_path / "m.pth")
        server.replies["model"] = Reply(DATA, etag='"\xe9"')
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert "If-Range" not in server.requests[1].headers
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_a_damaged_tag_file_is_ignored(tmp_path):
    (tmp_path / "m.pth.part").write_bytes(DATA[:1000])
    (tmp_path / "m.pth.part.etag").write_bytes(b"\xff\xfe")
    with FileServer(model=Reply(DATA)) as server:
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert names_in(tmp_path) == ["m.pth"]


def test_redirects_in_a_circle_end(tmp_path):
    with FileServer() as server:
        server.replies["front"] = Reply(redirect_to=server.url("front"))

        with pytest.raises(FetchError, match="too many redirects"):
            fetch_data([server.url("front")], tmp_path / "m.pth")


@pytest.mark.parametrize("url", ["http://mirror.invalid/m", "file:///etc/passwd", "ftp://x/y", "m.pth", "https://", ""])
def test_only_https_and_this_machine_are_allowed(tmp_path, url):
    with pytest.raises(UsageError, match="only https"):
        fetch_data([url], tmp_path / "m.pth")

    assert names_in(tmp_path) == []


def test_credentials_and_queries_of_an_address_are_never_shown(tmp_path):
    with FileServer() as server:
        url = server.url("absent").replace("//", "//me:secret@") + "?token=secret"

        with pytest.raises(FetchError) as caught:
            fetch_data([url], tmp_path / "m.pth")

    assert "secret" not in str(caught.value)
    assert shown_url("https://me:secret@host/a?token=secret#x") == "https://host/a"


def test_two_at_the_same_file_do_not_mix_their_bytes(tmp_path):
    with FileServer(model=Reply(DATA)) as server, open_partial_download(tmp_path / "m.pth") as part:
        part.append(DATA[:10])

        with pytest.raises(DownloadInUseError, match="another process"):
            fetch_data([server.url("model")], tmp_path / "m.pth")

    assert server.requests == []
    assert (tmp_path / "m.pth.part").read_bytes() == DATA[:10]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_process_leaves_a_partial_download_that_is_resumed(tmp_path, kind):
    script = (
        "import sys; from pathlib import Path; from model_store.fetching.fetch import fetch\n"
        "fetch((sys.argv[1],), Path(sys.argv[2]), size_bytes=int(sys.argv[3]), sha256=sys.argv[4],"
        " on_progress=lambda done, total: print(done, flush=True))"
    )
    sha256 = hashlib.sha256(DATA).hexdigest()
    with FileServer(model=Reply(DATA, stall_after=100_000)) as server:
        arguments = [server.url("model"), str(tmp_path / "m.pth"), str(len(DATA)), sha256]
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            while int(process.stdout.readline()) < 100_000:
                pass
            process.send_signal(kind)
            process.wait(timeout=10)
        server.replies["model"] = Reply(DATA)
        kept = (tmp_path / "m.pth.part").read_bytes()
        fetch_data([server.url("model")], tmp_path / "m.pth")

    assert process.returncode != 0
    assert kept == DATA[:100_000]
    assert server.requests[1].headers["Range"] == "bytes=100000-"
    assert (tmp_path / "m.pth").read_bytes() == DATA
    assert names_in(tmp_path) == ["m.pth"]
