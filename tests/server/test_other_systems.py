"""The service without anything that only Linux has, as on Windows and macOS: it imports, starts and answers.

A `sitecustomize` takes modules, functions, files and the C library away from the process before it runs any other code.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.sample_images import sample_images
from support.service_process import ROOT, ServiceProcess

from service.regular_files import read_regular_file

_TAKE_AWAY = """
import ctypes, os, signal, socket, sys  # ctypes itself opens the running program on Linux

for name in ("resource", "fcntl", "pwd", "grp", "termios", "syslog", "uvloop"):
    sys.modules[name] = None
taken = {
    os: ("sched_getaffinity sched_setaffinity getpriority setpriority PRIO_PROCESS nice sysconf fchown fchmod chown "
         "getloadavg statvfs fork posix_fadvise pread pwrite sendfile mkfifo getuid geteuid getgid getegid setsid "
         "killpg O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY O_DSYNC"),
    signal: "SIGHUP SIGUSR1 SIGUSR2 SIGQUIT SIGALRM SIGPIPE setitimer pthread_kill pthread_sigmask",
    socket: "SO_REUSEPORT SO_ACCEPTCONN TCP_USER_TIMEOUT TCP_QUICKACK TCP_DEFER_ACCEPT",
}
for module, names in taken.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


def refuse(event, arguments):
    path = str(arguments[0]) if arguments else ""
    if event == "open" and path.startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "taken away", path)
    if event == "ctypes.dlopen" and (arguments[0] is None or "native" in path):
        raise OSError("taken away: " + path)


sys.addaudithook(refuse)

import asyncio
from asyncio import unix_events

def no_handler(*_):
    raise NotImplementedError

unix_events._UnixSelectorEventLoop.add_signal_handler = no_handler
print('{"event": "taken away"}', flush=True)
"""

_IMPORT_ALL = """
import importlib, pkgutil, service
skipped = ("service.client",)  # extras; the client runs apart from the service
names = [one.name for one in pkgutil.walk_packages(service.__path__, "service.")]
for name in names:
    is_library = name.startswith("service.native._")  # C code without Python's entry point
    if not is_library and not name.startswith(skipped) and not name.endswith("__main__"):
        importlib.import_module(name)
import service.__main__, service.keys, service.client
print(len(names), "modules")
"""


@pytest.fixture
def module_path(tmp_path):
    """A module path whose `sitecustomize` takes away what only Linux has."""
    (tmp_path / "sitecustomize.py").write_text(_TAKE_AWAY)
    return os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])


def test_every_module_of_the_service_can_be_imported(module_path):
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
        env={**os.environ, "PYTHONPATH": module_path},
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.split()[-2]) > 200


def test_the_service_starts_and_answers_with_the_onnx_decoder(module_path, tmp_path):
    photo, *_ = sample_images()
    settings = {"PYTHONPATH": module_path, "EDGESAM_PROVIDER": "cpu", "EDGESAM_DISK_CACHE_DIR": str(tmp_path / "disk")}

    with ServiceProcess(settings) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        ready = client.get("/readyz")
        (model,) = client.get("/models").json()["models"]
        embedded = client.post("/embed", content=photo.path.read_bytes(), headers={"Content-Type": "image/jpeg"}).json()
        body = {"image_hash": embedded["image_hash"], "prompts": [photo.prompt], "multimask": 1}
        answered = client.post("/segment", json=body).json()
        metrics = client.get("/metrics")
        status = service.stop()

    assert {"event": "taken away"} in service.log
    assert ready.status_code == metrics.status_code == 200
    assert (model["decoder"], model["memory_bytes"]) == ("onnx", None)
    assert answered["results"][0]["masks"][0]["area"] > 1000
    assert status == 0


def test_a_link_is_refused_where_the_system_cannot_refuse_it_while_opening(module_path, tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"content\r\n")
    link.symlink_to(file)
    program = (
        "import sys; from pathlib import Path; from service.regular_files import read_regular_file\n"
        "file, link = map(Path, sys.argv[1:])\n"
        "assert read_regular_file(link, 99, follows_links=True) == b'content\\r\\n'\n"
        "assert read_regular_file(file, 99, follows_links=False) == b'content\\r\\n'\n"
        "try: read_regular_file(link, 99, follows_links=False)\n"
        "except OSError as error: print(error)\n"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program, str(file), str(link)],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=120,
        env={**os.environ, "PYTHONPATH": module_path},
    )  # fmt: skip

    assert "is a link, which is not followed" in ran.stdout
    with pytest.raises(OSError, match="symbolic links"):
        read_regular_file(Path(link), 99, follows_links=False)
