"""Whether a licence allows commercial use, by the words of manifests."""

import pytest

from model_store.catalogue.published import PUBLISHED
from model_store.export.model_info import info_of_published
from service.licences import allows_commercial_use


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("Apache-2.0", True),
        ("mit", True),
        ("Apache-2.0, https://example.org/LICENSE", True),
        ("Apache License 2.0, https://example.org/LICENSE", True),
        ("MIT License", True),
        ("Apache License 2.0, but not for weapons", None),
        ("BSD-3-Clause (weights and code)", True),
        ("CC-BY-4.0", True),
        ("CC-BY-NC-4.0", False),
        ("CC BY-NC-SA 4.0", False),
        ("S-Lab License 1.0 (non-commercial), https://example.org/LICENSE", False),
        ("research and non-commercial use: some of the photos it was trained on allow no more", False),
        ("noncommercial research", False),
        ("MIT, without commercial use", None),  # a person has to read it
        ("MITRE", None),
        ("our own", None),
        ("", None),
    ],
)
def test_licences_that_are_known(licence, allowed):
    assert allows_commercial_use(licence) is allowed


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_licence_in_the_manifest_of_a_published_model_is_known(name):
    model = PUBLISHED[name]

    assert allows_commercial_use(info_of_published(model, sha256="0" * 64).licence) is model.licence.commercial_use
