"""What the tools of the trade say: bandit about the code, CycloneDX and the audit about what it is made with."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route
from support.browser import WAIT_MS, open_browser
from support.service_process import ROOT, ServiceProcess

from service.api.routes.docs import SCRIPT, STYLE

LOCK = ROOT / "requirements" / "serve.lock"

# Checks that are left out, everywhere or in one file, and why. All else has to be clean, whatever its severity.
SKIPPED = {
    "B101": "assert states an invariant; nothing that a request could break is left to one, and python -O is not used",
    "B104 service/probe.py": "0.0.0.0 is what it replaces by an address to ask; it binds nothing",
    "B105 service/cache/redis/sentinel.py": "the name of an option, not what it is set to",
    "B311": "pseudo-random numbers jitter expiry and draw training samples; keys, ids and locks come from `secrets`",
    "B403": "it takes our function `shelve`, which makes tensors of photos, for the module of that name",
}


def run(*command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT, **options)


def ops_python() -> str:
    """The interpreter of the operators' tools."""
    return str(ROOT / ".venv" / "ops" / "bin" / "python")


def test_bandit_finds_nothing_but_what_is_known_and_reasoned():
    found = run(ops_python(), "-m", "bandit", "-q", "-r", "service", "model_store", "-f", "json")

    report = json.loads(found.stdout)
    assert report["metrics"]["service/keys.py"]["loc"] > 50
    unexpected = [
        f"{one['test_id']} {one['filename']}:{one['line_number']} {one['issue_text']}"
        for one in report["results"]
        if SKIPPED.keys().isdisjoint({one["test_id"], f"{one['test_id']} {one['filename']}"})
    ]
    assert unexpected == []


def pins() -> list[tuple[str, str]]:
    """Name and version of everything that is served."""
    return re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE)


@pytest.fixture
def sbom():
    """As `make sbom` makes it, with the tools that are there."""
    made = run("make", "-o", ".venv/.ops", "sbom")
    assert made.returncode == 0, made.stderr
    return ROOT / "out" / "sbom.json"


def test_every_pin_stands_in_the_bill_of_materials_with_its_hashes(sbom):
    document = json.loads(sbom.read_text())

    components = {(one["name"], one["version"]): one for one in document["components"]}
    assert len(pins()) > 20
    assert set(components) == set(pins())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "edgesam-service"
    for (name, version), one in components.items():
        assert one["purl"].startswith(f"pkg:pypi/{name}@{version}")
        hashes = [digest["content"] for reference in one["externalReferences"] for digest in reference["hashes"]]
        assert hashes
        assert all(digest in LOCK.read_text() for digest in hashes)


def test_the_bill_of_materials_names_no_host_of_ours_and_no_path(sbom):
    text = sbom.read_text()

    hosts = {urlsplit(url).hostname for url in re.findall(r'https?://[^\s"]+', text)}
    assert hosts <= {
        "pypi.org", "cyclonedx.org", "github.com", "cyclonedx-bom-tool.readthedocs.io",
        "cyclonedx-python-library.readthedocs.io",
    }  # fmt: skip
    assert str(ROOT) not in text
    assert str(Path.home()) not in text


def test_the_bill_of_materials_is_the_same_each_time(sbom):
    before = sbom.read_bytes()

    assert run("make", "-o", ".venv/.ops", "sbom").returncode == 0

    assert sbom.read_bytes() == before


def test_the_lock_and_what_is_committed_name_no_index():
    for path in (ROOT / "requirements").glob("*.lock"):
        assert "://" not in path.read_text()


def test_no_pin_was_withdrawn_and_no_flaw_of_one_is_known_as_far_as_can_be_asked_here():
    audited = run(ops_python(), "requirements/audit.py")

    assert audited.returncode in (0, 2), audited.stdout
    assert "FOUND" not in audited.stdout
    assert audited.stdout.splitlines()[0] == f"{len(pins())} pins in serve.lock"
    if audited.returncode == 2:  # without the vulnerability service the audit says so and does not pass
        assert "UNKNOWN" in audited.stdout
        assert audited.stdout.splitlines()[-1] == "not everything could be asked"


@pytest.fixture(scope="module")
def swagger_ui(tmp_path_factory) -> Path:
    """The files of Swagger UI, of the version that the page names, as npm has them."""
    folder = tmp_path_factory.mktemp("swagger-ui")
    version = re.search(r"swagger-ui-dist@([\d.]+)/", SCRIPT[0])[1]
    packed = run("npm", "pack", "--silent", "--pack-destination", str(folder), f"swagger-ui-dist@{version}")
    assert packed.returncode == 0, packed.stderr
    subprocess.run(["tar", "-xzf", *folder.glob("*.tgz"), "-C", folder], check=True)
    return folder / "package"


def test_the_page_of_the_documentation_names_the_bytes_that_npm_has(swagger_ui):
    for address, integrity in (SCRIPT, STYLE):
        assert _integrity(swagger_ui / address.rsplit("/", 1)[1]) == integrity


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_browser_draws_the_documentation_with_these_bytes_and_with_no_others(swagger_ui, is_changed):
    def answer(route: Route) -> None:
        body = (swagger_ui / route.request.url.rsplit("/", 1)[1]).read_bytes()
        route.fulfill(
            body=body + b"\n" * is_changed,
            content_type="text/css" if route.request.url.endswith("css") else "text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        )

    with ServiceProcess({}) as service, open_browser() as browser:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.route("https://cdn.jsdelivr.net/**", answer)
        page.goto(f"{service.url}/docs")
        if is_changed:
            page.get_by_text("The interface as a document").wait_for(timeout=WAIT_MS)
        else:
            page.get_by_text("Cut out objects").wait_for(timeout=WAIT_MS)
            page.get_by_text("Embed a picture", exact=True).click()
            page.get_by_role("button", name="Try it out").wait_for(timeout=WAIT_MS)

    assert any("integrity" in text for text in said) == is_changed, said
    assert is_changed or said == []


def _integrity(path: Path) -> str:
    return f"sha384-{base64.b64encode(hashlib.sha384(path.read_bytes()).digest()).decode()}"
