"""Files for decoding in the browser: ONNX Runtime's files beside the page, and the graphs by their hashes."""

import gzip
import hashlib
import json
import random

import pytest
from support.raw_http import RawConnection
from support.service_client import assert_problem, assert_problem_document, open_client, wait_for_in_flight
from support.service_process import ServiceProcess

from service.api.routes.playground import RUNTIME_FILES, RUNTIME_ROUTE, WORKER, read_runtime
from service.errors import InvalidRequest, Overloaded, RangeNotSatisfiable, Unauthorized
from service.inference.model_files import read_model_files
from service.manifest import load_manifest
from service.settings import BUNDLED_MODEL

KEY = "a-key-of-whoever-decodes"
UNKNOWN = "5" * 64


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory):
    """A folder with files of the right names, large enough that answers stay unread, and one other file."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in RUNTIME_FILES:
        (folder / name).write_bytes(random.Random(name).randbytes(6_000_000))
    (folder / "ort.all.mjs").write_text("not asked for")
    return folder


@pytest.fixture(scope="module")
def offering(runtime_dir):
    """A process with the bundled model, one download at a time, and an API key."""
    settings = {
        "EDGESAM_BROWSER_RUNTIME_DIR": str(runtime_dir),
        "EDGESAM_API_KEYS": json.dumps([KEY]),
        "EDGESAM_MAX_EMBED_REQUESTS": "1",
        "EDGESAM_DECODER": "onnx",
        "EDGESAM_PROVIDER": "cpu",
    }
    with ServiceProcess(settings) as service:
        yield service


@pytest.fixture(scope="module")
def stranger(offering):
    """A client without a key."""
    with open_client(offering.url) as client:
        yield client


@pytest.fixture(scope="module")
def friend(offering):
    """A client with the key."""
    with open_client(offering.url, headers={"X-API-Key": KEY}) as client:
        yield client


@pytest.fixture(scope="module")
def files(friend):
    """The descriptions of the model files in /models."""
    return friend.get("/models").json()["models"][0]["files"]


def test_the_models_files_are_those_that_its_manifest_names(friend, files):
    manifest = load_manifest(BUNDLED_MODEL)
    expected = {
        "prepare": manifest.graphs["prepare"],
        "decoder": manifest.graphs["decoder"],
        "parameters": manifest.decoder_parameters,
    }

    assert files == {part: file.model_dump() for part, file in expected.items()}
    for file in files.values():
        response = friend.get(f"/models/files/{file['sha256']}")
        assert response.content == (BUNDLED_MODEL / file["file"]).read_bytes()
        assert response.headers["etag"] == f'"{file["sha256"]}"'
        assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert response.headers["content-type"] == "application/octet-stream"


def test_parameters_are_omitted_where_the_graph_contains_them(artifact):
    assert set(read_model_files(artifact, load_manifest(artifact))) == {"prepare", "decoder"}


def test_a_model_that_stretches_images_offers_no_files_because_the_page_letterboxes_them(artifact):
    stretching = load_manifest(artifact).model_copy(update={"resize": "stretch"})

    assert not stretching.has_high_res
    assert not stretching.decodes_in_browsers
    assert read_model_files(artifact, stretching) == {}


def test_a_model_file_supports_ranges_and_etags(friend, files):
    path = f"/models/files/{files['decoder']['sha256']}"
    whole = friend.get(path)

    part = friend.get(path, headers={"Range": "bytes=10-19"})
    again = friend.get(path, headers={"If-None-Match": whole.headers["etag"]})
    behind = friend.get(path, headers={"Range": f"bytes={len(whole.content)}-"})

    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert (again.status_code, again.content) == (304, b"")
    assert_problem(behind, RangeNotSatisfiable)
    assert behind.headers["content-range"] == f"bytes */{len(whole.content)}"


def test_model_files_require_an_api_key(stranger, files):
    for sha256 in (files["prepare"]["sha256"], UNKNOWN, "x"):
        assert_problem(stranger.get(f"/models/files/{sha256}"), Unauthorized)


@pytest.mark.parametrize("name", ["x", "%2e%2e%2fmanifest.json", "A" * 64, "5" * 63, "5" * 65, "decoder.npz"])
def test_a_malformed_hash_is_refused(friend, name):
    response = friend.get(f"/models/files/{name}")

    assert response.status_code in {404, 422}
    if response.status_code == 422:
        assert_problem(response, InvalidRequest)


def test_other_files_of_the_model_are_not_served(friend):
    encoder = load_manifest(BUNDLED_MODEL).graphs["encoder"].sha256

    for sha256 in (UNKNOWN, encoder, hashlib.sha256((BUNDLED_MODEL / "manifest.json").read_bytes()).hexdigest()):
        assert_problem_document(friend.get(f"/models/files/{sha256}"), 404, "not-found")


def test_the_runtime_files_need_no_key_are_compressed_and_are_revalidated(stranger, runtime_dir):
    kinds = {"ort.wasm.bundle.min.mjs": "text/javascript; charset=utf-8", RUNTIME_FILES[1]: "application/wasm"}

    for name in RUNTIME_FILES:
        response = stranger.get(f"/web/runtime/{name}", headers={"Accept-Encoding": "identity"})
        again = stranger.get(f"/web/runtime/{name}", headers={"If-None-Match": response.headers["etag"]})
        assert response.content == (runtime_dir / name).read_bytes()
        assert response.headers["content-type"] == kinds[name]
        assert response.headers["cache-control"] == "no-cache"
        assert again.status_code == 304
    with stranger.stream("GET", f"/web/runtime/{RUNTIME_FILES[0]}") as streamed:
        raw = b"".join(streamed.iter_raw())
    assert streamed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == (runtime_dir / RUNTIME_FILES[0]).read_bytes()


@pytest.mark.parametrize("name", ["ort.all.mjs", "", "..%2fort.all.mjs", "%2e%2e/%2e%2e/app.py", "/etc/passwd", "."])
def test_other_files_of_the_runtime_folder_are_not_served(friend, stranger, name):
    assert_problem_document(friend.get(f"/web/runtime/{name}"), 404, "not-found")
    assert stranger.get(f"/web/runtime/{name}").status_code in {401, 404}


PAGE, DECODER, MODULE = "/", f"/web/{WORKER}", "/web/edgesam.js"
THREAD, WASM = (f"/web/runtime/{name}" for name in RUNTIME_FILES)


def policy_of(client, path):
    """Directives of the content security policy."""
    policy = client.get(path).headers["content-security-policy"]
    return dict(part.strip().partition(" ")[::2] for part in policy.split(";"))


@pytest.mark.parametrize(
    ("path", "scripts", "workers", "created_by"),
    [
        (PAGE, "'self'", "'self'", "edgesam-worker"),
        (DECODER, "'self' 'wasm-unsafe-eval'", "'self'", "default"),
        (THREAD, "'self'", "'none'", "'none'"),
        (WASM, "'self'", "'none'", "'none'"),
        (MODULE, "'self'", "'none'", "'none'"),
    ],
)
def test_only_the_worker_may_compile_wasm_and_only_it_and_the_page_may_start_workers(
    stranger, path, scripts, workers, created_by
):
    policy = policy_of(stranger, path)

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == scripts
    assert policy["worker-src"] == workers
    assert policy["trusted-types"] == created_by
    assert policy["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize(
    ("path", "isolates", "embeds"),
    [
        (PAGE, True, True),
        (DECODER, False, True),
        (THREAD, False, True),
        (MODULE, False, False),
        ("/docs", False, False),
    ],
)
def test_the_page_is_isolated_and_its_workers_may_run_in_it(stranger, friend, path, isolates, embeds):
    client = friend if path == "/docs" else stranger
    answers = [client.get(path), client.head(path)] if path != "/docs" else [client.get(path)]
    again = client.get(path, headers={"If-None-Match": answers[0].headers.get("etag", '"none"')})

    for answer in (*answers, again):
        assert answer.headers.get("cross-origin-opener-policy") == ("same-origin" if isolates else None)
        assert answer.headers.get("cross-origin-embedder-policy") == ("require-corp" if embeds else None)
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_without_the_runtime_folder_no_file_is_offered_and_the_policy_is_strict(client):
    (model,) = client.get("/models").json()["models"]

    assert model["files"] == {}
    for path in (PAGE, DECODER):
        policy = policy_of(client, path)
        assert policy["script-src"] == "'self'"
        assert policy["worker-src"] == policy["trusted-types"] == "'none'"
        headers = client.get(path).headers
        assert not {"cross-origin-opener-policy", "cross-origin-embedder-policy"} & set(headers)
    for path in (f"/web/runtime/{RUNTIME_FILES[0]}", f"/models/files/{UNKNOWN}"):
        assert_problem_document(client.get(path), 404, "not-found")


def test_runtime_downloads_are_bounded_and_use_permits_of_their_own(offering, friend, files):
    path = f"/web/runtime/{RUNTIME_FILES[0]}"
    with RawConnection(offering.url, receive_buffer_bytes=4096) as slow:
        slow.start(path, method="GET")
        wait_for_in_flight(friend, RUNTIME_ROUTE)

        assert_problem(friend.get(path), Overloaded)
        assert friend.get(f"/models/files/{files['prepare']['sha256']}").status_code == 200
        assert friend.get("/web/edgesam.js").status_code == 200


def test_the_files_are_documented_where_they_are_served(friend, client):
    documented = friend.get("/openapi.json").json()["paths"]["/models/files/{sha256}"]["get"]

    assert documented["operationId"] == "model_file"
    assert {"200", "206", "304", "401", "404", "416", "422", "503"} <= set(documented["responses"])
    assert "/models/files/{sha256}" not in client.get("/openapi.json").json()["paths"]


def test_a_folder_without_the_files_ends_the_start_with_the_command_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"ort\.wasm\.bundle\.min\.mjs: No such file.*`make browser-runtime`"):
        read_runtime(tmp_path)
