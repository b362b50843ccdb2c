"""Selectors of routes in autoscalers, rules and dashboard: none forgets a route, such as that of a new adapter."""

import re

import pytest
import yaml
from support.manifests import K8S

from service.api.access.policy import policies_of
from service.api.adapters import ADAPTERS
from service.app import create_app
from service.settings import Settings

HPA = K8S / "components" / "hpa" / "prometheus-adapter-values.yaml"
KEDA = K8S / "components" / "keda" / "scaled-object.yaml"
# Dashboard and PrometheusRule are written from these files.
FILES = (HPA, KEDA, K8S / "components" / "monitoring" / "rules.yaml", K8S / "components" / "monitoring" / "board.py")
SELECTOR = re.compile(r'\broute(=~|=)"([^"]*)"')
WORK = frozenset({"uploads", "prompt requests", "everything requests"})


@pytest.fixture(scope="module")
def app(artifact):
    """The application with every adapter."""
    return create_app(Settings(model_dir=artifact, adapters=sorted(ADAPTERS)))


@pytest.fixture(scope="module")
def policies(app):
    return policies_of(app.router.routes)


@pytest.fixture(scope="module")
def work(policies):
    """The routes that compute: their requests hold a permit of uploads, prompts or everything mode."""
    return {route for (_, route), policy in policies.items() if policy.permit in WORK}


@pytest.fixture(scope="module")
def prompts_by_hash(app, work):
    """The routes that compute and may name an image which is in no cache."""
    paths = app.openapi()["paths"]
    found = {path for path, operations in paths.items() if path in work and "404" in operations["post"]["responses"]}
    return found - {"/embed"}  # its 404 names a model that is not served


def selected(operator, pattern, policies):
    """Return the routes that a selector of Prometheus selects."""
    regex = pattern if operator == "=~" else re.escape(pattern)
    return {route for _, route in policies if re.fullmatch(regex, route)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_selector_selects_all_routes_that_compute_or_all_that_name_an_image(path, policies, work, prompts_by_hash):
    for operator, pattern in SELECTOR.findall(path.read_text()):
        assert selected(operator, pattern, policies) in (work, prompts_by_hash), pattern


def test_both_autoscalers_count_every_route_that_computes(policies, work):
    (rule,) = yaml.safe_load(HPA.read_text())["rules"]["custom"]
    query = yaml.safe_load(KEDA.read_text())["spec"]["triggers"][0]["metadata"]["query"]

    for text in (rule["metricsQuery"], query):
        ((operator, pattern),) = SELECTOR.findall(text)
        assert selected(operator, pattern, policies) == work
