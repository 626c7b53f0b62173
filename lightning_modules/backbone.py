"""The frozen image network: frames -> feature cubes (N, K, D) of its last convolutional map (paper §3.1).

The paper's is Caffe's GoogLeNet, ``bvlc_googlenet``, cut at ``inception_5b/output``: 7·7 locations of 1024 channels
(protocol §6). Any torchvision classification network works too, and those of timm (``timm_networks``). Torchvision's GoogLeNet
is a batch-norm port with 3x3 convolutions where the paper's has 5x5 ones.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor, get_graph_node_names

from lightning_modules.bvlc_googlenet import AUTHORS_SIDE, CHANNEL_MEANS, MAP, NAME, BvlcGoogLeNet
from lightning_modules.caffemodel import read_caffemodel
from lightning_modules.multiresolution import pack
from lightning_modules.onnxmodel import read_onnx
from lightning_modules.weight_files import WeightsError, fit_weights, read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSIFIERS = ("classifier", "fc", "head", "heads")
"""Names under which torchvision's networks keep their classifier; a convolution in it is not the last map."""

READERS = {".caffemodel": read_caffemodel, ".onnx": read_onnx}
"""Of files in formats that are not torch's, by their suffix."""

WITHOUT_AUXILIARY = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "loss1/", "loss2/")  # heads that files hold and features do not need


class BackboneError(RuntimeError):
    """A backbone cannot be built as asked; the message says why and what to do."""


