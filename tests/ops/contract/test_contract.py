"""Schemathesis against the running service, with real images: responses conform to /openapi.json."""

import os
import shutil
import subprocess
from pathlib import Path

from support.noise_images import as_file, noise_image
from support.service_client import Scrape, embed, open_client
from support.service_process import ServiceProcess

SECONDS = 60
# First: the schema accepts prompts that contradict themselves, because it cannot express the rule. Second: forms with
# additional fields are accepted, and 413 is also a refusal. tests/api has a test for each rule.
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"


def test_responses_conform_to_the_openapi_document(tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    for number, file_format in enumerate(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")):
        (images / file_format).write_bytes(as_file(noise_image((48, 64), number), file_format))
    with ServiceProcess({}) as service, open_client(service.url) as client:
        environment = {
            **os.environ,
            "CONTRACT_IMAGES": str(images),
            "CONTRACT_IMAGE_HASH": embed(client, (images / "PNG").read_bytes()),
            "SCHEMATHESIS_HOOKS": "hooks",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        command = [
            shutil.which("schemathesis") or "schemathesis", "run", f"{service.url}/openapi.json",
            "--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--max-time", str(SECONDS), "--seed", "1",
            "--exclude-checks", LEFT_OUT, "--request-timeout", "60", "--no-color",
        ]  # fmt: skip

        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
        )
        scrape = Scrape(client)

    name = "edgesam_http_request_duration_seconds_count"
    assert all(scrape.value(name, route=route, status="200") > 10 for route in ("/embed", "/segment"))
    assert scrape.value(name, status="500") == 0
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
