"""Replayed training steps are eager ones to the bit: on the CPU, where recorded operations stand for a CUDA graph."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import GPU, Launches, backward, fake_cuda
from lightning.pytorch import Callback, Trainer
from recorded_graph import RecordedGraph, plain_products
from torch.utils.data import DataLoader

from datamodules.batches import Batch
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM, SoftmaxRegression
from lightning_modules.fused_cell import fuses
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer
from lightning_modules.selective import TopKAttentionLSTM
from lightning_modules.step_graph import EAGER, CudaGraph, StepGraph

B, T, K, D, H, C, STEPS = 4, 3, 6, 8, 8, 3, 5

NETWORKS = {
    "location": lambda: SoftAttentionLSTM(K, D, C, H, 3),
    "content": lambda: SoftAttentionLSTM(K, D, C, H, 1, "content", 2, input_dropout=False),
    "top_k": lambda: TopKAttentionLSTM(K, D, C, H, 2, top_k=2),
    "avg": lambda: PooledLSTM(D, C, "mean", H),
    "max": lambda: PooledLSTM(D, C, "max", H),
    "softmax": lambda: SoftmaxRegression(K, D, C),
}


def drawn(number: int, pool: torch.Tensor | None = None, blocks: int = B, batch_size: int = B) -> Batch:
    """A batch of its own cubes, or of rows of a pool."""
    random = torch.Generator().manual_seed(number)
    cubes = torch.rand(blocks, T, K, D, generator=random).half()
    rows = None
    if pool is not None:
        rows = torch.randint(len(pool), (blocks, T), generator=random)
        cubes = pool[rows]
    weight = torch.ones(blocks)
    weight[batch_size:] = 0
    single = cubes.float()
    return Batch(
        cube=cubes if pool is None else pool,
        rows=rows,
        mean=single.mean(dim=2),
        max=single.amax(dim=2),
        target=torch.randint(C, (blocks,), generator=random),
        weight=weight,
        batch_size=batch_size,
        blocks=np.arange(blocks),
    )


def epoch(pooled: bool = True) -> list[Batch]:
    """Batches of which the last counts fewer blocks."""
    pool = torch.rand(20, K, D, generator=torch.Generator().manual_seed(9)).half() if pooled else None
    return [drawn(number, pool) for number in range(STEPS - 1)] + [drawn(STEPS, pool, batch_size=B - 1)]


class Lend(Callback):
    """Lends a graph as a run on a GPU does, and keeps each step's loss and each parameter behind it."""

    def __init__(self, make=None) -> None:
        self.make, self.graphs, self.said, self.seen = make, [], [], []

    def on_train_start(self, trainer, module) -> None:
        def made(device):
            self.graphs.append(self.make(device))
            return self.graphs[-1]

        if self.make is not None:
            parameters = module.network.parameters()
            module.graph = StepGraph(module.batch_cost, parameters, module.device, made, self.said.append)

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        weights = [parameter.detach().clone() for parameter in module.parameters()]
        self.seen.append([outputs["loss"].clone(), *weights])


def trained(name: str, make=None, precision: str = "32-true", batches=None, epochs: int = 2, optimizer: str = "adam"):
    """Losses and weights of all steps, figures of the last epoch, and what became of the graph."""
    torch.manual_seed(3)
    recognizer, lend = Recognizer(NETWORKS[name](), C, False, Objective(1.0), optimizer, lr=1e-2, seed=5), Lend(make)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        precision=precision,
        callbacks=[lend],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    with plain_products():
        trainer.fit(recognizer, DataLoader(batches or epoch(), batch_size=None))
    return lend, {key: float(value) for key, value in trainer.callback_metrics.items()}


