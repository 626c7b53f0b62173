"""A training step as one CUDA graph: forward, loss and backward, captured once, replayed with other batches and seeds.

A step of the recurrence is a thousand kernels of microseconds each, and launching one by one takes longer than they do. A
graph launches all of them at once, in the memory in which they were captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lightning_modules.layers import seed_masks
from lightning_modules.objective import Cost

Made = TypeVar("Made")
FILLED = ("cube", "rows", "mean", "max", "target", "weight")
"""Parts of a batch that a step reads; a pool of cubes, to which ``rows`` point, is read where it lies."""
SAY = partial(print, flush=True)
EAGER = "the training step is not replayed as a CUDA graph"
SEEDS = (1, 2)  # of the two steps by which a graph is compared with eager ones: masks that stay the same show


class Graph(Protocol):
    """What captures some work and repeats it; `CudaGraph`, or what stands for it in tests."""

    def warm_up(self, work: Callable[[], Made]) -> Made:
        """Do the work as it is done without a graph."""
        ...

    def capture(self, work: Callable[[], Made]) -> Made:
        """Capture the work; what it returns has values after each replay, always in the same memory."""
        ...

    def replay(self) -> None:
        """Repeat the work; it draws what the device's generator, as it is seeded then, gives."""
        ...


class CudaGraph:
    """A `torch.cuda.CUDAGraph` with the generator of a device, whose seed and offset are read at each replay.

    Args:
        device: of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.graph, self.stream = device, torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        self.generator = torch.cuda.default_generators[device.index or 0]
        self.graph.register_generator_state(self.generator)

    def warm_up(self, work: Callable[[], Made]) -> Made:
        """Do the work on the stream of the capture, where libraries then have their workspaces."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            made = work()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return made

    def capture(self, work: Callable[[], Made]) -> Made:
        """Capture the work; other threads, such as one that reads features, may use the device meanwhile."""
        try:
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                return work()
        except BaseException:
            # A generator whose capture was broken off believes in it for ever, and draws nothing outside of one.
            self.generator.graphsafe_set_state(torch.Generator(self.device))
            raise

    def replay(self) -> None:
        """Launch all kernels."""
        self.graph.replay()


class StepGraph:
    """Replays a training step, whose gradients it leaves in ``grad`` of each parameter as an eager step does.

    It is captured at the second batch of one kind in a row: of the same shapes, global size, and pool of cubes. Other batches,
    such as an epoch's last one, are left to eager steps. Before it is used, two replays must give the loss and the gradients
    of eager steps, bit for bit; else, and where capture fails, all steps stay eager.

    Args:
        cost: Eq. 7 of a batch; every tensor that it reads besides is at a fixed address.
        parameters: θ.
        device: of both.
        graph: makes what captures and replays.
        say: is told, in a line, why steps stay eager.
    """

    def __init__(
        self,
        cost: Callable[[Any], Cost],
        parameters: Iterable[Tensor],
        device: torch.device,
        graph: Callable[[torch.device], Graph] = CudaGraph,
        say: Callable[[str], None] = SAY,
    ) -> None:
        self.cost, self.device, self.make, self.say = cost, device, graph, say
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.graph: Graph | None = None
        self.failed = False
        self._last: Any = None  # kind of the batch before
        self._kind: Any = None  # of the batches that are replayed
        self._batch: Any = None  # whose tensors the graph reads
        self._gradients: list[Tensor | None] = []  # that the graph writes
        self._cost: Cost | None = None  # likewise

    def __call__(self, batch: Any, seed: int) -> Cost | None:
        """Replay the step on a batch, with the masks of a seed; None where this one is left to an eager step.

        The cost's tensors are overwritten by the next call.
        """
        kind = kind_of(batch)
        if self.graph is None and not self.failed and kind == self._last:
            self._capture(batch)
        self._last = kind
        if self.graph is None or kind != self._kind:
            return None
        self._fill(batch)
        self._replay(seed)
        return self._cost

    def _capture(self, batch: Any) -> None:
        own = {name: value.clone() for name, value in _filled(batch).items()}
        self._batch, why = batch._replace(**own, blocks=None), ""
        try:
            graph, expected = self.make(self.device), []
            for seed in SEEDS:
                seed_masks(self.device, seed)
                cost = graph.warm_up(self._step)
                expected.append([value if value is None else value.clone() for value in (cost.loss, *self._left())])
            self._cost = graph.capture(self._step)
            self.graph, self._kind, self._gradients = graph, kind_of(batch), self._left()
            for seed, values in zip(SEEDS, expected, strict=True):
                self._replay(seed)
                if not all(map(_equal, (self._cost.loss, *self._left()), values)):
                    why = "replayed, it does not give the gradients of an eager step"
        except RuntimeError as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
        if why:
            self.graph, self.failed, self._cost, self._gradients, self._batch = None, True, None, [], None
            for parameter in self.parameters:
                parameter.grad = None
            self.say(f"{EAGER}: {why}")

    def _step(self) -> Cost:
        """Forward, loss and backward, of the graph's own batch; no cast of a weight is left to the next step."""
        for parameter in self.parameters:
            parameter.grad = None
        cost = self.cost(self._batch)
        with torch.autocast(self.device.type, enabled=False):
            cost.loss.backward()
        torch.clear_autocast_cache()
        return Cost(*(value.detach() for value in cost))

    def _fill(self, batch: Any) -> None:
        for name, value in _filled(batch).items():
            getattr(self._batch, name).copy_(value, non_blocking=True)

    def _replay(self, seed: int) -> None:
        assert self.graph is not None
        seed_masks(self.device, seed)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _left(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.parameters]


def kind_of(batch: Any) -> tuple[Any, ...]:
    """What of a batch is fixed by a capture: shapes, the size of the global batch, and the place of a pool of cubes."""
    pool = None if batch.rows is None else (batch.cube.data_ptr(), batch.cube.shape)
    shapes = tuple((name, value.shape, value.dtype) for name, value in _filled(batch).items())
    return batch.batch_size, pool, shapes


def _filled(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch that the graph's own take over at each step."""
    left = "cube" if batch.rows is not None else None
    return {name: value for name in FILLED if name != left and (value := getattr(batch, name)) is not None}


def _equal(found: Tensor | None, expected: Tensor | None) -> bool:
    return found is expected if found is None or expected is None else torch.equal(found, expected)
