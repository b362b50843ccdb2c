"""The maps of high resolution on their way from the encoder through batches and image states into the decoder."""

import asyncio

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_array_equal
from support.redis_server import eventually
from support.sam2_weights import state_dict
from support.small_graphs import small_maps, write_decoder, write_encoder, write_prepare, write_small_artifact

from model_store.checkpoint_files.sam2_names import our_name
from service.cache.memory import MemoryCache
from service.inference.backends.image_encoder import ImageEncoder
from service.inference.backends.image_state import ImageState, StateArrays
from service.inference.backends.onnx_graph import Resources
from service.inference.backends.prompt_decoders import (
    Decoded,
    NativePromptDecoder,
    OnnxPromptDecoder,
    select_prompt_decoder,
)
from service.inference.backends.providers import CPU
from service.inference.backends.runtime import Runtime
from service.inference.model_batchers import EncodeItem, encode_batcher
from service.manifest import HIGH_RES_NAMES, STATE_NAMES, ManifestError
from service.sam.embedding import HighResMaps, ImageEmbedding
from service.sam.prompts import POSITIVE

MIB = 1 << 20
RESOURCES = Resources(threads=1)


def images(count):
    return np.random.default_rng(0).normal(size=(count, 3, 1024, 1024)).astype(np.float32)


def random_embedding(dtype=np.float16, seed=1):
    random = np.random.default_rng(seed)
    tokens, s1, s0 = (random.normal(0, 0.3, (4096, columns)).astype(dtype) for columns in (256, 256, 512))
    return ImageEmbedding(tokens, (600, 800), high_res=HighResMaps(s1, s0))


def click(x, y):
    return np.array([[[x, y]]], np.float32), np.array([[POSITIVE]], np.int64)


def open_encoder(path, batch):
    return ImageEncoder(write_encoder(path, batch=batch), CPU, RESOURCES, has_granularity=False, has_high_res=True)


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory):
    """The prompt decoder of the small graphs."""
    folder = tmp_path_factory.mktemp("graphs")
    return OnnxPromptDecoder(
        write_prepare(folder / "prepare.onnx"), write_decoder(folder / "decoder.onnx"), CPU, RESOURCES
    )


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """The file of parameters of EdgeTAM's decoder, with seeded weights."""
    arrays = {our_name(key): array for key, array in state_dict("edgetam").items()}
    kept = {
        key: array
        for key, array in arrays.items()
        if not key.startswith("image_encoder.") and "pred_obj_score_head" not in key
    }
    path = tmp_path_factory.mktemp("parameters") / "decoder.npz"
    np.savez(path, **kept)
    return path


@pytest.fixture(scope="module")
def native(tmp_path_factory, parameters):
    prepare = write_prepare(tmp_path_factory.mktemp("native") / "prepare.onnx")
    return NativePromptDecoder(prepare, parameters, 1e-5, RESOURCES, has_high_res=True)


@pytest.mark.parametrize("batch", ["batch", 1], ids=["any batch", "one image"])
def test_each_image_of_a_batch_gets_its_own_maps(tmp_path, batch):
    encoder = open_encoder(tmp_path / "encoder.onnx", batch)
    both = images(2)

    encoded = encoder.encode(both)

    assert encoded.proposals == [None, None]
    for image, tokens, maps in zip(both, encoded.tokens, encoded.high_res, strict=True):
        for found, wanted in zip((tokens, maps.s1, maps.s0), small_maps(image), strict=True):
            assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
