"""Weights from protobuf that was written by hand, of both generations of Caffe's files."""

import numpy as np
import pytest
import torch
from caffemodels import blob, layer, text, write_caffemodel

from lightning_modules.caffemodel import read_caffemodel

ARRAYS = {
    "conv/1.weight": np.arange(48).reshape(2, 3, 2, 4) / 7,
    "conv/1.bias": np.array([0.5, -1.0]),
    "fc.weight": np.arange(15).reshape(3, 5) - 7.0,
    "fc.bias": np.zeros(3),
}


@pytest.mark.parametrize("old", [True, False], ids=["of 2014", "later"])
def test_arrays_come_back(tmp_path, old):
    found = read_caffemodel(write_caffemodel(tmp_path / "net.caffemodel", ARRAYS, old))
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert found[name].dtype == torch.float32 and found[name].shape == values.shape
        assert np.array_equal(found[name].numpy(), values.astype(np.float32))


def test_numbers_need_not_be_packed(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("fc", [blob(ARRAYS["fc.weight"], True, packed=False)], True))
    assert read_caffemodel(path)["fc.weight"].tolist() == ARRAYS["fc.weight"].tolist()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "without weights"),
        (text(1, b"GoogleNet"), "without weights"),
        (b"<html></html>", "not a .caffemodel"),
        (layer("fc", [blob(np.ones((2, 3)), True)[:-4]], True), "not a .caffemodel"),
        (layer("fc", [text(7, text(1, b"\2\3")) + text(5, b"\0" * 20)], False), r"layer 'fc' says"),
        (layer("fc", [text(5, b"\0" * 4)], False), r"layer 'fc' says \[0, 0, 0, 0\] and holds 1"),
    ],
    ids=["empty", "a name", "a web page", "cut short", "another count", "no shape"],
)
def test_other_files_are_refused(tmp_path, data, what):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=what):
        read_caffemodel(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_caffemodel(tmp_path / "none.caffemodel")
