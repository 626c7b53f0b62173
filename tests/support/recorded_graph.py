"""What stands for a CUDA graph on the CPU: operations, captured with their tensors, run again on the same memory.

As with a graph, nothing of Python is repeated: numbers are those of the capture, and so are shapes and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

WAITS = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "equal"}
"""Operations whose result the host reads, or on whose values a shape depends: none can be captured."""


class RecordedGraph(TorchDispatchMode):
    """A `Graph`.

    Attributes:
        calls: operations captured, with their arguments and what they returned.
        replays: how many there were.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        name = function._schema.name.split("::")[-1]
        if name in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}\nand more lines of advice")
        before = tree_map_only(Tensor, torch.Tensor.detach, (args, kwargs or {}))  # shapes as they are now
        made = function(*args, **(kwargs or {}))
        if "empty" not in name:
            self.calls.append((function, *before, tree_map_only(Tensor, torch.Tensor.detach, made)))
        return made

    def warm_up(self, work: Callable[[], Any]) -> Any:
        """Do the work."""
        return work()

    def capture(self, work: Callable[[], Any]) -> Any:
        """Do the work, and remember its operations."""
        with self:
            return work()

    def replay(self) -> None:
        """Run the operations again; what they make goes where it went when they were captured."""
        self.replays += 1
        with torch.no_grad(), torch.autocast("cpu", enabled=False):  # operations were captured behind their casts
            for function, args, kwargs, made in self.calls:
                again = tree_leaves(function(*args, **kwargs))
                for there, value in zip(tree_leaves(made), again, strict=True):
                    if isinstance(there, Tensor) and there.data_ptr() != value.data_ptr():
                        there.copy_(value)


@contextmanager
def plain_products() -> Iterator[None]:
    """Within, weights are not packed for oneDNN: such tensors cannot be written to again."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield
