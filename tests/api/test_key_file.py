"""The file of API keys: its rules, reloading after a change, and the command that writes it."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from support.redis_server import wait_until

from service import keys
from service.api.access.key_file import MAX_FILE_BYTES, KeyFile, KeyFileError, keys_by_digest, parse_entries
from service.api.access.keys import ApiKeys, new_key
from service.api.access.rate_limit import RateLimit, RateLimiters
from service.app import create_app
from service.errors import RateLimited
from service.settings import Settings
from service.telemetry.metrics import Metrics

KEY = "esk_of-the-first-team-0123456789"


def entry(key=KEY, **members):
    return {"name": "a", "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["embed"], **members}


def text(*entries):
    return json.dumps(entries).encode()


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


@pytest.fixture
def known_keys(metrics):
    return ApiKeys(["a-key-of-the-environment"], metrics)


def shown(metrics, name):
    return metrics.registry.get_sample_value(name)


def test_an_entry_grants_its_namespace_roles_and_limits(known_keys):
    limits = {"segment": {"per_s": 2.5, "burst": 9}, "embed": {"at_once": 1}}
    known_keys.replace(
        keys_by_digest(parse_entries(text(entry(namespace="team", roles=["segment", "embed"], limits=limits))))
    )

    key = known_keys.find(KEY.encode())

    assert (key.caller.name, key.caller.namespace) == ("a", "team")
    assert key.roles == {"embed", "segment"}
    assert key.limits == {"segment": RateLimit(per_s=2.5, burst=9), "embed": RateLimit(at_once=1)}


def test_a_key_without_namespace_gets_its_own_and_an_empty_one_is_that_of_environment_keys(known_keys):
    known_keys.replace(keys_by_digest(parse_entries(text(entry(), entry("other" * 5, name="b", namespace="")))))

    assert known_keys.find(KEY.encode()).caller.namespace == "a"
    assert (
        known_keys.find(b"other" * 5).caller.namespace
        == known_keys.find(b"a-key-of-the-environment").caller.namespace
        == ""
    )


def test_keys_of_the_environment_have_all_roles_and_stay_valid_when_the_file_changes(known_keys, metrics):
    known_keys.replace(keys_by_digest(parse_entries(text(entry()))))
    known_keys.replace({})

    assert known_keys.find(b"a-key-of-the-environment").roles == {"embed", "segment", "admin"}
    assert known_keys.find(KEY.encode()) is None
    assert shown(metrics, "edgesam_api_keys") == 1


@pytest.mark.parametrize("given", [b"", b"esk_", KEY[:-1].encode(), KEY.encode() + b" ", b"\xff" * 40, b"x" * 10**6])
def test_a_wrong_key_is_not_found(known_keys, given):
    known_keys.replace(keys_by_digest(parse_entries(text(entry()))))

    assert known_keys.find(given) is None


def test_the_hash_of_a_key_is_no_key(known_keys):
    known_keys.replace(keys_by_digest(parse_entries(text(entry()))))

    assert known_keys.find(entry()["sha256"].encode()) is None
    assert known_keys.find(bytes.fromhex(entry()["sha256"])) is None


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "JSON"),
        (b"{}", "array"),
        (b"[" * 100_000, "JSON"),
        (b"\xff\xfe", "JSON"),
        (text(entry(roles=[])), "/0/roles"),
        (text(entry(roles=["root"])), "/0/roles"),
        (text(entry(name="a b")), "/0/name"),
        (text(entry(name="")), "/0/name"),
        (text(entry(namespace="a:b")), "/0/namespace"),
        (text(entry(namespace="@a")), "/0/namespace"),
        (text({**entry(), "key": KEY}), "/0/key"),
        (text({**entry(), "sha256": KEY}), "/0/sha256"),
        (text({**entry(), "sha256": entry()["sha256"].upper()}), "/0/sha256"),
        (text(entry(), entry("other", name="a")), "same name"),
        (text(entry(), entry(name="b")), "same sha256"),
        (text(entry(limits={"segment": {"per_s": 0}})), "per_s"),
        (text(entry(limits={"segment": {"burst": 3}})), "burst needs per_s"),
        (text(entry(limits={"delete": {"per_s": 1}})), "/0/limits"),
        (text(entry(limits={"embed": {"at_once": 0}})), "at_once"),
        (
            b'[{"name": "a", "sha256": "' + b"0" * 64 + b'", "roles": ["embed"], "limits": {"embed": {"per_s": NaN}}}]',
            "per_s",
        ),
    ],
)
def test_an_error_names_the_wrong_member_without_quoting_its_value(data, complaint):
    with pytest.raises(KeyFileError) as error:
        parse_entries(data)

    assert complaint in str(error.value)
    assert KEY not in str(error.value)
    assert error.value.__cause__ is None


@pytest.fixture
def watched(known_keys, metrics, tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(text(entry()))
    file = KeyFile(path, known_keys, metrics, read_every_s=0.01)
    file.load()
    yield file, path
    file.close()


def test_a_change_is_loaded_while_other_threads_look_keys_up(watched, known_keys, metrics):
    file, path = watched
    file.start()

    path.write_bytes(text(entry("another" * 3)))
    wait_until(lambda: known_keys.find(b"another" * 3) is not None, timeout_s=60)

    assert known_keys.find(KEY.encode()) is None
    assert shown(metrics, "edgesam_api_keys") == 2
    file.close()
    assert not file._thread.is_alive()


def test_a_secret_that_kubernetes_mounts_is_followed_through_its_links(known_keys, metrics, tmp_path):
    for name, key in (("..1", KEY), ("..2", "the-next-one-is-here")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.json").write_bytes(text(entry(key)))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    file = KeyFile(tmp_path / "keys.json", known_keys, metrics)
    file.load()

    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH105 - as the kubelet does
    file.reload()

    assert known_keys.find(KEY.encode()) is None
    assert known_keys.find(b"the-next-one-is-here") is not None


@pytest.mark.parametrize("damage", ["half", "gone", "folder", "pipe", "large"])
def test_an_unusable_file_keeps_the_known_keys_and_is_logged_once(watched, known_keys, metrics, damage, caplog):
    file, path = watched
    whole = path.read_bytes()
    path.unlink()
    if damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "large":
        path.write_bytes(b" " * (MAX_FILE_BYTES + 1))

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            file.reload()

    assert known_keys.find(KEY.encode()) is not None
    assert shown(metrics, "edgesam_api_keys_stale") == 1
    assert len([line for line in caplog.records if "cannot be used" in line.message]) == 1

    if path.exists():
        path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(whole)  # the old content: the file is valid again, and the warning ends
    file.reload()
    assert shown(metrics, "edgesam_api_keys_stale") == 0


def test_the_service_does_not_start_without_its_file(tmp_path):
    with pytest.raises(KeyFileError, match="none cannot be read: No such file or directory"):
        create_app(Settings(api_keys_file=tmp_path / "none"))


def test_the_command_makes_a_valid_key_and_stores_only_its_hash(known_keys, tmp_path, capsys):
    file = tmp_path / "keys.json"
    order = [
        "new",
        "--roles",
        "embed, segment",
        "--segment-per-s",
        "20",
        "--segment-burst",
        "40",
        "--add-to",
        str(file),
    ]

    assert keys.main([*order, "--name", "a-1", "--namespace", "a"]) == 0
    assert keys.main([*order, "--name", "b-1"]) == 0
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("key:")]
    known_keys.replace(keys_by_digest(parse_entries(file.read_bytes())))
    found = [known_keys.find(key.encode()) for key in printed]

    assert [key.caller.namespace for key in found] == ["a", "b-1"]
    assert all(key.limits == {"segment": RateLimit(per_s=20.0, burst=40)} for key in found)
    assert not any(key in file.read_text() for key in printed)
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.main(["check", str(file)]) == 0
    assert "a-1: embed, segment; namespace a" in capsys.readouterr().out


@pytest.mark.parametrize(
    "order",
    [
        ["new", "--name", "a", "--roles", "root"],
        ["new", "--name", "a b", "--roles", "embed"],
        ["new", "--name", "a", "--roles", "embed", "--embed-burst", "3"],
        ["new", "--name", "taken", "--roles", "embed", "--add-to", "FILE"],
        ["check", "/nowhere"],
    ],
)
def test_a_refused_command_changes_no_file_and_prints_no_key(order, tmp_path, capsys):
    file = tmp_path / "keys.json"
    file.write_bytes(text(entry(name="taken")))
    before = file.read_bytes()

    status = keys.main([str(file) if word == "FILE" else word for word in order])

    assert status == 2
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["keys.json"]  # noqa: PTH208 - names are compared
    assert "esk_" not in capsys.readouterr().out


def add(file):
    """Add a key to a file by the command; return its exit status."""
    return keys.main(["new", "--name", "added", "--roles", "embed", "--add-to", str(file)])


def test_adding_a_key_keeps_the_file_s_mode_and_owner(tmp_path):
    file = tmp_path / "keys.json"
    file.write_bytes(text(entry()))
    # A user other than root can still give a file to another group of that user.
    owner = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), max({os.getegid(), *os.getgroups()}))
    os.chown(file, *owner)
    file.chmod(0o640)

    assert add(file) == 0

    after = file.stat()
    assert (after.st_uid, after.st_gid) == owner
    assert after.st_mode & 0o7777 == 0o640
    assert [one.name for one in parse_entries(file.read_bytes())] == ["a", "added"]
    assert os.listdir(tmp_path) == ["keys.json"]  # noqa: PTH208 - names are compared


@pytest.mark.skipif(os.geteuid() != 0, reason="a file of somebody else is wanted, and only root can make one")
def test_a_file_whose_owner_cannot_be_kept_is_not_changed(capsys):
    with tempfile.TemporaryDirectory() as folder:  # other users cannot enter pytest's own folders
        file = Path(folder, "keys.json")
        file.write_bytes(text(entry()))
        file.chmod(0o644)
        Path(folder).chmod(0o777)

        os.seteuid(65534)
        try:
            status = add(file)
        finally:
            os.seteuid(0)

        assert status == 2
        assert file.read_bytes() == text(entry())
        assert os.listdir(folder) == ["keys.json"]  # noqa: PTH208 - names are compared
    told = capsys.readouterr()
    assert "belongs to another user or group" in told.err
    assert "esk_" not in told.out


@pytest.mark.parametrize("leads_to", ["keys.json", "nowhere"])
def test_a_link_is_not_followed_and_not_replaced(leads_to, tmp_path, capsys):
    file, link = tmp_path / "keys.json", tmp_path / "link.json"
    file.write_bytes(text(entry()))
    link.symlink_to(leads_to)

    assert add(link) == 2

    assert os.readlink(link) == leads_to  # noqa: PTH115 - as it was written
    assert file.read_bytes() == text(entry())
    told = capsys.readouterr()
    assert "is a link" in told.err
    assert "esk_" not in told.out


def test_keys_are_random_and_have_a_recognisable_prefix():
    made = {new_key() for _ in range(100)}

    assert len(made) == 100
    assert all(key.startswith("esk_") and len(key) == 47 for key in made)


async def test_requests_and_tokens_stay_counted_when_limits_change_in_the_file(watched, known_keys):
    file, path = watched
    rate_limiters = RateLimiters(None)

    def let_in(**limits):
        """Write the limits to the file; return the number of requests admitted then, which stay in progress."""
        path.write_bytes(text(entry(limits={"embed": limits})))
        file.reload()
        count = 0
        with contextlib.suppress(RateLimited):
            while count < 50:
                found = known_keys.find(KEY.encode())
                in_progress.enter_context(rate_limiters.permit(found.caller.name, "embed", found.limits["embed"]))
                count += 1
        return count

    with contextlib.ExitStack() as in_progress:
        at_once = [let_in(at_once=3), let_in(at_once=3, per_s=0.001, burst=9), let_in(at_once=5)]
        rates = [let_in(per_s=0.001, burst=4), let_in(per_s=0.001, burst=6), let_in(per_s=0.0001, burst=2)]
    await rate_limiters.aclose()

    assert at_once == [3, 0, 2]
    assert rates == [4, 2, 0]


def entry_of(name: str, **members) -> dict:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "roles": ["embed"], **members}


def test_a_namespace_that_is_the_name_of_a_key_without_one_is_refused():
    with pytest.raises(KeyFileError, match="acme"):
        parse_entries(json.dumps([entry_of("acme"), entry_of("other", namespace="acme")]).encode())


def test_the_hash_of_an_empty_key_is_refused():
    with pytest.raises(KeyFileError, match="empty key"):
        parse_entries(json.dumps([entry_of("unset", sha256=hashlib.sha256(b"").hexdigest())]).encode())