def equal(found: Lend, expected: Lend) -> bool:
    pairs = zip(sum(found.seen, []), sum(expected.seen, []), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_with_replayed_steps_is_the_eager_run(name, precision):
    """Losses, weights and figures of two epochs, whose last batches are eager, since their global size is another."""
    (eager, figures), (lent, same) = (trained(name, make, precision) for make in (None, RecordedGraph))
    assert lent.said == [] and equal(lent, eager) and figures == same
    (graph,) = lent.graphs
    assert graph.replays == 2 + (STEPS - 2) + (STEPS - 1), (
        "two by which it is checked; all but the first batch and the last ones"
    )
    losses = [float(step[0]) for step in lent.seen]
    assert len(set(losses)) == len(losses), "no step repeats another"


@pytest.mark.parametrize("optimizer", ["released_adam", "sgd"])
def test_every_optimiser_takes_the_graphs_gradients(optimizer):
    (eager, _), (lent, _) = (trained("location", make, optimizer=optimizer) for make in (None, RecordedGraph))
    assert equal(lent, eager) and lent.graphs[0].replays > STEPS


def test_batches_that_bring_their_own_cubes_are_copied_to_the_graphs():
    (eager, _), (lent, _) = (trained("content", make, batches=epoch(pooled=False)) for make in (None, RecordedGraph))
    assert equal(lent, eager) and lent.graphs[0].replays > STEPS


def test_other_shapes_and_other_pools_are_left_to_eager_steps():
    """A graph reads a pool where it lay when it was captured; a batch of another one must not be replayed."""
    pools = [torch.rand(20, K, D, generator=torch.Generator().manual_seed(n)).half() for n in (1, 2)]
    mixed = [drawn(0, pools[0]), drawn(1, pools[0]), drawn(2, pools[1]), drawn(3, pools[0]), drawn(4, pools[0], blocks=3)]
    mixed += [drawn(5, pools[0]), drawn(6)]
    (eager, _), (lent, _) = (trained("location", make, batches=mixed, epochs=1) for make in (None, RecordedGraph))
    assert equal(lent, eager) and lent.graphs[0].replays == 2 + 3


class Refused(RecordedGraph):
    """A graph whose capture fails, as where an operation waits."""

    def capture(self, work):
        def waits():
            cost = work()
            float(cost.loss)
            return cost

        return super().capture(waits)


class Unregistered(RecordedGraph):
    """A graph to which no generator was registered: its masks are always those of the capture."""

    def replay(self):
        torch.manual_seed(SEED)
        super().replay()


class Torn(RecordedGraph):
    """A graph that lacks the second half of its kernels."""

    def replay(self):
        del self.calls[len(self.calls) // 2 :]
        super().replay()


SEED = 2


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Refused, "operation not permitted when stream is capturing: _local_scalar_dense"),
        (Unregistered, "replayed, it does not give the gradients of an eager step"),
        (Torn, "replayed, it does not give the gradients of an eager step"),
    ],
)
def test_a_graph_that_fails_or_computes_something_else_is_left_with_one_line(make, why):
    """The run goes on as if it had not been tried."""
    (eager, figures), (lent, same) = (trained("location", tried) for tried in (None, make))
    assert lent.said == [f"{EAGER}: {why}"] and len(lent.graphs) == 1
    assert equal(lent, eager) and figures == same


def test_buffers_and_gradients_stay_where_they_are():
    """What the graph reads and writes has one address from its capture on; only values change."""
    recognizer = Recognizer(NETWORKS["location"](), C, False, Objective(1.0))
    recognizer._trainer = SimpleNamespace(global_step=0, world_size=1, global_rank=0)
    parameters = [parameter for parameter in recognizer.network.parameters() if parameter.requires_grad]
    step, batches = StepGraph(recognizer.batch_cost, parameters, recognizer.device, RecordedGraph), epoch()
    places = set()
    with plain_products():
        assert step(batches[0], 1) is None, "the first batch of its kind warms up"
        for seed, batch in enumerate(batches[1:-1]):
            cost = step(batch, seed)
            places.add((*(one.grad.data_ptr() for one in parameters), *(part.data_ptr() for part in cost)))
            for parameter in parameters:
                parameter.grad = None  # as an eager step in between leaves it
            assert step._batch.rows.data_ptr() != batch.rows.data_ptr() and torch.equal(step._batch.rows, batch.rows)
            assert step._batch.cube is batch.cube, "a pool is not copied"
    assert len(places) == 1


