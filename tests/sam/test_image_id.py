"""Every image and way of reading it has one public id."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sam.decoded_image import LEVELS, ReadOptions
from service.sam.embedding import embedding_key, includes, is_embedding_key, is_variant_key, plain_key
from service.sam.image_id import VARIANT_PATTERN, ImageId, parse_image_id
from service.sam.region import Region

HASH = "0a" * 32
bands = st.tuples(*[st.integers(1, 9999)] * 3)
first, side = st.integers(0, 99_999_999), st.integers(32, 99_999_999)
regions = st.builds(lambda x, y, width, height: Region(x, y, x + width, y + height), first, first, side, side)


@given(st.sampled_from(LEVELS), st.none() | bands, st.none() | regions)
def test_an_id_is_read_back(levels, bands, region):
    image = ImageId(HASH, ReadOptions(levels, bands, region))

    assert parse_image_id(str(image)) == image
    assert re.fullmatch(VARIANT_PATTERN, str(image)[64:])


def test_the_ids_are_those_of_the_documentation():
    assert str(ImageId(HASH)) == HASH
    assert str(ImageId(HASH, ReadOptions("percentile"))) == f"{HASH}~levels=percentile"
    assert str(ImageId(HASH, ReadOptions("auto", (4, 3, 2)))) == f"{HASH}~bands=4,3,2"
    assert str(ImageId(HASH, ReadOptions("percentile", (4, 3, 2)))) == f"{HASH}~levels=percentile~bands=4,3,2"
    region = Region(0, 10, 640, 480)
    assert str(ImageId(HASH, ReadOptions(region=region))) == f"{HASH}~region=0,10,640,480"
    everything = ImageId(HASH, ReadOptions("percentile", (4, 3, 2), region))
    assert str(everything) == f"{HASH}~levels=percentile~bands=4,3,2~region=0,10,640,480"
    assert str(everything.whole) == f"{HASH}~levels=percentile~bands=4,3,2"


def test_upper_case_digits_of_the_hash_are_the_same_image():
    assert parse_image_id(HASH.upper() + "~levels=full") == ImageId(HASH, ReadOptions("full"))


@pytest.mark.parametrize("text", ["", "~", HASH[:-1], HASH + "0", HASH[:-1] + "g", f" {HASH}", f"{HASH}\n"])
def test_other_texts_are_no_hashes(text):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        parse_image_id(text)


@pytest.mark.parametrize(
    "options",
    [
        "~", "~~", "~levels=auto", "~levels=", "~levels", "~levels=FULL", "~levels=full~levels=full", "~bands=4,3",
        "~bands=4,3,2~levels=full", "~bands=4,3,2,1", "~bands=04,3,2", "~bands=0,1,2", "~bands=4, 3,2",
        "~bands=10000,1,2", "~bands=4,3,2\n", "~bands=٤,3,2", "~crop=1", "~region=", "~region=0,0,31,32",
        "~region=0,0,32", "~region=0,0,32,32,32", "~region=00,0,32,32", "~region=-1,0,32,32", "~region=64,0,32,32",
        "~region=0,0,NaN,32", "~region=0,0,1e3,32", "~region=0,0,32.0,32", "~region=0,0,1000000000,32",
        "~region=0,0,32,32~bands=4,3,2", "~region=0,0,32,32~region=0,0,32,32", "~region=0, 0,32,32",
        "~region=0,0,٣٢,32", "~region=0,0," + "9" * 5000 + ",32",
    ],
)  # fmt: skip
def test_other_texts_are_no_options(options):
    with pytest.raises(ValueError, match=r"image_id|levels|bands|region"):
        parse_image_id(HASH + options)


@pytest.mark.parametrize("namespace", ["", "team"])
def test_the_key_of_a_variant_names_the_image_in_braces(namespace):
    plain = embedding_key(HASH, "model", "float16", namespace)
    variant = embedding_key(f"{HASH}~levels=full", "model", "float16", namespace)

    assert variant == f"edgesam:variant:{{{plain}}}~levels=full"
    assert (plain_key(variant), plain_key(plain)) == (plain, plain)
    assert (is_variant_key(variant), is_variant_key(plain)) == (True, False)
    assert is_embedding_key(variant, "model", "float16")
    assert not is_embedding_key(variant, "model", "float32")
    for other in (variant[:-1], variant + "~", variant.replace("}", ""), "x" + variant, variant + ":mask:" + "0" * 32):
        assert not is_embedding_key(other, "model", "float16")


def test_the_deletion_of_an_image_includes_its_variants_alone():
    plain, full, bands = (embedding_key(HASH + rest, "m", "float16") for rest in ("", "~levels=full", "~bands=1,2,3"))
    other = embedding_key("0b" * 32, "m", "float16")

    assert [includes(plain, key) for key in (plain, full, bands, other)] == [True, True, True, False]
    assert [includes(full, key) for key in (plain, full, bands, other)] == [False, True, False, False]
