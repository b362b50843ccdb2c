"""The files behind /docs: the pinned Swagger UI, compressed, revalidated, and from this service alone."""

import base64
import hashlib

import pytest

from service.api.routes.docs import INTEGRITY


@pytest.mark.parametrize("name", INTEGRITY)
def test_the_files_of_swagger_ui_are_the_pinned_ones(client, name):
    response = client.get(f"/docs/{name}")

    digest = base64.b64encode(hashlib.sha384(response.content).digest()).decode()
    assert f"sha384-{digest}" == INTEGRITY[name]
    assert response.headers["content-encoding"] == "gzip"
    assert client.get(f"/docs/{name}", headers={"Accept-Encoding": "identity"}).content == response.content
    assert client.get(f"/docs/{name}", headers={"If-None-Match": response.headers["etag"]}).status_code == 304
    assert client.head(f"/docs/{name}").headers["content-length"] == response.headers["content-length"]


@pytest.mark.parametrize("name", ["LICENSE", "swagger-ui-bundle.js.gz", "..%2Fdocs.py"])
def test_other_files_of_the_swagger_ui_folder_are_not_served(client, name):
    assert client.get(f"/docs/{name}").status_code == 404


def test_the_documentation_page_uses_no_other_host_and_its_policy_allows_none(client):
    response = client.get("/docs")

    assert "//" not in response.text.replace("<!doctype html>", "")
    policy = response.headers["content-security-policy"]
    assert "//" not in policy
    assert "default-src 'none'" in policy
    assert "'unsafe-eval'" not in policy
    script_sources = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'unsafe-inline'" not in script_sources
