"""The image network that settings name: its files, what it is given of a frame, and what is said of both."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from datamodules.decoding import RESIZE_RULE
from datamodules.features import FeatureStoreError
from lightning_modules.backbone import Backbone, BackboneError, build_backbone, build_classifier
from lightning_modules.bvlc_googlenet import AUTHORS_SIDE
from lightning_modules.timm_networks import build_timm, own_size, pretrained_on
from reproduce.acquisition import caffe_files
from reproduce.common.catalogue import PAPER_NETWORK, SIDE, TIMM
from reproduce.common.dataset import blocks_in_words, feature_spec, fetches_mean, finer_layers, mean_image, resize_of
from reproduce.common.settings import Settings


def built(settings: Settings, pyramid: bool = False) -> Backbone:
    """The network that settings name, its files fetched where they are not there yet; random weights as initialised.

    It gives its own map, or with ``pyramid`` several.

    Raises:
        BackboneError: it cannot be built.
        DataError: BVLC's files cannot be fetched.
    """
    options, mean = settings.backbone, None
    if (name := _of_timm(settings)) is not None:
        if options.layer is not None:
            raise BackboneError(f"backbone.layer={options.layer}: networks of timm are cut behind their last block; write null")
        if pyramid:
            raise BackboneError(f"backbone.name={options.name}: several resolutions need a network of torchvision or BVLC's")
        return build_timm(name, _weights(settings), _size(settings), options.seed)
    if options.name == PAPER_NETWORK:
        mean = caffe_files.fetched(caffe_files.MEAN, _downloads()) if fetches_mean(settings) else mean_image(settings)
    return build_backbone(
        name=options.name,
        weights=_weights(settings),
        layer=options.layer,
        size=_size(settings),
        seed=options.seed,
        authors_resize=resize_of(settings) == "authors",
        mean=mean,
        finer=finer_layers(settings) if pyramid else (),
        side=settings.multiresolution.side if pyramid else None,
    )


def classifier(settings: Settings) -> nn.Module:
    """The part of the network behind the map that features are: its own classifier, of 1000 categories of ImageNet.

    Raises:
        BackboneError: it cannot be built, such as where a file of weights ends at the map.
        DataError: BVLC's files cannot be fetched.
    """
    options = settings.backbone
    if _of_timm(settings) is not None:
        raise BackboneError(f"backbone.name={options.name}: object scores need the classifier of a network of torchvision")
    return build_classifier(
        name=options.name, weights=_weights(settings), layer=options.layer, size=_size(settings), seed=options.seed
    )


def frame_side(settings: Settings) -> int:
    """Side in pixels of the square that a decoded frame is squashed to.

    Raises:
        BackboneError: it is that of a network of timm, and there is no timm, or no such network.
    """
    return AUTHORS_SIDE if resize_of(settings) == "authors" else _size(settings)


def _size(settings: Settings) -> int:
    """Side in pixels of the images that the network sees."""
    name = _of_timm(settings)
    return settings.backbone.size or (SIDE if name is None else own_size(name))


def _of_timm(settings: Settings) -> str | None:
    """Timm's name of the network; None for one that is not timm's."""
    name = settings.backbone.name
    return name.removeprefix(TIMM) if name.startswith(TIMM) else None


def _weights(settings: Settings) -> str:
    """What ``build_backbone`` takes; BVLC's file is fetched where it is not there yet."""
    options = settings.backbone
    if options.name == PAPER_NETWORK and options.weights == "imagenet":
        return str(caffe_files.fetched(caffe_files.WEIGHTS, _downloads()))
    return os.path.expanduser(options.weights)


def _downloads() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def restore_backbone(backbone: nn.Module, path: Path, advice: str) -> None:
    """Give a backbone the weights that lie beside a feature store; no code in the file is run.

    Args:
        backbone: of the architecture that was stored.
        path: ``backbone.pt``.
        advice: what to do about a damaged file.

    Raises:
        FeatureStoreError: the file is damaged, or of another network.
    """
    try:
        backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FeatureStoreError(f"{path}: not the weights of this backbone, or damaged ({reason}); {advice}") from error


def resize_rule(settings: Settings) -> str:
    """What the manifest says of how frames come to the network."""
    if settings.backbone.name != PAPER_NETWORK:
        return RESIZE_RULE
    mean = f"BGR minus {feature_spec(settings).mean}"
    if resize_of(settings) == "direct":
        return f"{RESIZE_RULE}; {mean}"
    return f"{RESIZE_RULE.replace('size x size', '256 x 256')}; {mean}; to size x size, bilinear, no crop"


def notes_on(settings: Settings, backbone: nn.Module) -> list[str]:
    """What tables say of the network: which it is, its weights, and where it is not the paper's."""
    options = settings.backbone
    notes = [f"Features: {options.name}, {_weights_in_words(settings, backbone)}"]
    if options.name == "googlenet" and options.weights != "random":
        notes.append("torchvision's GoogLeNet is a batch-norm port, not the paper's Caffe network")
    if options.name == PAPER_NETWORK:
        notes.append(f"the paper's Caffe network; {_input_in_words(settings)}")
    if (blocks := blocks_in_words(settings)) is not None:
        notes.append(f"features of {blocks}; a video with fewer gives all")
    return notes


def _weights_in_words(settings: Settings, backbone: nn.Module) -> str:
    if settings.backbone.weights == "random":
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
        return "RANDOM weights" + (", batch norm calibrated on frames of train" if norms else ", no batch norm to calibrate")
    if settings.backbone.weights == "imagenet":
        if (name := _of_timm(settings)) is not None:
            return f"timm's weights {pretrained_on(name)}".rstrip()
        return "BVLC's weights, trained on ImageNet" if settings.backbone.name == PAPER_NETWORK else "trained on ImageNet"
    return f"weights of the file {os.path.basename(settings.backbone.weights)}"


def _input_in_words(settings: Settings) -> str:
    """What the paper's network is given of a frame, for a table's note."""
    image = fetches_mean(settings) or mean_image(settings) is not None
    mean = "the mean image" if image else "its means per channel, in place of the mean image"
    size = _size(settings)
    way = f"256x256, then {size}x{size}" if resize_of(settings) == "authors" else f"straight to {size}x{size}"
    return f"frames {way}, minus {mean}"
