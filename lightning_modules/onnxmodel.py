"""Weights from an ONNX file, by the names that Caffe2 gave them when it exported BVLC's networks.

The model zoo's ``googlenet-*.onnx`` are such exports: ``conv1/7x7_s2_w_0`` is Caffe's ``conv1/7x7_s2.weight``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ENDINGS = {"_w_0": ".weight", "_b_0": ".bias"}
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")


def read_onnx(path: Path) -> dict[str, Tensor]:
    """Read the initialisers of an ONNX file: ``<layer>.weight`` and ``<layer>.bias``, float32; other names as they are.

    Whole numbers of 64 bits, which are shapes of maps, are left out. No other file is opened.

    Raises:
        ImportError: there is no onnx.
        OSError: the file cannot be read.
        ValueError: it is no such file, or a tensor in it cannot be taken; names the tensor.
    """
    from onnx import TensorProto, load_model_from_string, numpy_helper

    data = path.read_bytes()
    try:
        tensors = load_model_from_string(data).graph.initializer
    except Exception as error:  # protobuf's own DecodeError; which one depends on its version
        raise ValueError(f"not an ONNX file ({(str(error) or type(error).__name__).splitlines()[0]})") from error
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        kind = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else "?"
        if kind == "INT64":
            continue
        if kind not in FLOATS:
            raise ValueError(f"tensor {tensor.name!r} holds {kind}; weights are floating-point numbers")
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ValueError(f"the numbers of tensor {tensor.name!r} lie in another file; save the network as one file")
        try:
            values = numpy_helper.to_array(tensor).astype(np.float32)
        except (ValueError, TypeError) as error:
            raise ValueError(f"tensor {tensor.name!r} cannot be read ({error})") from error
        ending = tensor.name[-4:]
        name = tensor.name.removesuffix(ending) + ENDINGS[ending] if ending in ENDINGS else tensor.name
        found[name] = torch.from_numpy(values)
    if not found:
        raise ValueError("an ONNX file without weights")
    return found