class Backbone(nn.Module):
    """A classification network cut at one of its maps, frozen.

    Args:
        body: frames (N, 3, S, S), normalised -> map (N, D, rows, columns).
        mean, std: normalisation of the input, per channel, for pixels in [0, 1]. The mean may be an image (3, S, S).
        layer: name of the node the network was cut at.
        side: rows and columns that further maps (``finer_1`` … of the body) have at most; finer ones are averaged to the next
            multiple of the first map's below.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, mean: tuple[float, ...] | Tensor, std: tuple[float, ...], layer: str, side: int | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.layer, self.side = layer, side
        image = mean[None] if isinstance(mean, Tensor) else torch.tensor(mean).view(1, 3, 1, 1)
        self.register_buffer("mean", 255 * image)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def map(self, frames: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 -> (N, D, rows, columns)."""
        return self.maps(frames)[0]

    def maps(self, frames: Tensor) -> list[Tensor]:
        """(N, 3, S, S) uint8 -> the map (N, D, rows, columns), and further ones."""
        images = (frames.to(self.mean.dtype) - self.mean) / self.std
        found = self.body(images)  # in the order of the graph
        first = found.pop("map")
        return [first, *(self._pooled(found[name], first) for name in sorted(found))]

    def _pooled(self, finer: Tensor, first: Tensor) -> Tensor:
        """Average a map that is finer than the first one to a multiple of its sides, at most ``side``."""
        (rows, columns), (least_rows, least_columns) = finer.shape[2:], first.shape[2:]
        most = self.side or max(rows, columns)

        def kept(own: int, unit: int) -> int:
            return max(1, min(own, most) // unit) * unit if own > unit else own

        sides = kept(rows, least_rows), kept(columns, least_columns)
        return finer if sides == (rows, columns) else nn.functional.adaptive_avg_pool2d(finer, sides)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 RGB frames -> X (N, K, D), location i = row · columns + column; several maps packed."""
        first, *others = (one.flatten(2).transpose(1, 2) for one in self.maps(frames))
        return pack([first, *others]) if others else first

    def sha256(self) -> str:
        """Hash the names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def folded(backbone: Backbone) -> Backbone:
    """Copy a backbone with every batch norm folded into the convolution before it; the copy computes the same.

    It saves a pass over each map; and in bfloat16 it saves the rounding between the two, after which the norm's
    subtraction leaves mostly rounding error.
    """
    if not isinstance(backbone.body, GraphModule):  # of timm: nobody traced it
        return copy.deepcopy(backbone)
    body = copy.deepcopy(backbone.body).eval()
    modules, graph = dict(body.named_modules()), body.graph
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(before, Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            body.set_submodule(str(before.target), fuse_conv_bn_eval(convolution.eval(), norm.eval()))
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    for part in body.modules():  # torchvision.ops' blocks are single nodes of the graph
        if isinstance(part, nn.Sequential):
            for number in range(len(part) - 1):
                convolution, norm = part[number], part[number + 1]
                if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                    part[number], part[number + 1] = fuse_conv_bn_eval(convolution.eval(), norm.eval()), nn.Identity()
    made = Backbone(GraphModule(body, graph), (0.0,) * 3, (1.0,) * 3, backbone.layer, backbone.side)
    made.mean, made.std = backbone.mean.clone(), backbone.std.clone()
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_backbone(
    name: str,
    weights: str,
    layer: str | None = None,
    size: int = 224,
    seed: int = 0,
    authors_resize: bool = True,
    mean: Path | None = None,
    finer: Sequence[str] = (),
    side: int | None = None,
) -> Backbone:
    """Build a frozen backbone.

    Args:
        name: a torchvision classification network, or ``bvlc_googlenet``.
        weights: ``imagenet`` (torchvision's best, downloaded and checked by its hash), ``random`` (seeded; calibrate it
            with ``calibrate``), or a file with the network's tensors up to the layer, in any float precision: of torch.save,
            a checkpoint, .safetensors; of ``bvlc_googlenet`` a ``.caffemodel`` or ``.onnx`` too.
        layer: graph node to cut at, as ``torchvision.models.feature_extraction.get_graph_node_names`` lists them;
            None for the last convolutional map.
        size: side of the images that the network sees, pixels.
        seed: of random weights.
        authors_resize: whether ``bvlc_googlenet`` takes frames of 256 pixels, as the authors' script did, and brings them
            to ``size`` itself; others take frames of ``size``.
        mean: of ``bvlc_googlenet``, an image (3, 256, 256) in BGR, as ``.npy``; None for its means per channel.
        finer: further nodes whose maps are given too.
        side: rows and columns that these have at most, see ``Backbone``.

    Raises:
        BackboneError: no such network, layer or file, a file for another network, a failed download, or a network
            without a convolutional map.
    """
    if name == NAME:
        return _paper_backbone(weights, (layer or MAP, *finer), size, seed, authors_resize, mean, side)
    if name not in classification_networks():
        known = ", ".join([*classification_networks(), NAME])
        raise BackboneError(
            f"backbone.name={name}: torchvision has no such classification network; it has {known}. Timm's are timm:<name>"
        )
    transforms, extra = _official_input(name)
    network = _network(name, weights, seed, extra)
    network.eval()
    node = layer or last_map(network, size)
    body = _cut(network, (node, *finer), name)
    if weights not in ("imagenet", "random"):
        _load_file(body, Path(weights), name, network)
    backbone = Backbone(body, tuple(transforms["mean"]), tuple(transforms["std"]), node, side)
    return backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_classifier(name: str, weights: str, layer: str | None = None, size: int = 224, seed: int = 0) -> nn.Module:
    """Build the part of a network behind the map that its backbone gives: (N, D, rows, columns) -> (N, classes).

    Args:
        name, weights, layer, size, seed: as of ``build_backbone``.

    Raises:
        BackboneError: as there; or the file holds no classifier, or other layers go round the map.
    """
    if name == NAME:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, node = BvlcGoogLeNet().eval(), layer or MAP
    else:
        network = _network(name, weights, seed, _official_input(name)[1]).eval()
        node = layer or last_map(network, size)
    rest = _behind(network, node, name)
    if weights not in ("imagenet", "random"):
        _load_file(rest, Path(weights), name, network)
    return rest.requires_grad_(False)


def _behind(network: nn.Module, node: str, name: str) -> nn.Module:
    tracer = NodePathTracer()
    graph = tracer.trace(network)
    below = [one for one, path in tracer.node_to_qualname.items() if f"{path}.".startswith(f"{node}.")]
    if not below:
        raise BackboneError(f"backbone.layer={node}: {name} has no such node")
    cut = below[-1]
    rest = GraphModule(network, graph)
    (image,) = [one for one in graph.nodes if one.op == "placeholder"]
    with graph.inserting_before(image):
        given = graph.placeholder("map")
    cut.replace_all_uses_with(given)
    graph.eliminate_dead_code()
    if image.users:
        raise BackboneError(f"backbone.layer={node}: {name} has no classifier behind it that sees nothing else")
    graph.erase_node(image)
    rest.delete_all_unused_submodules()
    rest.recompile()
    return rest.eval()


def _paper_backbone(
    weights: str, layers: Sequence[str], size: int, seed: int, authors_resize: bool, mean_file: Path | None, side: int | None
) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BvlcGoogLeNet(size if authors_resize else None)
    if weights == "imagenet":
        raise BackboneError(f"backbone.weights=imagenet: torchvision does not have {NAME}; give a file of its weights")
    body = _cut(network.eval(), layers, NAME)
    if weights != "random":
        _load_file(body, Path(weights), NAME, network)
    mean = torch.tensor(CHANNEL_MEANS)[:, None, None] if mean_file is None else _mean_image(mean_file)
    if not authors_resize and mean_file is not None:
        mean = nn.functional.interpolate(mean[None], (size, size), mode="bilinear", align_corners=False)[0]
    # Frames are RGB, the mean is BGR; 255 as the backbone has it for pixels in [0, 1].
    backbone = Backbone(body, mean.flip(0) / 255, (1 / 255,) * 3, layers[0], side)
    return backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _mean_image(path: Path) -> Tensor:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BackboneError(f"backbone.mean={path}: not a readable .npy file ({error})") from error
    shape = (3, AUTHORS_SIDE, AUTHORS_SIDE)
    if getattr(found, "shape", None) != shape or found.dtype.kind != "f" or not 1 < float(np.mean(found)) < 255:
        raise BackboneError(f"backbone.mean={path}: not a mean image {shape} of BGR pixels from 0 to 255")
    return torch.from_numpy(found.astype(np.float32))


def _cut(network: nn.Module, nodes: Sequence[str], name: str) -> nn.Module:
    """Cut a network at the first node, which gives ``map``; further ones give ``finer_1`` …."""
    known = {node: f"finer_{number}" if number else "map" for number, node in enumerate(nodes)}
    if len(known) < len(nodes):
        raise BackboneError(f"{name}: {', '.join(nodes)} names a layer twice")
    try:
        return create_feature_extractor(network, known)
    except ValueError as error:
        what = f"backbone.layer={nodes[0]}" if len(nodes) == 1 else f"a layer of {', '.join(nodes)}"
        raise BackboneError(f"{what}: {name} has no such node ({error})") from error


def classification_networks() -> list[str]:
    """List the names of torchvision's image classification networks."""
    return list_models(module=__import__("torchvision").models)


def _official_input(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Look up the normalisation and constructor arguments that go with a network's official weights."""
    official = get_model_weights(name)["DEFAULT"]  # type: ignore[index]
    preset = official.transforms()
    extra = dict(WITHOUT_AUXILIARY.get(name, {}))
    if name in WITHOUT_AUXILIARY:
        extra["transform_input"] = True  # their official weights expect torchvision's input rescaling
    return {"mean": getattr(preset, "mean", IMAGENET_MEAN), "std": getattr(preset, "std", IMAGENET_STD)}, extra


def _network(name: str, weights: str, seed: int, extra: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchvision's notes on initialisation and auxiliary heads
        if weights == "imagenet":
            return _imagenet_network(name)
        torch.manual_seed(seed)
        if weights == "random":
            if name in WITHOUT_AUXILIARY:
                extra = {**extra, "init_weights": True, "transform_input": False}
            return get_model(name, weights=None, **extra)
        if name in WITHOUT_AUXILIARY:
            extra = {**extra, "init_weights": False}
        return get_model(name, weights=None, **extra)


def _imagenet_network(name: str) -> nn.Module:
    official = get_model_weights(name)["DEFAULT"]  # type: ignore[index]
    try:
        return get_model(name, weights=official)
    except Exception as error:  # a failed download, a wrong hash, or a broken file that lay there
        hub = Path(torch.hub.get_dir()) / "checkpoints"
        raise BackboneError(
            f"backbone.weights=imagenet: {official.url} could not be fetched or read ({error!r}). Put the file into {hub}, "
            f"or give its path as backbone.weights=<file>, or run without ImageNet: backbone.weights=random"
        ) from error


def _load_file(body: nn.Module, path: Path, name: str, network: nn.Module) -> None:
    """Give the body of a network the weights of a file; what it has of the classifier is never used."""
    try:
        state = READERS.get(path.suffix, read_weights)(path)
        state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    except ImportError as error:
        raise BackboneError(
            f"backbone.weights={path}: the library that reads it is not here ({error}): pip install -e '.[weights]'"
        ) from error
    except FileNotFoundError as error:
        raise BackboneError(
            f"backbone.weights={path}: neither 'imagenet' nor 'random' nor an existing file (looked at {path.resolve()})"
        ) from error
    except WeightsError as error:
        raise BackboneError(f"backbone.weights={path}: {error}") from error
    except Exception as error:  # a reader of a foreign format raises whatever it meets
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BackboneError(f"backbone.weights={path}: not a file of weights ({reason})") from error
    try:
        fit_weights(body, state, network.state_dict().keys())
    except WeightsError as error:
        raise BackboneError(f"backbone.weights={path}: does not fit {name}: {error}; is backbone.name right?") from error


def last_map(network: nn.Module, size: int) -> str:
    """Find the graph node that gives the last convolutional map: the input of the first pooling after it.

    Walks the network's graph to the last convolution (or, in networks that end otherwise, map) before the classifier
    and on to the last node that keeps more than one location, pooling excluded.

    Raises:
        BackboneError: the network has no map of several locations.
    """
    probe = create_feature_extractor(network, get_graph_node_names(network)[1][1:])
    with torch.no_grad():
        outputs = probe(torch.zeros(1, 3, size, size))
    found, depth = None, 0
    for position, (name, output) in enumerate(outputs.items()):
        if name.split(".")[0] in CLASSIFIERS:
            break
        is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1
        if is_map and "pool" not in name.lower() and not _is_pooling(network, name):
            found, depth = name, position
    if found is None or depth < len(outputs) / 2:  # a vision transformer has only its patch embedding
        raise BackboneError("the network ends without a map of locations; choose another backbone.name or .layer")
    return found


def _is_pooling(network: nn.Module, name: str) -> bool:
    try:
        return "Pool" in type(network.get_submodule(name)).__name__
    except AttributeError:
        return False


def calibrate(backbone: Backbone, frames: Tensor, batch: int = 64) -> None:
    """Set every batch norm's running statistics to those of some frames, so that untrained features carry signal.

    Without it a random network's activations shrink or grow from layer to layer. Batch norms are calibrated with the
    statistics that the frames have behind the already normalised layers before them, averaged over frames.

    Args:
        backbone: with random weights.
        frames: (N, 3, S, S) uint8.
        batch: frames at a time.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    done = 0
    with torch.no_grad():
        for part in frames.split(batch):
            done += len(part)
            for norm in norms:
                norm.momentum = len(part) / done  # running mean over frames
            backbone.map(part)
    backbone.eval()
