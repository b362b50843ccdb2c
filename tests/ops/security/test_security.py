"""What the tools of the trade say: bandit about the code, CycloneDX and the audit about what it is made with."""

import gzip
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.service_process import ROOT

from service.api.routes.docs import INTEGRITY, SWAGGER_UI_DIR

LOCK = ROOT / "requirements" / "serve.lock"

# Skipped checks, everywhere or in one file, with reasons. All other checks must find nothing, whatever the severity.
SKIPPED = {
    "B101": "assert states an invariant; nothing that a request could break is left to one, and python -O is not used",
    "B104 service/probe.py": "0.0.0.0 is what it replaces by an address to ask; it binds nothing",
    "B105 service/cache/redis/sentinel.py": "the name of an option, not what it is set to",
    "B403 model_store/checkpoint_files/pickled.py": "pickletools lists opcodes and runs none; nothing is unpickled",
    "B404 model_store/timings.py": "it runs its own module in a process of its own, to measure it",
    "B603 model_store/timings.py": "the command is this interpreter, its own module and a folder; there is no shell",
    "B606 edgesam_cli/serve.py": "the service replaces the command that starts it: this interpreter, no shell",
    "B311": "pseudo-random numbers jitter expiry and draw training samples; keys, ids and locks come from `secrets`",
}


def run(*command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT, **options)


def ops_python() -> str:
    """Return the interpreter of the virtual environment with bandit, CycloneDX and pip-audit."""
    return str(ROOT / ".venv" / "ops" / "bin" / "python")


def test_bandit_finds_nothing_except_skipped_checks():
    found = run(ops_python(), "-m", "bandit", "-q", "-r", "service", "model_store", "edgesam_cli", "-f", "json")

    report = json.loads(found.stdout)
    assert report["metrics"]["service/keys.py"]["loc"] > 50
    unexpected = [
        f"{one['test_id']} {one['filename']}:{one['line_number']} {one['issue_text']}"
        for one in report["results"]
        if SKIPPED.keys().isdisjoint({one["test_id"], f"{one['test_id']} {one['filename']}"})
    ]
    assert unexpected == []


def pins() -> list[tuple[str, str]]:
    """Return name and version of all packages of the service."""
    return re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE)


@pytest.fixture
def sbom():
    """Path of the bill of materials of `make sbom`, made with the installed tools."""
    made = run("make", "-o", ".venv/.ops", "sbom")
    assert made.returncode == 0, made.stderr
    return ROOT / "out" / "sbom.json"


def test_the_bill_of_materials_has_every_pin_with_its_hashes(sbom):
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


def test_the_bill_of_materials_names_only_public_hosts_and_no_path(sbom):
    text = sbom.read_text()

    hosts = {urlsplit(url).hostname for url in re.findall(r'https?://[^\s"]+', text)}
    assert hosts <= {
        "pypi.org", "cyclonedx.org", "github.com", "cyclonedx-bom-tool.readthedocs.io",
        "cyclonedx-python-library.readthedocs.io",
    }  # fmt: skip
    assert str(ROOT) not in text
    assert str(Path.home()) not in text


def test_the_bill_of_materials_is_reproducible(sbom):
    before = sbom.read_bytes()

    assert run("make", "-o", ".venv/.ops", "sbom").returncode == 0

    assert sbom.read_bytes() == before


def test_the_lock_files_name_no_index():
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


def test_the_committed_swagger_ui_is_what_npm_has(tmp_path):
    version = re.search(r"`swagger-ui-dist` ([\d.]+)", (SWAGGER_UI_DIR / "README.md").read_text())[1]
    packed = run("npm", "pack", "--silent", "--pack-destination", str(tmp_path), f"swagger-ui-dist@{version}")
    assert packed.returncode == 0, packed.stderr
    subprocess.run(["tar", "-xzf", *tmp_path.glob("*.tgz"), "-C", tmp_path], check=True)

    for name in INTEGRITY:
        assert (
            gzip.decompress((SWAGGER_UI_DIR / f"{name}.gz").read_bytes()) == (tmp_path / "package" / name).read_bytes()
        )
    for name in ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"):
        assert (SWAGGER_UI_DIR / name).read_bytes() == (tmp_path / "package" / name).read_bytes()
