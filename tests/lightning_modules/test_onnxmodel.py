"""Weights from ONNX files: the model zoo's names, what is in such files besides, and files that cannot be taken."""

import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import SHARED
from onnx import TensorProto, helper, numpy_helper

from lightning_modules.backbone import BackboneError, build_backbone
from lightning_modules.bvlc_googlenet import NAME, BvlcGoogLeNet
from lightning_modules.onnxmodel import read_onnx

torch.set_num_threads(1)

WEIGHTS = SHARED / "weights/bvlc_googlenet_fp16.pth"
ARRAYS = {"conv1/7x7_s2_w_0": np.arange(12.0).reshape(1, 3, 2, 2), "conv1/7x7_s2_b_0": np.array([0.5])}


def write(path, tensors):
    save(path, [numpy_helper.from_array(value, name) for name, value in tensors.items()])
    return path


def save(path, tensors):
    """A file of tensors; what the network does with them is nobody's concern here."""
    output = helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [1, 1000])
    onnx.save(helper.make_model(helper.make_graph([], "bvlc_googlenet", [], [output], tensors)), path)


def in_zoo(state, dtype=np.float32):
    """A state dict by the names that Caffe2's export gives."""
    endings = {"weight": "w_0", "bias": "b_0"}
    named = {f"{name.rpartition('.')[0]}_{endings[name.rpartition('.')[2]]}": value for name, value in state.items()}
    return {name: value.float().numpy().astype(dtype) for name, value in named.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_zoos_names_become_caffes(tmp_path, dtype):
    tensors = {name: value.astype(dtype) for name, value in ARRAYS.items()}
    found = read_onnx(write(tmp_path / "net.onnx", {**tensors, "OC2_DUMMY_1": np.array([1, 1024])}))
    assert list(found) == ["conv1/7x7_s2.weight", "conv1/7x7_s2.bias"]
    for (name, value), expected in zip(found.items(), ARRAYS.values(), strict=True):
        assert value.dtype == torch.float32 and np.array_equal(value.numpy(), expected), name


@pytest.mark.parametrize("real", [False, True])
def test_it_gives_the_network_that_a_plain_dict_gives(tmp_path, real):
    if real and not WEIGHTS.is_file():
        pytest.skip("BVLC's weights are not here")
    state = torch.load(WEIGHTS, weights_only=True) if real else BvlcGoogLeNet().state_dict()
    torch.save(state, tmp_path / "plain.pth")
    heads = {"loss1/classifier_w_0": np.ones((4, 2), np.float32), "OC2_DUMMY_1": np.array([1, 1024])}
    zoo = build_backbone(NAME, str(write(tmp_path / "googlenet-12.onnx", {**in_zoo(state), **heads})))
    plain = build_backbone(NAME, str(tmp_path / "plain.pth"))
    frames = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    assert zoo.sha256() == plain.sha256() and torch.equal(zoo(frames), plain(frames))


def test_a_generic_exports_own_names_are_kept(tmp_path):
    state = {name: value.numpy() for name, value in BvlcGoogLeNet().state_dict().items()}
    assert read_onnx(write(tmp_path / "own.onnx", state)).keys() == state.keys()
    build_backbone(NAME, str(tmp_path / "own.onnx"))


def test_another_network_is_refused_by_a_tensors_name(tmp_path):
    state = in_zoo(BvlcGoogLeNet().state_dict())
    for what, tensors in (
        (r"does not fit bvlc_googlenet: 'conv1/7x7_s2\.\w+' has the shape \(", {**state, **ARRAYS}),
        (r"'conv1/7x7_s2\.bias' \(64,\) is missing", {k: v for k, v in state.items() if k != "conv1/7x7_s2_b_0"}),
        (r"it has no tensor such as 'conv1/7x7_s2\.weight'", {"conv2d_7/kernel": np.ones((2, 2), np.float32)}),
        ("tensor 'conv1/7x7_s2_w_0_quantized' holds INT8", {"conv1/7x7_s2_w_0_quantized": np.ones((2, 2), np.int8)}),
    ):
        with pytest.raises(BackboneError, match=what):
            build_backbone(NAME, str(write(tmp_path / "other.onnx", tensors)))


def elsewhere() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "far_w_0")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    return tensor


def torn() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "torn_w_0")
    tensor.dims[0] = 4
    return tensor


def unknown() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "odd_w_0")
    tensor.data_type = 999
    return tensor


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (elsewhere, "'far_w_0' lie in another file; save the network as one file"),
        (torn, "tensor 'torn_w_0' cannot be read"),
        (unknown, "tensor 'odd_w_0' holds"),
    ],
)
def test_a_tensor_that_cannot_be_taken_is_named(tmp_path, make, what):
    save(tmp_path / "net.onnx", [make()])
    with pytest.raises(ValueError, match=what):
        read_onnx(tmp_path / "net.onnx")


def test_other_files_are_refused(tmp_path):
    write(tmp_path / "whole.onnx", ARRAYS)
    data = (tmp_path / "whole.onnx").read_bytes()
    for content, what in ((b"<html></html>", "not an ONNX file"), (data[:-40], "not an ONNX file"), (b"", "without weights")):
        (tmp_path / "damaged.onnx").write_bytes(content)
        with pytest.raises(BackboneError, match=f"damaged.onnx: .*{what}"):
            build_backbone(NAME, str(tmp_path / "damaged.onnx"))
    with pytest.raises(BackboneError, match="nor an existing file"):
        build_backbone(NAME, str(tmp_path / "none.onnx"))


def test_a_missing_library_is_an_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "net.onnx", ARRAYS)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackboneError, match=r"pip install -e '\.\[weights\]'"):
        build_backbone(NAME, str(path))
