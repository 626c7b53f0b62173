"""CUDA tensors without a GPU: torch's fake tensors, every operation looked at on its way, and a backward pass over them.

A fake tensor has a shape, a precision and a device, and no values. What needs values, and so would make a GPU wait, raises
by itself (``DataDependentOutputException``, ``DynamicOutputShapeException``); `Launches` looks for the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
VIEWS = {
    "device",
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "expand",
    "as_strided",
    "detach",
    "split",
    "split_with_sizes",
    "chunk",
    "permute",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "unbind",
    "alias",
    "lift_fresh",
    "is_pinned",
}
"""Operations that launch no kernel."""
NOT_REPEATABLE = {"index_add", "index_add_", "scatter_add", "scatter_add_", "put_", "histc", "bincount", "kthvalue", "median"}
"""Operations without a deterministic form on CUDA, besides the cumsum of fractions and the index_put that accumulates.

Source: torch.use_deterministic_algorithms."""
PRODUCTS = {"mm", "addmm", "mv", "bmm", "convolution"}


class Launches(TorchDispatchMode):
    """Counts operations that launch kernels, and refuses what a GPU should not be asked for.

    Attributes:
        count: operations that launch at least one kernel.
        transfers: copies from the host to the device.
        blocking: those of them that the host waits for.
        made: each operation's name, with the shapes that it made on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.transfers, self.blocking = 0, 0, 0
        self.made: list[tuple[str, list[torch.Size]]] = []

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        name, kwargs = function._schema.name.split("::")[-1], kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if name in ("_to_copy", "copy_"):
            self._see_copy(name, given, args, kwargs)
        elif len(places := {one.device.type for one in given if one.ndim}) > 1:
            raise AssertionError(f"{name} takes tensors of {places}: a hidden copy")
        sums = name in ("cumsum", "index_put", "index_put_") and given[0].is_floating_point()
        if given and given[0].device.type == "cuda" and (name in NOT_REPEATABLE or sums):
            raise AssertionError(f"{name} does not repeat bit for bit on a GPU")
        if name in PRODUCTS and len(kinds := {one.dtype for one in given}) != 1:  # fake products do not look
            raise AssertionError(f"{name} takes {kinds}")
        made = function(*args, **kwargs)
        on_gpu = [one for one in tree_leaves(made) if isinstance(one, Tensor) and one.device.type == "cuda"]
        if any(one.dtype == torch.float64 for one in on_gpu):
            raise AssertionError(f"{name} makes float64 on the device")
        self.count += name not in VIEWS and bool(on_gpu)
        self.made.append((name, [one.shape for one in on_gpu]))
        return made

    def _see_copy(self, name: str, given: list[Tensor], args, kwargs) -> None:
        source = given[-1]
        to = given[0].device if name == "copy_" else torch.device(kwargs.get("device") or source.device)
        if source.device.type == "cuda" and to.type == "cpu":
            raise AssertionError("a copy to the host: the host waits for the device")
        if source.device.type == "cpu" and to.type == "cuda":
            without_wait = bool(args[2:] and args[2]) if name == "copy_" else bool(kwargs.get("non_blocking"))
            self.transfers += 1
            self.blocking += not without_wait


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Within, new tensors are fake ones on `GPU`, autocast believes in it, and an LSTM runs without cuDNN."""
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        torch.backends.cudnn.flags(enabled=False),
        FakeTensorMode() as mode,
        GPU,
    ):
        yield mode


def backward(loss: Tensor) -> None:
    """``loss.backward()``, whose own engine would ask the CUDA driver; this one only follows the graph.

    Raises:
        AssertionError: a gradient lies on another device.
    """
    custom = torch.autograd.function.BackwardCFunction
    uses, seen, stack = Counter(), {loss.grad_fn}, [loss.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            uses[node] += 1
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    ready, grads = [loss.grad_fn], defaultdict(dict, {loss.grad_fn: {0: torch.ones_like(loss)}})
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = [grads[node].get(number) for number in range(len(node._input_metadata))]
            made = node.apply(*given) if isinstance(node, custom) else node(*given)
            made = made if isinstance(made, tuple) else (made,)
            wanted = node.needs_input_grad if isinstance(node, custom) else [to is not None for to, _ in node.next_functions]
            targets = [edge for edge in node.next_functions if edge[0] is not None]
            for (to, number), grad in zip(targets, [one for one, w in zip(made, wanted, strict=False) if w], strict=True):
                if grad is not None:
                    meta = to._input_metadata[number]
                    grad = grad.sum_to_size(tuple(meta.shape)).to(meta.dtype)
                    assert grad.device == GPU, (node, grad.device)
                    grads[to][number] = grads[to][number] + grad if number in grads[to] else grad
                uses[to] -= 1
                if not uses[to]:
                    ready.append(to)