async def test_the_batcher_rounds_all_maps_and_keeps_none_of_the_batch(tmp_path, metrics, dtype):
    model = Runtime(write_small_artifact(tmp_path), provider="cpu", threads=1)
    both = images(2)
    batcher = encode_batcher(dtype=dtype, max_batch_size=2, max_queue_size=2, metrics=metrics)
    tasks = [asyncio.create_task(batcher.submit(EncodeItem(model, image))) for image in both]
    await eventually(lambda: metrics.registry.get_sample_value("edgesam_queue_depth", {"lane": "encode"}) == 2)
    batcher.start()

    for image, done in zip(both, await asyncio.gather(*tasks), strict=True):
        frame = done.result
        assert done.batch_size == 2
        for found, wanted in zip((frame.tokens, frame.high_res.s1, frame.high_res.s0), small_maps(image), strict=True):
            assert_array_equal(found, wanted.astype(dtype))
            assert found.dtype == dtype
            assert found.base is None
    await batcher.aclose()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("channel", [0, 1, 2], ids=["tokens", "s1", "s0"])
async def test_an_image_with_a_number_beyond_float16_stays_float32(tmp_path, metrics, channel, dtype):
    model = Runtime(write_small_artifact(tmp_path), provider="cpu", threads=1)
    (image,) = images(1)
    image[channel, 700, 3] = -65_600.0
    batcher = encode_batcher(dtype=dtype, max_batch_size=1, max_queue_size=1, metrics=metrics)
    batcher.start()

    frame = (await batcher.submit(EncodeItem(model, image))).result

    await batcher.aclose()
    for found, wanted in zip((frame.tokens, frame.high_res.s1, frame.high_res.s0), small_maps(image), strict=True):
        assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize(("encodes", "segments"), [(True, True), (True, False), (False, True)])
def test_a_model_with_maps_is_warmed_up_in_every_role(tmp_path, encodes, segments):
    runtime = Runtime(write_small_artifact(tmp_path), provider="cpu", threads=1, encodes=encodes, segments=segments)

    runtime.warm_up()
    state = runtime.prepare(random_embedding())

    assert runtime.manifest.format_version == 6
    assert state.nbytes == (28 * MIB if segments else 8 * MIB)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_graph_gets_the_maps_of_the_image_in_float32(small_onnx, dtype):
    embedding = random_embedding(dtype)

    state = small_onnx.prepare(embedding)
    decoded = small_onnx.decode(state, *click(3, 5), threads=1)

    assert (state.high_res_s1.dtype, state.high_res_s1.shape) == (np.float32, (1, 4096, 256))
    assert (state.high_res_s0.dtype, state.high_res_s0.shape) == (np.float32, (1, 4096, 512))
    planes = embedding.high_res.s0[:512].astype(np.float32).reshape(1, 4, 256, 256) + 4
    assert_array_equal(decoded.mask_logits, planes)
    assert np.allclose(decoded.iou_predictions, embedding.high_res.s1.astype(np.float32).mean(), atol=1e-5)
    assert_array_equal(decoded.narrow_stability, [4])


def test_maps_that_stay_on_a_device_decode_as_arrays_do_and_count_as_many_bytes(small_onnx):
    embedding = random_embedding()
    state = small_onnx.prepare(embedding)
    resident = StateArrays(
        **{
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(getattr(state, name)))
            for name in (*STATE_NAMES, *HIGH_RES_NAMES)
        }
    )

    answers = [small_onnx.decode(arrays, *click(3, 5), threads=1) for arrays in (state, resident)]

    assert_array_equal(answers[0].mask_logits, answers[1].mask_logits)
    assert_array_equal(answers[0].iou_predictions, answers[1].iou_predictions)
    assert ImageState(embedding, resident).nbytes == ImageState(embedding, state).nbytes == 28 * MIB


def test_states_of_mask_prompts_have_the_maps_of_the_image(small_onnx, native):
    embedding, masks = random_embedding(), np.stack([np.full((256, 256), value, np.float32) for value in (1, -2)])

    for decoder in (small_onnx, native):
        plain = decoder.prepare(embedding)
        masked = decoder.prepare_masks(ImageState(embedding, plain), masks)
        assert masked.keys.shape == (2, 4096, 256)
        assert masked.high_res_s1 is plain.high_res_s1
        assert masked.high_res_s0 is plain.high_res_s0


