"""Any image network of timm that ends in a map or in patch tokens, as a backbone: frames -> X (N, K, D).

Class and register tokens are dropped, and the patches' grid is kept: a ViT of patches of p pixels has K = (S / p)². Inputs are
normalised as the network's own weights expect them. Needs the extra ``timm``.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.backbone import Backbone, BackboneError
from lightning_modules.weight_files import WeightsError, fit_weights, read_weights

LAYER = "forward_features"
"""Where a network is cut: behind its last block and norm, before it pools."""


class LastMap(nn.Module):
    """A network without its head: images (N, 3, S, S) -> ``map`` (N, D, rows, columns).

    Args:
        network: of timm.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Tokens become a square grid, row by row, without those that stand for no patch."""
        found = self.network.forward_features(images)  # type: ignore[operator]
        if found.ndim == 3:  # (N, L, D)
            found = found[:, getattr(self.network, "num_prefix_tokens", 0) :]
            side = math.isqrt(found.shape[1])
            found = found.transpose(1, 2).unflatten(2, (side, side))
        elif getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            found = found.permute(0, 3, 1, 2)
        return {"map": found}


def own_size(name: str) -> int:
    """Side in pixels of the images that a network's own weights expect.

    Raises:
        BackboneError: there is no timm, or no such network.
    """
    _require(name)
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else 224


def pretrained_on(name: str) -> str:
    """What timm says of a network's own weights, such as ``openai``; empty for nothing."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return str(config.tag or "") if config is not None else ""


def build_timm(name: str, weights: str, size: int, seed: int = 0) -> Backbone:
    """Build a frozen backbone of a network of timm.

    Args:
        name: timm's name of it, with or without the tag of its weights.
        weights: ``imagenet`` (timm's own under that name, downloaded), ``random`` (seeded), or a file of the network's tensors.
        size: side of the images, pixels. Position embeddings are resampled to it where it is not the network's own.
        seed: of random weights.

    Raises:
        BackboneError: there is no timm, no such network or file, a failed download, a size that the network does not take, or
            a network without a map.
    """
    _require(name)
    import timm
    from timm.data.config import resolve_model_data_config

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = timm.create_model(name, pretrained=weights == "imagenet")
        except Exception as error:  # of the download, or of a file that lay there: whatever the hub's client raises
            if weights != "imagenet":
                raise
            raise BackboneError(
                f"backbone.weights=imagenet: timm's weights of {name} could not be fetched or read ({error!r}). Give a file of "
                "them as backbone.weights=<file>, or run without: backbone.weights=random"
            ) from error
    network.eval()
    if weights not in ("imagenet", "random"):
        _load(network, Path(weights), name)
    config: dict[str, Any] = resolve_model_data_config(network)
    body = LastMap(network)
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch is not None and size % patch[0]:
        raise BackboneError(f"backbone.size={size}: timm:{name} has patches of {patch[0]} pixels; take a multiple of that")
    try:
        if size != config["input_size"][-1] and hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(size, size))  # type: ignore[operator]
        with torch.no_grad():
            shape = body(torch.zeros(1, 3, size, size))["map"].shape
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"backbone.name=timm:{name}, backbone.size={size}: it gives no map of such images ({reason}); its own size is "
            f"{config['input_size'][-1]}"
        ) from error
    if len(shape) != 4 or shape[2] * shape[3] < 2:
        raise BackboneError(f"backbone.name=timm:{name}: the network ends without a map of locations; choose another")
    if hasattr(network, "reset_classifier"):
        network.reset_classifier(0)  # type: ignore[operator] - its head is not used, and need not be kept beside the features
    backbone = Backbone(body, tuple(config["mean"]), tuple(config["std"]), LAYER)
    return backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _require(name: str) -> None:
    try:
        import timm
    except ImportError as error:
        raise BackboneError(f"backbone.name=timm:{name}: timm is not installed ({error}): pip install -e '.[timm]'") from error
    if timm.is_model(name) and (name.partition(".")[2] == "" or name in timm.list_models(pretrained=True)):
        return
    close = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_models(pretrained=True)], n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
    raise BackboneError(f"backbone.name=timm:{name}: timm {timm.__version__} has no such network; {hint}")


def _load(network: nn.Module, path: Path, name: str) -> None:
    """Give a network, but for its head, the weights of a file."""
    head = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    heads = (head,) if isinstance(head, str) else tuple(head)
    try:
        state = read_weights(path)
        state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{one}." for one in heads))}
        if hasattr(network, "reset_classifier"):
            network.reset_classifier(0)  # type: ignore[operator]
        fit_weights(network, state, network.state_dict().keys())
    except FileNotFoundError as error:
        raise BackboneError(
            f"backbone.weights={path}: neither 'imagenet' nor 'random' nor an existing file (looked at {path.resolve()})"
        ) from error
    except ImportError as error:
        raise BackboneError(
            f"backbone.weights={path}: the library that reads it is not here ({error}): pip install -e '.[weights]'"
        ) from error
    except (WeightsError, OSError) as error:
        raise BackboneError(f"backbone.weights={path}: does not fit timm:{name}: {error}; is backbone.name right?") from error
