"""A command run at a terminal: what it shows, and answers to what it asks."""

import os
import pty
import select
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0


def run_at_terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    answer_to: bytes = b"",
    answer: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> tuple[str, int]:
    """Run a command whose standard input, output and error are a terminal.

    Args:
        command: Words of the command.
        columns: Width of the terminal.
        answer_to: Text after which the answer is typed, once; empty to type nothing.
        answer: What is typed.
        environment: Variables beside those of this process.

    Returns:
        What the terminal shows, and the exit status.
    """
    leader, follower = pty.openpty()
    shown, is_answered = b"", False
    terminal = {"COLUMNS": str(columns), "TERM": "dumb", "NO_PROXY": "127.0.0.1", **(environment or {})}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **terminal}, stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        try:
            while select.select([leader], [], [], WAIT_S)[0] and (chunk := os.read(leader, 65536)):
                shown += chunk
                if answer_to and not is_answered and answer_to in shown:
                    is_answered = True
                    os.write(leader, answer)
        except OSError:  # the process has closed its end
            pass
        finally:
            os.close(leader)  # a process that still waits for an answer ends by that
            process.wait(WAIT_S)
    return shown.decode().replace("\r", ""), process.returncode
