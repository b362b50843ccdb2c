"""Faults of processes: termination, full disk, little memory, changed clock, and corrupt or changed models."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import httpx
from PIL import Image
from support.redis_server import RedisServer, wait_until
from support.service_client import embed, open_client, point, segment, wait_for_in_flight
from support.service_process import ROOT, ServiceProcess
from tools.faults.outcome import Outcome
from tools.faults.scene import (
    Scene,
    Stream,
    click,
    embed_all,
    ok_only,
    peak_bytes,
    problems_only,
    process_sample,
    reset_peak,
)

LOST = "404 embedding-not-found"
CONNECTION = {"ConnectionResetError", "ConnectionRefusedError"}
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
_CGROUPS = Path("/sys/fs/cgroup/memory")
MIB = 1 << 20


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Run all faults, or in the quick form the termination of replicas only."""
    outcome = Outcome("Process")
    terminated_and_killed(scene, outcome)
    if not quick:
        corrupt_model(scene, outcome)
        swapped_model(scene, outcome)
        full_disk(scene, outcome)
        read_only_root(scene, outcome)
        changed_clock(scene, outcome)
        memory_limits(scene, outcome)
    return outcome


def terminated_and_killed(scene: Scene, outcome: Outcome) -> None:
    """Terminate and later kill one of two replicas behind a load balancer with health checks on /readyz."""
    effort = scene.effort
    server = scene.enter(RedisServer())
    settings = {"redis_url": server.url, "drain_s": effort.drain_s}
    first, second = scene.service(**settings), scene.service(**settings)
    hashes = embed_all(first.url, scene.images())
    clicks = [click(image_hash, number) for number in range(8) for image_hash in hashes]

    def stream(*services: ServiceProcess) -> Stream:
        return Stream("clicks on two replicas", [one.url for one in services], clicks, effort.clicks_per_s)

    (row,) = scene.watch(
        "SIGTERM to one of two", [stream(first, second)], first.terminate, lambda: None, during_s=effort.drain_s + 1.0
    )
    outcome.rows.append(row)
    ok_only(outcome, row)
    first.process.wait(60)
    third = scene.service(**settings)
    waits: list[tuple[float, int]] = []
    (row,) = scene.watch(
        "SIGKILL of one of two during an encode",
        [stream(third, second)],
        lambda: kill_owner(third, second, scene.image(), server, waits),
        lambda: None,
    )
    outcome.rows.append(row)
    problems_only(outcome, row, CONNECTION)
    outcome.promise(
        sum(row.errors.values()) <= 3 * effort.clicks_per_s,
        f"{row.fault}: more requests failed than were in progress: {row}",
    )
    wait_until(lambda: bool(waits), timeout_s=60, what="the waiting replica did not answer")
    ((took_s, status),) = waits
    outcome.facts["replica killed while it encodes: the replica that waits for the image answers after"] = (
        f"{took_s:.1f} s (the lock expires after {effort.lock_ttl_s:g} s, then it encodes)"
    )
    outcome.promise(status == 200, f"the replica that waited for a killed one answered {status}")
    outcome.promise(took_s < effort.lock_ttl_s + 20, f"the replica that waited for a killed one took {took_s:.1f} s")
    scene.retire(second)


def kill_owner(
    owner: ServiceProcess,
    waiter: ServiceProcess,
    image: bytes,
    server: RedisServer,
    waits: list[tuple[float, int]],
) -> None:
    """Kill a replica that encodes an image while another replica waits for it.

    Args:
        owner: Replica that encodes and is killed.
        waiter: Replica that waits for the lock.
        image: Image file that both get.
        server: Redis of both replicas.
        waits: List that gets the time in seconds from the kill to the waiter's response, and its status.
    """

    def ask_owner() -> None:
        with open_client(owner.url) as client, contextlib.suppress(httpx.TransportError):
            client.post("/embed", content=image)

    def ask_waiter() -> None:
        with open_client(waiter.url) as client:
            status = client.post("/embed", content=image).status_code
        waits.append((perf_counter() - killed_s, status))

    killed_s = perf_counter()
    threads = [threading.Thread(target=ask, daemon=True) for ask in (ask_owner, ask_waiter)]
    threads[0].start()
    wait_until(lambda: bool(server.ask("KEYS", "lock:*")), timeout_s=60, what="no replica took the lock")
    owner.process.send_signal(signal.SIGSTOP)  # while it holds the lock
    assert server.ask("KEYS", "lock:*"), "the owner had finished before it was stopped"
    threads[1].start()
    with open_client(waiter.url) as client:
        wait_for_in_flight(client, "/embed")
    owner.process.kill()
    killed_s = perf_counter()