def test_the_native_decoder_reads_the_arrays_of_the_embedding_in_place(native):
    embedding = random_embedding()

    state = native.prepare(embedding)
    decoded = native.decode(state, *click(300, 500), threads=1)

    assert state.high_res_s1 is embedding.high_res.s1
    assert state.high_res_s0 is embedding.high_res.s0
    assert decoded.narrow_stability.shape == (1,)
    assert decoded.iou_predictions.min() >= 0
    assert decoded.iou_predictions.max() <= 1


def test_other_maps_give_other_masks(native):
    first, second = random_embedding(seed=1), random_embedding(seed=2)
    mixed = ImageEmbedding(
        first.tokens, first.original_size, high_res=HighResMaps(first.high_res.s1, second.high_res.s0)
    )

    answers = [native.decode(native.prepare(each), *click(300, 500), threads=1).mask_logits for each in (first, mixed)]

    assert np.abs(answers[0] - answers[1]).max() > 0.1


def test_rows_of_an_answer_have_their_narrow_stability():
    decoded = Decoded(
        np.zeros((3, 4, 256, 256), np.float32), np.zeros((3, 4)), np.zeros((3, 4)), np.array([0.1, 0.2, 0.3])
    )

    assert_array_equal(decoded.rows(1, 3).narrow_stability, [0.2, 0.3])
    assert Decoded(decoded.mask_logits, decoded.iou_predictions, decoded.stability).rows(0, 1).narrow_stability is None


@pytest.mark.parametrize(
    ("decoder", "dtype", "mebibytes"),
    [
        ("native", np.float16, 11),
        ("native", np.float32, 24),
        ("small_onnx", np.float16, 28),
        ("small_onnx", np.float32, 24),
    ],
)
def test_a_state_counts_the_bytes_of_its_arrays_once(request, decoder, dtype, mebibytes):
    embedding = random_embedding(dtype)

    state = ImageState(embedding, request.getfixturevalue(decoder).prepare(embedding))

    assert state.nbytes == mebibytes * MIB


async def test_the_memory_tier_evicts_by_the_bytes_of_the_states(native, metrics):
    memory = MemoryCache(30 * MIB, 60.0, metrics)
    for name in "abc":
        embedding = random_embedding()
        await memory.put(name, ImageState(embedding, native.prepare(embedding)))

    assert memory.keys() == ["b", "c"]
    assert memory.held_bytes == 22 * MIB


@pytest.mark.parametrize("has_token", [False, True])
def test_parameters_of_the_other_mask_decoder_are_refused_by_name(tmp_path, parameters, has_token):
    with np.load(parameters) as arrays:
        kept = {key: array for key, array in arrays.items() if has_token or "obj_score_token" not in key}
    np.savez(tmp_path / "decoder.npz", **kept)
    prepare = write_prepare(tmp_path / "prepare.onnx")

    with pytest.raises(ManifestError, match=f"parameters of mask_decoder {'sam2' if has_token else 'sam'}"):
        NativePromptDecoder(prepare, tmp_path / "decoder.npz", 1e-5, RESOURCES, has_high_res=not has_token)


def test_graphs_that_do_not_fit_the_manifest_are_refused_when_they_are_loaded(artifact, tmp_path):
    with pytest.raises(ManifestError, match=r"encoder\.onnx: the graph lacks the outputs high_res_s1, high_res_s0"):
        ImageEncoder(artifact / "encoder.onnx", CPU, RESOURCES, has_granularity=False, has_high_res=True)

    paths = {"prepare": write_prepare(tmp_path / "prepare.onnx"), "decoder": write_decoder(tmp_path / "decoder.onnx")}
    with pytest.raises(ManifestError, match=r"decoder\.onnx: the graph has the inputs .*high_res_s0, not .*queries0$"):
        select_prompt_decoder(paths, [CPU], None, RESOURCES, norm_epsilon=1e-5, has_high_res=False)
