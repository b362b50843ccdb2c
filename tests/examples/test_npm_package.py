"""The packed JavaScript client in empty projects: a script in Node, a page bundled by Vite, and TypeScript."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import needed_program, open_browser
from support.documents import blocks
from support.example_masks import best_mask, iou
from support.service_process import ROOT, ServiceProcess

from service import __version__

SOURCE = ROOT / "service" / "web" / "client"
SAMPLE = ROOT / "service" / "web" / "samples" / "dahlia.jpg"
EXAMPLES = Path(__file__).parent / "typescript"
README_URL = "http://127.0.0.1:8000/"
INSTALL_WAIT_S, WAIT_S = 300.0, 120.0
# Pixels of the canvas, row by row: 1 where something is drawn.
DRAWN = """canvas => {
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const isDrawn = (pixel) => (data[4 * pixel + 3] > 0 ? 1 : 0);
    const row = (y) => Array.from({ length: width }, (_, x) => isDrawn(y * width + x));
    return Array.from({ length: height }, (_, y) => row(y));
}"""
PAGE = '<input type="file"><canvas></canvas><script type="module" src="/main.js"></script>'
# A bundle has no address of a service.
BUNDLE_WITHOUT_ADDRESS = "try { new Client(); } catch (error) { document.title = error.message; }\n"
NODE_SCRIPT = """
import { readFile } from "node:fs/promises";
import { Client, Problem } from "edgesam-client";
import { rasterOfRle } from "edgesam-client/masks";

const [url, path] = process.argv.slice(2);
const client = new Client(url);
const { image_id } = await client.embed(await readFile(path));
const { results } = await client.segment(image_id, [{ points: [{ x: 270, y: 210 }] }]);
const { width, height, data } = rasterOfRle(results[0].masks[0].rle);
const problem = await client.segment("0".repeat(64), [{ box: [1, 2, 3, 4] }]).catch((error) => error);
let missing = "";
try { new Client(); } catch (error) { missing = error.message; }
const code = problem instanceof Problem ? problem.code : "";
console.log(JSON.stringify({ width, height, pixels: Array.from(data), code, missing }));
"""
MODULES = {
    "bundler": ("--module", "esnext", "--moduleResolution", "bundler"),
    "nodenext": ("--module", "nodenext", "--moduleResolution", "nodenext"),
}


def run_program(*command: object, cwd: Path, wait_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=wait_s, check=False)


def install(folder: Path, *packages: object) -> None:
    """Install packages into a new npm project."""
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    options = ("--silent", "--no-audit", "--no-fund")
    done = run_program("npm", "install", *options, *packages, cwd=folder, wait_s=INSTALL_WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def package() -> Path:
    """The packed client."""
    needed_program("npm")
    needed_program("node")
    before = {path.name for path in SOURCE.iterdir()}
    packed = run_program("make", "--no-print-directory", "js-client", cwd=ROOT, wait_s=INSTALL_WAIT_S)
    assert packed.returncode == 0, packed.stdout + packed.stderr
    assert {path.name for path in SOURCE.iterdir()} == before  # packing leaves nothing behind
    return ROOT / "dist" / f"edgesam-client-{__version__}.tgz"


@pytest.fixture(scope="module")
def node_project(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project in which nothing but the client is installed."""
    folder = tmp_path_factory.mktemp("node")
    install(folder, package)
    return folder


