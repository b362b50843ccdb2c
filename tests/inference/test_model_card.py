"""The model card of an artifact, read from its folder."""

import pytest

from service.inference.model_card import MAX_CARD_BYTES, read_model_card
from service.manifest import load_manifest
from service.settings import BUNDLED_MODEL


def manifest(card):
    return load_manifest(BUNDLED_MODEL).model_copy(update={"card": card})


def test_the_bundled_model_has_its_card_as_a_file():
    card = read_model_card(BUNDLED_MODEL, load_manifest(BUNDLED_MODEL))

    assert card == (BUNDLED_MODEL / "README.md").read_bytes()


@pytest.mark.parametrize("card", ["", "https://example.org/card", "http://example.org/card"])
def test_a_card_elsewhere_is_not_read(tmp_path, card):
    assert read_model_card(tmp_path, manifest(card)) is None


def test_a_card_that_is_missing_too_large_or_a_link_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "large.md").write_bytes(b"x" * (MAX_CARD_BYTES + 1))
    (tmp_path / "full.md").write_bytes(b"x" * MAX_CARD_BYTES)
    (tmp_path / "link.md").symlink_to(tmp_path / "full.md")
    (tmp_path / "folder").mkdir()

    found = {name: read_model_card(tmp_path, manifest(name)) for name in ("none.md", "large.md", "link.md", "folder")}

    assert set(found.values()) == {None}
    assert len(caplog.records) == 4
    assert read_model_card(tmp_path, manifest("full.md")) == b"x" * MAX_CARD_BYTES


@pytest.mark.parametrize(
    "card", ["../secret", "a/b", "/etc/passwd", ".hidden", "javascript:alert(1)", "https://", "x" * 65]
)
def test_a_manifest_names_no_card_outside_its_folder(tmp_path, card):
    text = (BUNDLED_MODEL / "manifest.json").read_text().replace('"README.md"', f'"{card}"')
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(ValueError, match="card"):
        load_manifest(tmp_path)
