"""The reference pages are complete: they list what the code has, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.doc_tables import PAGES, setting_rows, table_in, table_of
from support.documents import ROOT, page, pages
from typer.main import get_command

from service.api.adapters import ADAPTERS
from service.api.middleware.cors import ALLOWED_HEADERS, EXPOSED_HEADERS
from service.api.routes.playground import RUNTIME_FILES
from service.app import create_app
from service.client.command import app as client_app
from service.manifest import Manifest
from service.settings import Settings

# Schemas whose fields http-api.md and problems.md describe.
SCHEMAS = (
    "EmbedResponse", "SegmentRequest", "PromptModel", "PointModel", "SegmentResponse", "ResultModel", "MaskModel",
    "RleModel", "PolygonModel", "ModelModel", "ModelFileModel", "RankingModel", "ReadyModel", "ProblemModel",
    "EverythingRequest", "EverythingParameters", "EverythingMaskModel", "EverythingDefaults", "StartLine",
    "ProgressLine",
)  # fmt: skip
_C_NAME = re.compile(r"\bEDGESAM_[A-Z_]+\b")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory):
    """The application with all that settings can switch on."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in RUNTIME_FILES:
        (folder / name).write_bytes(b"of no interest here")
    return create_app(Settings(adapters=sorted(ADAPTERS), browser_runtime_dir=folder, provider="cpu"))


@pytest.mark.parametrize("name", PAGES)
def test_a_table_of_the_reference_is_the_one_that_the_code_has(name: str):
    text = page(f"docs/reference/{PAGES[name][0]}")

    assert table_in(text, name) == table_of(name), "write the tables anew: python tests/support/doc_tables.py"


def test_no_document_names_a_setting_that_does_not_exist():
    known = {found[1] for row in setting_rows() if (found := re.search(r"`(EDGESAM_\w+)`", row))}
    known |= {name for parameter in get_command(client_app).params for name in [parameter.envvar] if name}
    known |= {"EDGESAM_STORE_DIR", "EDGESAM_MIRROR"}  # the model store's
    known |= {name for path in (ROOT / "service" / "native").rglob("*.h") for name in _C_NAME.findall(path.read_text())}

    named = {
        name
        for path in pages()
        if path.name != "CHANGELOG.md" and path.parent.name != "decisions"  # they tell the past
        for name in re.findall(r"EDGESAM_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))
    }

    assert named - known == set()


def test_the_http_api_page_has_every_route_and_no_other(app):
    text = page("docs/reference/http-api.md").partition("## Images")[0]
    named = {f"{method} {path}" for method, path in re.findall(r"`(GET|HEAD|POST|DELETE) (/[^`]*)`", text)}

    routes = {f"{method} {route.path}" for route in app.router.routes for method in getattr(route, "methods", ()) or ()}

    heads = {route for route in routes if route.replace("HEAD", "GET") in routes and route.startswith("HEAD")}
    assert "Every address with `GET` also has `HEAD`" in text
    assert named == routes - heads | {"HEAD /embed/{image_hash}"}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_reference_names_every_field_of_the_json(app, schema: str):
    text = page("docs/reference/http-api.md") + page("docs/reference/problems.md")

    fields = app.openapi()["components"]["schemas"][schema]["properties"]

    assert [name for name in fields if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", text)] == []


def test_the_http_api_page_names_every_header_that_pages_of_other_origins_may_use():
    text = page("docs/reference/http-api.md")

    assert [name for name in (*ALLOWED_HEADERS, *EXPOSED_HEADERS) if f"`{name}`" not in text] == []


def test_the_artifact_page_names_every_member_of_the_manifest():
    text = page("docs/reference/artifact-format.md")

    assert [name for name in Manifest.model_fields if f"`{name}`" not in text] == []


def test_the_cli_page_names_every_option_of_the_keys_command():
    command = [sys.executable, "-m", "service.keys", "new", "--help"]
    told = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    options = set(re.findall(r"--[a-z-]+[a-z]", told)) - {"--help"}

    assert {"--name", "--roles", "--add-to"} <= options
    assert {name for name in options if f"`{name}`" not in page("docs/reference/cli.md")} == set()


def test_every_make_target_that_a_document_names_exists():
    targets = set(re.findall(r"^([a-z0-9-]+):", page("Makefile"), re.MULTILINE))

    named = {
        name
        for path in pages()
        if path.name != "CHANGELOG.md"
        for name in re.findall(r"(?:`|^)make ([a-z0-9-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert {"serve", "test", "check"} <= named
    assert named <= targets


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 150


# A decision record begins with its date and status.
@pytest.mark.parametrize(
    "path", [path for path in pages() if path.parent.name != "decisions"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_page_begins_with_a_title_and_a_sentence(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith("# ")
    assert re.match(r"[A-Z`]", lines[2])
