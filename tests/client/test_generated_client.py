"""The OpenAPI document is good enough for a client that a program writes from it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.noise_images import noise_file

ROOT = Path(__file__).parent.parent.parent
LOCK = ROOT / "requirements" / "openapi-generator.lock"
INSTALL_WAIT_S, WAIT_S = 300.0, 60.0


def python(*arguments: object, path: Path, wait_s: float = WAIT_S) -> str:
    """Run this interpreter with further packages in front; what it prints."""
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=wait_s,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def generator(request: pytest.FixtureRequest) -> Path:
    """The generator and what it needs, in a folder of its own that later runs find again."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = request.config.cache.mkdir("openapi-generator") / digest
    if not (folder / "complete").exists():
        options = ("-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--upgrade", "--target", folder)
        python("-m", "pip", "install", *options, "-r", LOCK, path=ROOT, wait_s=INSTALL_WAIT_S)
        (folder / "complete").touch()
    return folder


def test_a_generated_client_embeds_segments_and_reads_problems(generator, service_url, tmp_path):
    document, config, image = (tmp_path / name for name in ("openapi.json", "config.yaml", "image.png"))
    document.write_bytes(httpx.get(f"{service_url}/openapi.json", timeout=WAIT_S).content)
    config.write_text("post_hooks: []\n")  # they would only format it
    image.write_bytes(noise_file((30, 40), seed=93))
    options = ("--config", config, "--meta", "none", "--output-path", tmp_path / "generated_client")

    said = python("-m", "openapi_python_client", "generate", "--path", document, *options, path=generator)
    packages = Path(f"{tmp_path}{os.pathsep}{generator}")
    seen = json.loads(python(Path(__file__).parent / "generated_calls.py", service_url, image, path=packages))

    assert "will not be generated" not in said
    assert seen["size"] == [40, 30]
    assert seen["masks"] == [[[30, 40]] * 3] * 2
    assert all(area > 0 for areas in seen["areas"] for area in areas)
    assert seen["corners"] >= 4
    assert seen["problem"] == [404, "embedding-not-found"]
    assert seen["errors"] == [422, "prompt-outside-image", True]
    assert seen["statuses"] == [200, 204, 404]
    assert seen["tier"] == "memory"
    assert seen["model"] == ["random", False, 64.0]