@pytest.fixture(scope="module")
def typescript_project(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the client and TypeScript."""
    folder = tmp_path_factory.mktemp("typescript")
    compiler = json.loads((SOURCE / "package.json").read_text())["devDependencies"]["typescript"]
    install(folder, package, f"typescript@{compiler}", "@types/node@20")
    return folder


def readme_script(heading: str, url: str) -> str:
    """Return the script below a heading of the package's README, with the address of a service."""
    (script,) = blocks((SOURCE / "README.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0], "js")
    assert README_URL in script
    return script.replace(README_URL, f"{url}/")


def test_the_package_has_types_of_all_modules_and_the_version_of_the_service(package: Path):
    with tarfile.open(package) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
        description = json.load(archive.extractfile("package/package.json"))

    modules = {path.name for path in SOURCE.glob("*.js")}
    types = {name.replace(".js", ".d.ts") for name in modules}
    assert names == modules | types | {"package.json", "README.md", "LICENSE"}
    assert description["version"] == __version__
    assert description["sideEffects"] is False
    assert "private" not in description
    assert "dependencies" not in description


def test_a_script_in_node_has_the_mask_of_the_api(node_project: Path, url: str):
    (node_project / "segment.js").write_text(NODE_SCRIPT)

    ran = run_program("node", "segment.js", url, SAMPLE, cwd=node_project)

    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    pixels = np.array(said["pixels"], np.uint8).reshape(said["height"], said["width"])
    np.testing.assert_array_equal(pixels, best_mask(url, SAMPLE, {"points": [{"x": 270, "y": 210}]}))
    assert said["code"] == "embedding-not-found"
    assert "address of the service" in said["missing"]


def test_the_readme_s_script_for_node_runs(node_project: Path, url: str):
    shutil.copy(SAMPLE, node_project / "photo.jpg")
    (node_project / "readme.js").write_text(readme_script("In Node", url))

    ran = run_program("node", "readme.js", cwd=node_project)

    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["width"], said["height"]) == (640, 427)
    assert said["area"] == best_mask(url, SAMPLE, {"points": [{"x": 270, "y": 210}]}).sum()


@pytest.fixture
def open_service() -> Iterator[str]:
    """The address of a service that answers pages of all origins."""
    with ServiceProcess({"EDGESAM_CORS_ORIGINS": '["*"]'}) as service:
        yield service.url


@pytest.fixture
def page_url(package: Path, open_service: str, tmp_path: Path) -> Iterator[str]:
    """The address of a page with the README's script, bundled by Vite, of another origin than the service."""
    example = json.loads((ROOT / "examples" / "react" / "package.json").read_text())
    install(tmp_path, package, f"vite@{example['devDependencies']['vite']}")
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "main.js").write_text(readme_script("In a page", open_service) + BUNDLE_WITHOUT_ADDRESS)
    vite = ("node", "node_modules/vite/bin/vite.js")
    built = run_program(*vite, "build", cwd=tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    command = (*vite, "preview", "--host", "127.0.0.1", "--port", "0")
    environment = {**os.environ, "NO_COLOR": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            process.terminate()


def test_a_page_bundled_by_vite_shows_the_mask_of_the_api(page_url: str, open_service: str):
    expected = best_mask(open_service, SAMPLE, {"points": [{"x": 320, "y": 213.5}]})
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(page_url)
        page.set_input_files("input", str(SAMPLE))
        page.wait_for_function("document.querySelector('canvas').width === 640")
        drawn = np.array(page.locator("canvas").evaluate(DRAWN), np.uint8)
        title = page.title()

    assert iou(drawn, expected) == 1
    assert "address of the service" in title


def type_check(project: Path, example: str, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Type-check one example and the types of the package as a strict user would."""
    shutil.copy(EXAMPLES / example, project / example)
    compiler = project / "node_modules" / ".bin" / "tsc"
    return run_program(compiler, "--noEmit", "--strict", "--target", "es2022", *options, example, cwd=project)


@pytest.mark.parametrize("resolution", MODULES)
@pytest.mark.parametrize(
    ("example", "library"), [("right_use.ts", ("--lib", "es2022,dom")), ("node_use.ts", ("--lib", "es2022"))]
)
def test_a_right_use_passes_the_type_check(
    typescript_project: Path, example: str, library: Sequence[str], resolution: str
):
    checked = type_check(typescript_project, example, (*library, *MODULES[resolution]))

    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("resolution", MODULES)
def test_each_wrong_use_fails_the_type_check(typescript_project: Path, resolution: str):
    lines = (EXAMPLES / "wrong_use.ts").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if "// wrong" in line}

    checked = type_check(typescript_project, "wrong_use.ts", ("--lib", "es2022,dom", *MODULES[resolution]))

    errors: list[Any] = re.findall(r"wrong_use\.ts\((\d+),\d+\): error TS", checked.stdout)
    assert checked.returncode != 0
    assert set(map(int, errors)) == wrong
