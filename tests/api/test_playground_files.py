"""The playground's files: content types, revalidation and content security policy."""

import gzip
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem_document, embed, point
from support.service_process import ROOT, ServiceProcess

from service.api.routes.playground import WEB_DIR, WORKER
from service.api.static_files import CONTENT_TYPES

PAGE_MODULE = "playground/playground.js"
PACKAGED = sorted(path.relative_to(WEB_DIR).as_posix() for path in WEB_DIR.rglob("*") if path.is_file())
FILES = [name for name in PACKAGED if not name.endswith(("/package.json", "/tsconfig.json", "/README.md", ".d.ts"))]


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_content_type(client, name):
    response = client.get(f"/web/{name}")

    assert response.status_code == 200
    assert response.content == (WEB_DIR / name).read_bytes()
    assert response.headers["content-type"] == CONTENT_TYPES[Path(name).suffix]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_is_served_at_the_root(client):
    response = client.get("/")

    assert response.text == (WEB_DIR / "index.html").read_text()
    assert response.headers["content-type"] == "text/html; charset=utf-8"


def test_the_policy_allows_no_other_origin_and_no_inline_code(client):
    policy = client.get("/").headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"unsafe|\*|https?:", policy)


def test_the_files_use_only_relative_addresses():
    for path in WEB_DIR.rglob("*"):
        if path.suffix not in {".html", ".css", ".js"}:
            continue
        text = path.read_text()
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"https://masks.example", "http://www.w3.org"}, path
        assert not re.search(r"""(src|href|from)\s*=?\s*["']/""", text), path


def test_the_page_preloads_every_module(client):
    named = set(re.findall(r'href="web/([\w/-]+\.js)"', client.get("/").text))

    assert named == imported_by(PAGE_MODULE) - {PAGE_MODULE}
    modules = {name for name in FILES if name.endswith(".js")}
    assert modules == imported_by(PAGE_MODULE) | imported_by(WORKER) | imported_by("edgesam.js")


def test_the_page_links_every_style_sheet(client):
    linked = re.findall(r'rel="stylesheet" href="web/([\w/-]+\.css)"', client.get("/").text)

    assert sorted(linked) == [name for name in FILES if name.endswith(".css")]
    assert linked[0] == "styles/base.css"
    assert linked[-1] == "styles/responsive.css"  # it overrides the others


def imported_by(name: str) -> set[str]:
    """Return a module and all modules that it imports."""
    found, new = set(), {name}
    while new:
        found |= new
        new = {
            posixpath.normpath(posixpath.join(posixpath.dirname(name), imported))
            for name in new
            for imported in re.findall(r'from "(\..+?)"', (WEB_DIR / name).read_text())
        } - found
    return found


def test_an_unchanged_file_is_not_sent_again(client):
    first = client.get("/web/styles/base.css")

    again = client.get("/web/styles/base.css", headers={"If-None-Match": first.headers["etag"]})
    other = client.get("/web/styles/base.css", headers={"If-None-Match": '"other"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert other.status_code == 200


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.5", "GZIP"])
def test_text_is_compressed_for_clients_that_accept_gzip(client, accepted):
    with client.stream("GET", "/web/playground/playground.js", headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join(response.iter_raw())

    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(raw) == (WEB_DIR / PAGE_MODULE).read_bytes()


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "gzip;q=0.000", "identity"])
def test_text_is_plain_for_other_clients(client, accepted):
    response = client.get("/web/playground/playground.js", headers={"Accept-Encoding": accepted})

    assert "content-encoding" not in response.headers


@pytest.mark.parametrize("path", ["/", "/web/edgesam.js", "/web/samples/dahlia.jpg"])
def test_head_answers_with_the_same_headers_and_no_body(client, path):
    got, head = client.get(path), client.head(path)

    assert head.content == b""
    for name in ("content-length", "content-type", "etag", "content-security-policy"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/none.js",
        "/web/..%2Fapp.py",
        "/web/%2e%2e/app.py",
        "/web/a/b",
        "/web/samples",
        "/web/samples/none.jpg",
        "/web/client/package.json",
        "/web/client/tsconfig.json",
        "/web/client/README.md",
        "/web/client/../index.html/x",
    ],
)
def test_other_paths_are_not_found(client, path):
    assert_problem_document(client.get(path), 404, "not-found")


def test_posting_to_the_page_is_refused(client):
    assert_problem_document(client.post("/"), 405, "method-not-allowed")


def test_the_service_ignores_the_header_x_image_hash(client, next_seed):
    image_hash = embed(client, noise_file((40, 60), next_seed))
    body = {"image_hash": image_hash, "prompts": [point(20, 20)]}

    with_header = client.post("/segment", json=body, headers={"X-Image-Hash": "f" * 64})

    assert with_header.status_code == 200
    assert with_header.json()["image_hash"] == image_hash


def test_the_start_logs_the_address_of_the_page():
    with ServiceProcess({}) as service:
        line = next(line for line in service.log if line["event"] == "listening")

    assert line["playground"] == f"{service.url}/"


def test_a_built_package_carries_every_file(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)

    built = tmp_path / "service" / "web"
    assert sorted(path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()) == PACKAGED
