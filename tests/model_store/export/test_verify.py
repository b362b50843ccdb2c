"""`verify_artifact` runs what the manifest lists: graphs that are whole may still not work."""

import hashlib
import json

import onnx
import pytest
from onnx import TensorProto, helper

from model_store.catalogue.entries import BUNDLED_DIRECTORY
from model_store.export.verify import verify_artifact
from service.manifest import GRAPH_NAMES, MANIFEST_NAME, ArtifactFile, ManifestError, load_manifest


def write_artifact(directory, **operators):
    """Three graphs of one operator each, `Identity` where none is named, and the manifest that fits them."""
    directory.mkdir()
    graphs = {}
    for name in GRAPH_NAMES:
        nodes = [helper.make_node(operators.get(name, "Identity"), ["given"], ["output"])]
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["rows", 4]) for end in ("given", "output")]
        model = helper.make_model(
            helper.make_graph(nodes, name, ends[:1], ends[1:]),
            ir_version=8,
            opset_imports=[helper.make_opsetid("", 17)],
        )
        path = directory / f"{name}.onnx"
        onnx.save(model, path)
        data = path.read_bytes()
        graphs[name] = ArtifactFile(file=path.name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    manifest = load_manifest(BUNDLED_DIRECTORY / "edgesam-lite").model_copy(
        update={"graphs": graphs, "decoder_parameters": None}
    )
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return directory


@pytest.mark.parametrize(
    ("version", "granularity"), [(2, {"proposals": 9, "source_sha256": None}), (3, None), (3, {"proposals": 0})]
)
def test_a_manifest_names_the_granularity_module_in_its_own_version_alone(tmp_path, version, granularity):
    directory = write_artifact(tmp_path / "model")
    members = json.loads((directory / MANIFEST_NAME).read_text()) | {
        "format_version": version, "granularity": granularity
    }  # fmt: skip
    (directory / MANIFEST_NAME).write_text(json.dumps(members))

    with pytest.raises(ManifestError, match="granularity"):
        load_manifest(directory)


def test_graphs_that_run_are_verified(tmp_path):
    directory = write_artifact(tmp_path / "model")

    manifest = verify_artifact(directory)

    assert manifest == load_manifest(directory)


@pytest.mark.parametrize("operator", ["Log", "Acosh"], ids=["infinite", "not a number"])
@pytest.mark.parametrize("graph", GRAPH_NAMES)
def test_a_graph_whose_output_is_not_finite_is_named(tmp_path, graph, operator):
    directory = write_artifact(tmp_path / "model", **{graph: operator})

    with pytest.raises(ManifestError, match=rf"{graph}\.onnx: .*output output is not finite"):
        verify_artifact(directory)


def test_a_graph_that_onnx_runtime_cannot_load_is_named(tmp_path):
    directory = write_artifact(tmp_path / "model", prepare="NoSuchOperator")

    with pytest.raises(ManifestError, match=r"prepare\.onnx: the graph does not run"):
        verify_artifact(directory)