def corrupt_model(scene: Scene, outcome: Outcome) -> None:
    """Flip one bit in each file of a model: the service has to refuse to start and name the file."""
    named = 0
    files = [path.name for path in scene.model.iterdir() if path.suffix in {".onnx", ".npz"}]
    for name in files:
        folder = scene.folder / f"corrupt-{name}"
        shutil.copytree(scene.model, folder)
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(bytes(data))
        done = subprocess.run(
            [sys.executable, "-m", "service"],
            env={**os.environ, "EDGESAM_MODEL_DIR": str(folder), "EDGESAM_PORT": "0"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        named += done.returncode == 2 and name in done.stdout + done.stderr
    outcome.facts["one bit flipped in a model file: starts that end with status 2 and name the file"] = (
        f"{named} of {len(files)}"
    )
    outcome.promise(named == len(files), f"of {len(files)} corrupt files {named} were named")


def swapped_model(scene: Scene, outcome: Outcome) -> None:
    """Replace replicas by replicas with another model, on one Redis."""
    effort = scene.effort
    other = another_model(scene.model, scene.folder / "other")
    server = scene.enter(RedisServer())
    old = [scene.service(redis_url=server.url, drain_s=effort.drain_s) for _ in range(2)]
    hashes = embed_all(old[0].url, images := scene.images())
    new = [scene.service(redis_url=server.url, model_dir=other, drain_s=effort.drain_s) for _ in range(2)]
    clicks = [click(image_hash, number) for number in range(8) for image_hash in hashes]
    with open_client(old[0].url) as before, open_client(new[0].url) as after:
        fingerprints = {client.get("/models").json()["models"][0]["fingerprint"] for client in (before, after)}
        asked = {"image_hash": hashes[0], "prompts": [point(100, 100)]}
        refused = after.post("/segment", json=asked)
        old_masks = segment(before, hashes[0], point(100, 100))
    outcome.promise(len(fingerprints) == 2, "both models have one fingerprint, so nothing was tested")
    outcome.promise(refused.json().get("code") == "embedding-not-found", f"an old embedding was used: {refused.text}")

    def swap() -> None:
        for one in old:
            one.terminate()

    urls = [one.url for one in (*old, *new)]
    rows = scene.watch(
        "model replaced, old images", [Stream("clicks on four replicas", urls, clicks, effort.clicks_per_s)], swap,
        lambda: embed_all(new[0].url, images) and None, during_s=effort.drain_s + 2.0,
    )  # fmt: skip
    outcome.rows += rows
    problems_only(outcome, rows[0], {LOST})
    with open_client(new[1].url) as client:
        new_masks = segment(client, hashes[0], point(100, 100))
    outcome.promise(new_masks != old_masks, "both models give the same mask, so nothing was tested")
    scene.retire(*new)


def another_model(model: Path, folder: Path) -> Path:
    """Write a model with another mean, which changes embeddings and fingerprint, into a folder."""
    shutil.copytree(model, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "mean": [90.0, 140.0, 80.0]}))
    return folder


def full_disk(scene: Scene, outcome: Outcome) -> None:
    """Run a service whose temporary folder, home and cache are on a full disk."""
    if not may_mount():
        outcome.facts["disk full"] = "not tried: needs the right to mount"
        return
    full = scene.folder / "full"
    full.mkdir()
    fill = f"mount -t tmpfs -o size=64k full {full} && head -c 1m /dev/zero > {full}/zeros 2> /dev/null"
    serve_with_mounts(scene, outcome, "disk full", f"{fill}; export TMPDIR={full} HOME={full} XDG_CACHE_HOME={full}")


def read_only_root(scene: Scene, outcome: Outcome) -> None:
    """Run a service with a read-only root file system."""
    if not may_mount():
        outcome.facts["root read-only"] = "not tried: needs the right to mount"
        return
    serve_with_mounts(
        scene, outcome, "root read-only", "mount -o bind / /mnt && mount -o remount,bind,ro /mnt", root="/mnt"
    )


