"""Files of weights as people have them: read without running their code, and fitted to a network by their tensors' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HEAD = 1024  # bytes that tell kinds of files apart
NESTED = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Keys under which checkpoints keep a network's tensors, the likeliest first."""
SAVE = "where you trust it, load it in the code that it comes from and torch.save(model.state_dict(), <file>)"


class WeightsError(ValueError):
    """A file holds no weights, or not those of a network; the message says what it holds instead."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a file of torch.save, as it is or nested in a checkpoint, or from a .safetensors file.

    Raises:
        WeightsError: it holds something else, or code.
        ImportError: the library that reads it is not there.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError("not a file of weights but a Git LFS pointer to one: git lfs pull fetches it")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise WeightsError("not a file of weights but a web page: the download gave an error or asked a question")
    if not head:
        raise WeightsError("not a file of weights: it is empty")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise WeightsError(_in_words(error)) from error
    return _tensors(found)


def _in_words(error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if "TorchScript" in str(error):
        return f"not a file of weights but a TorchScript program: {SAVE}"
    if "Unsupported global" in str(error) or "Unsupported class" in str(error):
        named = str(error).partition("GLOBAL ")[2].split(" ")[0]
        return f"not a file of weights alone: it needs code{f' ({named})' if named else ''}, and none is run here; {SAVE}"
    return f"not a file of weights that torch can load ({reason})"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors.

    Raises:
        ImportError: there is no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return _tensors(load(path.read_bytes()))
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"not a file of weights: a damaged .safetensors file ({error})") from error


def _tensors(found: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, which may be nested in a checkpoint."""
    candidates = {"": found}
    if isinstance(found, Mapping):
        candidates |= {key: found[key] for key in (*NESTED, *found) if isinstance(found.get(key), Mapping)}
    for state in candidates.values():
        named = isinstance(state, Mapping) and state and all(isinstance(key, str) for key in state)
        if named and all(isinstance(value, Tensor) for value in state.values()):
            return dict(state)
    keys = f"; its keys are {', '.join(map(repr, list(found)[:8]))}" if isinstance(found, Mapping) and found else ""
    raise WeightsError(f"holds no state dict (names -> tensors), nor one under {', '.join(NESTED)}{keys}")


def fit_weights(body: nn.Module, state: Mapping[str, Tensor], known: Collection[str]) -> None:
    """Give a network's body its tensors out of a file that may hold more, such as a classifier, and names with a prefix.

    Args:
        body: is changed.
        state: the file's tensors, of any float precision.
        known: names of all tensors of the whole network, whatever their shapes in the file.

    Raises:
        WeightsError: a tensor of the body is missing or of another shape, or the file's network has more layers.
    """
    own = body.state_dict()
    prefixes = Counter(name.removesuffix(key) for key in own for name in state if name == key or name.endswith(f".{key}"))
    if not prefixes:
        first = next(iter(state), None)
        found = f"its first one is {first!r} {tuple(state[first].shape)}" if first else "it holds none"
        raise WeightsError(f"it has no tensor such as {next(iter(own))!r}; {found}")
    prefix, *others = sorted((name for name, number in prefixes.items() if number == max(prefixes.values())), key=len)
    for other in others:
        if not other.startswith(prefix):  # else it is one of the network's own parts
            raise WeightsError(f"it holds two such networks, under {prefix!r} and {other!r}")
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    for key, value in own.items():
        # A file with batch norm folded into the convolutions has no counter of batches: it carries no information.
        if key not in state and not key.endswith("num_batches_tracked"):
            raise WeightsError(f"{prefix + key!r} {tuple(value.shape)} is missing")
        if key in state and state[key].shape != value.shape:
            raise WeightsError(f"{prefix + key!r} has the shape {tuple(state[key].shape)} instead of {tuple(value.shape)}")
    parts = {key.split(".")[0] for key in own}
    for key in state:  # a deeper network's file has all of a shallower one's names
        if key not in known and key.split(".")[0] in parts:
            raise WeightsError(f"{prefix + key!r} {tuple(state[key].shape)} is no tensor of it")
    body.load_state_dict({key: state[key].to(own[key].dtype) for key in own if key in state}, strict=False)
