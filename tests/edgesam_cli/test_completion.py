"""Completion of `edgesam` in real shells: the words that a press of Tab writes into the line."""

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.edgesam_command import ROOT, edgesam

WAIT_S = 60.0
# What is typed before Tab, and what stands there then.
LINES = [
    ("edgesam segm", "edgesam segment "),
    ("edgesam models imp", "edgesam models import "),
    ("edgesam models fetch edge-sam-", "edgesam models fetch edge-sam-3x "),
    ("edgesam models verify min", "edgesam models verify mine "),
    ("edgesam models verify edgesam-l", "edgesam models verify edgesam-lite "),
    ("edgesam serve --redis", "edgesam serve --redis-url "),
    ("edgesam serve --provider op", "edgesam serve --provider openvino "),
    ("edgesam serve --model sam2.1-la", "edgesam serve --model sam2.1-large "),
    ("edgesam keys new --add", "edgesam keys new --add-to "),
    ("edgesam embed photo", "edgesam embed photos"),
]


def need(shell: str) -> None:
    """Skip the test where a shell is not installed; fail it there with CI=true."""
    if shutil.which(shell) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a shell with the command on the PATH, in a home folder of its own with one model."""
    script = tmp_path / "bin" / "edgesam"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.quote(sys.executable)} -m edgesam_cli "$@"\n')
    script.chmod(0o755)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "manifest.json").write_text("{}")
    (tmp_path / "photos").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGESAM_")}
    shell = {"HOME": str(tmp_path), "PATH": f"{script.parent}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
    return {**kept, **shell, "COLUMNS": "200"}


class Terminal:
    """A shell at a terminal of its own.

    Args:
        command: Words that start the shell.
        folder: Current folder.
        environment: Variables of the shell.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._leader, follower = pty.openpty()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        os.close(follower)
        self._shown = ""

    def type(self, keys: str, *, until: str) -> None:
        """Press keys and wait until the terminal has shown a text since then."""
        self._shown = ""
        os.write(self._leader, keys.encode())
        ends_at = time.monotonic() + WAIT_S
        while until not in self._shown:
            is_ready = select.select([self._leader], [], [], ends_at - time.monotonic())[0]
            assert is_ready, f"no {until!r} in {self._shown!r}"
            self._shown += os.read(self._leader, 65536).decode().replace("\r", "").replace("\a", "")

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._leader)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    """A shell that has read the script of the completion."""
    command, start = request.param
    need(command[0])
    shell = Terminal(command, tmp_path, environment)
    shell.type(f"{start}; echo re''ady\n", until="ready")
    yield shell
    shell.close()


BASH = (["bash", "--norc", "-i"], 'eval "$(edgesam --show-completion)"')
ZSH = (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -D -u; eval "$(edgesam --show-completion zsh)"')


@pytest.mark.parametrize("terminal", [BASH, ZSH], ids=["bash", "zsh"], indirect=True)
def test_tab_completes_commands_options_values_models_and_files(terminal: Terminal):
    for typed, completed in LINES:
        terminal.type(f"{typed}\t", until=completed)
        terminal.type("\x15echo next''line\n", until="nextline")


@pytest.mark.parametrize("terminal", [BASH], ids=["bash"], indirect=True)
def test_two_tabs_list_the_commands(terminal: Terminal):
    terminal.type("edgesam \t\t", until="segment")


def test_fish_completes_commands_options_values_models_and_files(tmp_path: Path, environment: dict[str, str]):
    need("fish")
    asked = "\n".join(f"complete -C {shlex.quote(typed)}" for typed, _ in LINES)

    done = subprocess.run(
        ["fish", "--no-config", "-c", f"edgesam --show-completion fish | source\n{asked}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=WAIT_S,
    )  # fmt: skip

    words = [line.partition("\t")[0].rstrip("/") for line in done.stdout.splitlines()]
    assert words == [completed.split()[-1] for _, completed in LINES]


def test_an_installed_completion_is_read_by_the_next_bash(tmp_path: Path, environment: dict[str, str]):
    installed = subprocess.run(
        ["bash", "--norc", "-c", "edgesam --install-completion; exit $?"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=WAIT_S,
    )  # fmt: skip

    next_shell = Terminal(["bash", "--rcfile", str(tmp_path / ".bashrc"), "-i"], tmp_path, environment)
    try:
        next_shell.type("edgesam segm\t", until="edgesam segment ")
    finally:
        next_shell.close()
    assert "bash completion installed" in installed.stdout


def test_a_line_is_completed_without_a_word_where_a_package_is_missing():
    line = {"COMP_WORDS": "edgesam\nmodels\nfe", "COMP_CWORD": "2", "_EDGESAM_COMPLETE": "complete_bash"}

    result = edgesam(without=("typer",), **line)

    assert (result.stdout, result.stderr) == ("", "")
