"""The JavaScript client as a package: packed by `make js-client`, installed, run in Node, and type-checked."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.browser import needed_program
from support.sample_images import FOLDER
from support.service_process import ROOT

from service import __version__
from service.client import Client

SOURCE = ROOT / "service" / "web" / "client"
EXAMPLES = Path(__file__).parent / "typescript"
SAMPLE, POINT = FOLDER / "dahlia.jpg", (270, 210)
INSTALL_WAIT_S, WAIT_S = 300.0, 120.0
SCRIPT = """
import { readFile } from "node:fs/promises";
import { Client, Problem } from "edgesam-client";
import { rasterOfRle } from "edgesam-client/masks";

const [url, path, x, y] = process.argv.slice(2);
const client = new Client(url);
const { image_hash } = await client.embed(new Blob([await readFile(path)], { type: "image/jpeg" }));
const { results } = await client.segment(image_hash, [{ points: [{ x: Number(x), y: Number(y) }] }]);
const { rle, area } = results[0].masks[0];
const inside = rasterOfRle(rle).data.reduce((sum, value) => sum + value, 0);
const problem = await client.segment("0".repeat(64), [{ box: [1, 2, 3, 4] }]).catch((error) => error);
let missing = "";
try { new Client(); } catch (error) { missing = error.message; }
const code = problem instanceof Problem ? problem.code : "";
console.log(JSON.stringify({ counts: rle.counts, area, inside, code, missing }));
"""


def run(*command: object, cwd: Path, wait_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=wait_s, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new npm project with the packed client and TypeScript."""
    npm, _ = needed_program("npm"), needed_program("node")
    before = {path.name for path in SOURCE.iterdir()}
    packed = run("make", "--no-print-directory", "js-client", cwd=ROOT, wait_s=INSTALL_WAIT_S)
    assert packed.returncode == 0, packed.stdout + packed.stderr
    assert {path.name for path in SOURCE.iterdir()} == before  # packing leaves nothing behind
    folder = tmp_path_factory.mktemp("javascript-client")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    compiler = json.loads((SOURCE / "package.json").read_text())["devDependencies"]["typescript"]
    package = ROOT / "dist" / f"edgesam-client-{__version__}.tgz"
    options = ("--silent", "--no-audit", "--no-fund")
    installed = run(npm, "install", *options, package, f"typescript@{compiler}", cwd=folder, wait_s=INSTALL_WAIT_S)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return folder


def compiled(project: Path, example: str) -> subprocess.CompletedProcess[str]:
    """Type-check one example as a user of the package would."""
    shutil.copy(EXAMPLES / example, project / example)
    options = ("--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext")
    return run(project / "node_modules" / ".bin" / "tsc", *options, example, cwd=project)


def test_the_package_segments_like_the_python_client(project, bundled_url):
    (project / "segment.js").write_text(SCRIPT)

    ran = run("node", "segment.js", bundled_url, SAMPLE, *POINT, cwd=project)

    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    with Client(bundled_url) as client:
        expected = client.segment(client.embed(SAMPLE), points=POINT).best
    assert said["counts"] == expected.counts
    assert said["area"] == said["inside"] == expected.area
    assert said["code"] == "embedding-not-found"
    assert "address of the service" in said["missing"]


def test_a_right_use_passes_the_type_check(project):
    checked = compiled(project, "right_use.ts")

    assert checked.returncode == 0, checked.stdout


def test_each_wrong_use_fails_the_type_check(project):
    lines = (EXAMPLES / "wrong_use.ts").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if "// wrong" in line}

    checked = compiled(project, "wrong_use.ts")

    found = {
        int(line.partition("(")[2].partition(",")[0]) for line in checked.stdout.splitlines() if ": error TS" in line
    }
    assert checked.returncode != 0
    assert found == wrong