def test_weights_are_cast_at_each_replay_where_autocast_keeps_casts():
    """Lightning's autocast keeps none; torch's own would hand the captured step a cast from before it."""
    recognizer, batches = Recognizer(NETWORKS["location"](), C, False, Objective(1.0)), epoch()
    recognizer._trainer = SimpleNamespace(global_step=0, world_size=1, global_rank=0)
    step = StepGraph(recognizer.batch_cost, recognizer.network.parameters(), recognizer.device, RecordedGraph)
    with plain_products():
        with torch.autocast("cpu", torch.bfloat16):
            step(batches[0], 0), step(batches[1], 1)
            for weight in recognizer.network.parameters():
                weight.data *= 3
            replayed = step(batches[2], 2)
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            expected = recognizer.batch_cost(batches[2])
    assert replayed is not None and torch.equal(replayed.loss, expected.loss)


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_captured_asks_a_gpu_for_the_same_at_each_step(name, precision, monkeypatch):
    """The same kernels, on tensors of the same shapes, with no transfer and no wait; filling the buffers has none either."""
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    steps = []
    with fake_cuda():
        recognizer = Recognizer(NETWORKS[name](), C, False, Objective(1.0)).train()
        recognizer._trainer = SimpleNamespace(global_step=0, world_size=1, global_rank=0)
        parts = {"mean": torch.empty(B, T, D), "max": torch.empty(B, T, D), "target": torch.empty(B, dtype=torch.int64)}
        pool, rows = torch.empty(20, K, D, dtype=torch.half), torch.empty(B, T, dtype=torch.int64)
        batch = Batch(cube=pool, rows=rows, weight=torch.empty(B), batch_size=B, blocks=np.arange(B), **parts)
        step = StepGraph(recognizer.batch_cost, recognizer.network.parameters(), GPU)
        step._batch = batch._replace(blocks=None, **{key: value.clone() for key, value in parts.items()})
        mixed = torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None)
        fuses("cuda")
        for _ in range(2):
            with mixed, Launches() as seen:
                step._fill(batch)
                step._step()
            assert seen.transfers == 0 and all(grad is not None for grad in step._left())
            steps.append(seen)
    assert steps[0].made == steps[1].made and steps[0].count == steps[1].count > 0


class Cuda:
    """As much of ``torch.cuda`` as a graph asks for; it writes down what it is asked."""

    def __init__(self, monkeypatch) -> None:
        self.asked, self.generator = [], SimpleNamespace(graphsafe_set_state=lambda state: self.asked.append(("reset", state)))
        stream = SimpleNamespace(wait_stream=lambda other: self.asked.append("wait"))
        graph = SimpleNamespace(
            register_generator_state=lambda generator: self.asked.append(("register", generator)),
            replay=lambda: self.asked.append("replay"),
        )
        stands = {"CUDAGraph": lambda: graph, "Stream": lambda _: stream, "current_stream": lambda _: stream}
        stands |= {"stream": lambda _: self.within("stream"), "graph": lambda *_, **options: self.within(options)}
        stands["default_generators"] = (self.generator,)
        for name, value in stands.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "Generator", lambda device: f"a new one on {device}")

    @contextmanager
    def within(self, what):
        self.asked.append(what)
        yield


def test_the_devices_generator_belongs_to_the_graph_and_survives_a_broken_capture(monkeypatch):
    """A generator that was left in a capture would refuse every later dropout mask."""
    cuda = Cuda(monkeypatch)
    graph = CudaGraph(GPU)
    assert cuda.asked == [("register", cuda.generator)]
    assert graph.warm_up(lambda: 3) == 3 and cuda.asked[1:] == ["wait", "stream", "wait"]
    assert graph.capture(lambda: 5) == 5 and graph.replay() is None
    assert cuda.asked[4]["capture_error_mode"] == "thread_local" and cuda.asked[5:] == ["replay"]

    def fails():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        graph.capture(fails)
    assert cuda.asked[-1] == ("reset", "a new one on cuda:0")