def serve_with_mounts(scene: Scene, outcome: Outcome, what: str, prepare: str, *, root: str = "") -> None:
    """Run a service in a mount namespace: it has to work without warnings in its log."""
    enter = f'exec chroot {root} /bin/sh -c "cd {ROOT} && exec \\"\\$@\\"" - "$@"' if root else 'exec "$@"'
    shell = f"{prepare}; mount -t proc proc {root}/proc 2> /dev/null; {enter}"
    if root:
        shell = f"{prepare}; mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc; {enter}"
    with scene.process(prefix=["unshare", "-m", "sh", "-c", shell, "-"]) as service, open_client(service.url) as client:
        image_hash = embed(client, scene.image())
        masks = segment(client, image_hash, point(50, 50))
        complaints = [line for line in service.log if line.get("level") in {"warning", "error"}]
    outcome.facts[what] = f"starts, embeds, segments; {len(complaints)} warnings in the log"
    outcome.promise(masks, f"{what}: no mask")
    outcome.promise(not complaints, f"{what}: {complaints}")


def changed_clock(scene: Scene, outcome: Outcome) -> None:
    """Change the wall clock by +1 day and -2 days: timeouts and expiry use another clock."""
    if not _FAKETIME.exists():
        outcome.facts["wall clock jumps"] = "not tried: needs Debian's package faketime"
        return
    effort = scene.effort
    clock = scene.folder / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    prefix = ["env", *(f"{name}={value}" for name, value in faked.items())]
    server = scene.enter(RedisServer())
    service = scene.enter(scene.process(prefix=prefix, redis_url=server.url, cache_ttl_s=3600))
    hashes = embed_all(service.url, scene.images())
    clicks = [click(image_hash, number) for number in range(8) for image_hash in hashes]
    stream = Stream("clicks, image in memory", [service.url], clicks, effort.clicks_per_s)
    for what, offset in (("wall clock + 1 day", "+1d"), ("wall clock - 2 days", "-2d")):
        rows = scene.watch(what, [stream], lambda offset=offset: clock.write_text(offset) and None, lambda: None)
        outcome.rows += rows
        ok_only(outcome, rows[0])
    scene.retire(service)


def memory_limits(scene: Scene, outcome: Outcome) -> None:
    """Measure the memory of the largest images, and run a service with a memory limit."""
    with scene.process() as service, open_client(service.url) as client:
        pid = service.process.pid
        image_hash = embed(client, scene.image())
        idle = process_sample(pid).rss_bytes
        for what, image in worst_images():
            reset_peak(pid)
            response = client.post("/embed", content=image)
            outcome.promise(response.status_code == 200, f"{what}: {response.text}")
            outcome.facts[f"memory of {what}, {len(image) / MIB:.1f} MiB as a file"] = (
                f"{(peak_bytes(pid) - idle) / MIB:.0f} MiB more than the {idle / MIB:.0f} of the idle process"
            )
        segment(client, image_hash, point(5, 5))
    limit = idle + 300 * MIB
    with memory_limit(scene.folder.name, limit) as prefix:
        if prefix is None:
            outcome.facts["memory limit close"] = "not tried: needs a cgroup to write in"
            return
        with scene.process(prefix=prefix) as service, open_client(service.url) as client:
            image_hash = embed(client, scene.image())
            for _ in range(8):
                embed(client, scene.image((3000, 4000)))
            segment(client, image_hash, point(5, 5))
            is_alive = service.process.poll() is None
    outcome.facts[f"memory limit of {limit / MIB:.0f} MiB, eight images of 12 megapixels"] = (
        "all embedded, no process killed"
    )
    outcome.promise(is_alive, "a limit of 300 MiB above the idle process ended it")


def worst_images() -> Iterator[tuple[str, bytes]]:
    """Yield the largest accepted images of the kinds that need most memory."""
    size = (8192, 6144)
    for mode, file_format, options in (
        ("RGB", "JPEG", {}), ("RGBA", "PNG", {"compress_level": 1}), ("RGBA", "WEBP", {"lossless": True, "method": 0}),
        ("RGBA", "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
    ):  # fmt: skip
        image = Image.new(mode, size, (90, 120, 60, 128)[: len(mode)])
        with contextlib.closing(image):
            yield f"{file_format} {mode}, 50 megapixels", pillow_file(image, file_format, options)


def pillow_file(image: Image.Image, file_format: str, options: dict) -> bytes:
    """Return a file of a Pillow image."""
    with tempfile.SpooledTemporaryFile(max_size=1 << 30) as file:
        image.save(file, file_format, **options)
        file.seek(0)
        return file.read()


@contextlib.contextmanager
def memory_limit(name: str, limit: int) -> Iterator[Sequence[str] | None]:
    """Yield a command prefix that limits the memory of a process, in bytes; None without cgroups v1."""
    group = _CGROUPS / name
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "-"]
    finally:
        group.rmdir()


def may_mount() -> bool:
    """Return whether this machine allows mount namespaces."""
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "t", "/mnt"], capture_output=True, check=False)
    return tried.returncode == 0
