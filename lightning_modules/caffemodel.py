"""Weights from a ``.caffemodel``: a protobuf message, of which the few fields that hold weights are declared here.

Source: BVLC/caffe ``src/caffe/proto/caffe.proto``. Files of before 2014's end, such as BVLC's GoogLeNet, have ``layers``
with four sizes a blob; later ones ``layer`` with a shape.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PARTS = ("weight", "bias")
FIELDS: dict[str, dict[str, tuple[int, str]]] = {  # message -> field -> its number and type
    "Shape": {"dim": (1, "int64")},
    "Blob": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "float"),
        "shape": (7, "Shape"),
    },
    "OldLayer": {"name": (4, "string"), "blobs": (6, "Blob")},
    "Layer": {"name": (1, "string"), "blobs": (7, "Blob")},
    "Net": {"layers": (2, "OldLayer"), "layer": (100, "Layer")},
}
REPEATED, PACKED = ("dim", "data", "blobs", "layers", "layer"), ("dim", "data")


@lru_cache
def net_message() -> Any:
    """The class of a network's message, with the fields that are read; others are passed over.

    Raises:
        ImportError: there is no protobuf.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe_weights", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in FIELDS.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = declared.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if name in REPEATED else kinds.LABEL_OPTIONAL
            if kind in FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe_weights.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            field.options.packed = name in PACKED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_weights.Net"))


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the weights of a ``.caffemodel``: ``<layer>.weight`` and ``<layer>.bias``, float32, as torch shapes them.

    Raises:
        ImportError: there is no protobuf.
        OSError: the file cannot be read.
        ValueError: it is no such file, or contradicts itself; says where.
    """
    net = net_message()()
    try:
        net.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own DecodeError; which one depends on its version
        if isinstance(error, OSError):
            raise
        raise ValueError(f"not a .caffemodel ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from error
    found: dict[str, Tensor] = {}
    for layer in [*net.layers, *net.layer]:
        for part, blob in zip(PARTS, layer.blobs, strict=False):
            shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
            while len(shape) > 1 and shape[0] == 1:  # old files write a vector as 1 x 1 x 1 x n
                del shape[0]
            values = np.array(blob.data, dtype=np.float32)
            if min(shape) < 1 or int(np.prod(shape, dtype=object)) != len(values):
                raise ValueError(f"layer {layer.name!r} says {shape} and holds {len(values)} numbers")
            found[f"{layer.name}.{part}"] = torch.from_numpy(values).reshape(shape)
    if not found:
        raise ValueError("a .caffemodel without weights")
    return found
