"""Attention measured, against loops over blocks, steps and cells written from the definitions."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.batches import DenseBatch
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.measures import NAMES, AttentionMeasures, coverage_spread, entropy, gaze, pointing_game, shift
from lightning_modules.metrics import VideoMetric
from lightning_modules.objective import Objective
from lightning_modules.recognizer import Recognizer

torch.set_num_threads(1)

ON_BOXES = {"attention_in_box", "box_area", "pointing_game", "pointing_chance"}
GRIDS = [(7, 7), (2, 3), (5, 1), (1, 4), (14, 14)]


def draw(blocks: int, steps: int, grid: tuple[int, int], seed: int = 0, sharp: float = 2.0) -> torch.Tensor:
    """Softmax of random scores, (N, T, K) in double precision."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(blocks, steps, grid[0] * grid[1], generator=generator, dtype=torch.float64)
    return (sharp * scores).softmax(dim=-1)


def uniform(blocks: int, steps: int, grid: tuple[int, int]) -> torch.Tensor:
    cells = grid[0] * grid[1]
    return torch.full((blocks, steps, cells), 1 / cells, dtype=torch.float64)


def fixed(blocks: int, steps: int, grid: tuple[int, int], cell: int) -> torch.Tensor:
    attention = torch.zeros(blocks, steps, grid[0] * grid[1], dtype=torch.float64)
    attention[..., cell] = 1
    return attention


def boxes(blocks: int, steps: int, grid: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Covered shares and centres inside of random cells; the last step of each block has no box."""
    generator = torch.Generator().manual_seed(seed)
    coverage = torch.rand(blocks, steps, grid[0] * grid[1], generator=generator, dtype=torch.float64)
    inside = (coverage > 0.6).double()
    coverage[:, -1] = inside[:, -1] = math.nan
    return coverage, inside


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_loops(attention, grid, rate, coverage=None, inside=None) -> dict[str, float]:
    """All figures, one number at a time."""
    rows, columns = grid
    cells = range(rows * columns)
    centre = [((i % columns + 0.5) / columns, (i // columns + 0.5) / rows) for i in cells]
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for n, block in enumerate(attention.tolist()):
        seen = [sum(step[i] for step in block) for i in cells]
        average = mean(seen)
        found["attention_coverage_spread"].append(math.sqrt(mean([(s - average) ** 2 for s in seen])) / average)
        found["attention_penalty"].append(mean([(1 - s) ** 2 for s in seen]))
        places = []
        for t, step in enumerate(block):
            nats = -sum(p * math.log(p) for p in step if p > 0)
            found["attention_entropy"].append(nats)
            if len(step) > 1:
                found["attention_entropy_share"].append(nats / math.log(len(step)))
            places.append([sum(p * c[axis] for p, c in zip(step, centre, strict=True)) for axis in (0, 1)])
            if t:
                found["attention_shift"].append(math.dist(*places[-2:]) * rate)
            if coverage is None or math.isnan(coverage[n, t, 0]):
                continue
            found["attention_in_box"].append(sum(p * float(coverage[n, t, i]) for i, p in enumerate(step)))
            found["box_area"].append(mean([float(coverage[n, t, i]) for i in cells]))
            best = [i for i in cells if step[i] == max(step)]
            found["pointing_game"].append(mean([float(inside[n, t, i]) for i in best]))
            found["pointing_chance"].append(mean([float(inside[n, t, i]) for i in cells]))
    return {name: mean(values) for name, values in found.items() if values}


def measured(*updates: tuple) -> dict[str, float]:
    metric = AttentionMeasures(len(updates))
    for video, update in enumerate(updates):
        metric.update(video, *update)
    return metric.compute().means()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("skip", [1, 5])
def test_every_figure_equals_the_loops(grid, steps, skip):
    attention, (coverage, inside) = draw(3, steps, grid), boxes(3, steps, grid)
    found = measured((attention, grid, 30 / skip, coverage, inside))
    expected = by_loops(attention, grid, 30 / skip, coverage, inside)
    assert found == pytest.approx(expected, rel=1e-6)  # the penalty is taken in single precision
    assert set(found) == set(NAMES) - (ON_BOXES | {"attention_shift"} if steps == 1 else set())


def test_single_precision_is_precise_enough_for_long_sets():
    attention, (coverage, inside) = draw(15, 30, (7, 7)), boxes(15, 30, (7, 7))
    found = measured((attention.float(), (7, 7), 30.0, coverage.float(), inside.float()))
    assert found == pytest.approx(by_loops(attention, (7, 7), 30.0, coverage, inside), rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_uniform_attention_is_the_reference_of_every_figure(grid):
    cells, attention, (coverage, inside) = grid[0] * grid[1], uniform(2, 30, grid), boxes(2, 30, grid)
    found = measured((attention, grid, 30.0, coverage, inside))
    assert found["attention_entropy"] == pytest.approx(math.log(cells))
    assert found["attention_entropy_share"] == pytest.approx(1)
    assert found["attention_coverage_spread"] == pytest.approx(0, abs=1e-12)
    assert found["attention_shift"] == pytest.approx(0, abs=1e-12)
    assert found["attention_in_box"] == pytest.approx(found["box_area"])
    assert found["pointing_game"] == pytest.approx(found["pointing_chance"]), "ties are shared"
    assert found["attention_penalty"] == pytest.approx((1 - 30 / cells) ** 2, rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_gaze_fixed_on_one_cell_has_no_entropy_no_shift_and_the_largest_spread(grid):
    cells = grid[0] * grid[1]
    found = measured((fixed(2, 30, grid, cells - 1), grid, 30.0))
    assert found["attention_entropy"] == found["attention_entropy_share"] == found["attention_shift"] == 0
    assert found["attention_coverage_spread"] == pytest.approx(math.sqrt(cells - 1))


def test_the_penalties_of_the_protocol():
    """Protocol §2: 0.150 at uniform attention, 18.1 at a fixed gaze, with T = 30 and K = 49."""
    assert measured((uniform(1, 30, (7, 7)), (7, 7), 30.0))["attention_penalty"] == pytest.approx(0.150, abs=5e-4)
    assert measured((fixed(1, 30, (7, 7), 3), (7, 7), 30.0))["attention_penalty"] == pytest.approx(18.1, abs=0.05)


@given(st.integers(1, 30), st.sampled_from(GRIDS), st.integers(0, 5), st.floats(0, 8))
def test_spread_and_penalty_are_one_thing_in_two_scales(steps, grid, seed, sharp):
    attention = draw(4, steps, grid, seed, sharp)
    per_cell = steps / (grid[0] * grid[1])
    penalty = (1 - attention.sum(dim=1)).square().mean(dim=-1)
    torch.testing.assert_close((per_cell * coverage_spread(attention)) ** 2 + (1 - per_cell) ** 2, penalty)


@given(st.integers(1, 4), st.sampled_from(GRIDS), st.integers(0, 5), st.floats(0, 100))
def test_entropy_lies_between_one_cell_and_all_of_them(steps, grid, seed, sharp):
    nats = entropy(draw(2, steps, grid, seed, sharp))
    assert nats.shape == (2, steps) and (nats >= 0).all() and (nats <= math.log(grid[0] * grid[1]) + 1e-9).all()


def test_the_gaze_is_across_then_down_in_fractions_of_the_frame():
    corner, opposite = fixed(1, 1, (2, 4), 0), fixed(1, 1, (2, 4), 7)
    assert gaze(corner, (2, 4)).tolist() == [[[1 / 8, 1 / 4]]]
    assert gaze(opposite, (2, 4)).tolist() == [[[7 / 8, 3 / 4]]]
    assert gaze((corner + opposite) / 2, (2, 4)).tolist() == [[[0.5, 0.5]]]


def test_the_shift_is_a_distance_a_second():
    attention = torch.cat([fixed(1, 1, (2, 4), cell) for cell in (0, 1, 5, 6)], dim=1)  # a step right, down, right
    assert shift(attention, (2, 4), 6.0).tolist() == [[6 / 4, 6 / 2, 6 / 4]]
    assert shift(attention[:, :1], (2, 4), 6.0).shape == (1, 0)
    diagonal = torch.cat([fixed(1, 1, (2, 4), cell) for cell in (0, 5)], dim=1)
    assert shift(diagonal, (2, 4), 1.0).item() == pytest.approx(math.hypot(1 / 4, 1 / 2))


def test_the_pointing_game_shares_ties_and_ignores_the_mass_elsewhere():
    attention = torch.tensor([[[0.4, 0.3, 0.3], [0.1, 0.45, 0.45], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]])
    inside = torch.tensor([1.0, 0.0, 1.0]).expand(1, 4, 3)
    assert pointing_game(attention, inside).tolist() == [[1, 0.5, 0.5, pytest.approx(2 / 3)]]
    without = torch.full((1, 4, 3), torch.nan)
    assert pointing_game(attention, without).isnan().all()


def test_steps_without_a_box_count_for_nothing_but_the_rest():
    attention, (coverage, inside) = draw(2, 6, (3, 3)), boxes(2, 6, (3, 3))
    coverage[0], inside[0] = math.nan, math.nan
    found = measured((attention, (3, 3), 30.0, coverage, inside))
    boxed = measured((attention[1:, :-1], (3, 3), 30.0, coverage[1:, :-1], inside[1:, :-1]))
    alone = measured((attention, (3, 3), 30.0))
    assert {name: found[name] for name in ON_BOXES} == pytest.approx({name: boxed[name] for name in ON_BOXES})
    assert {name: found[name] for name in alone} == alone and not ON_BOXES & set(alone)


def test_a_map_of_one_cell_has_no_share_of_its_entropy():
    found = measured((uniform(1, 3, (1, 1)), (1, 1), 30.0))
    assert found["attention_entropy"] == 0 and "attention_entropy_share" not in found
    assert found["attention_coverage_spread"] == 0 and found["attention_shift"] == 0


def split(attention, grid, rate, coverage, inside) -> list[tuple]:
    """One update a block."""
    every = range(len(attention))
    return [(attention[n : n + 1], grid, rate, coverage[n : n + 1], inside[n : n + 1]) for n in every]


def collect(parts: list[tuple], places: list[int]) -> AttentionMeasures:
    """Three videos of three blocks each, of which some are seen, in the order of the places."""
    metric = AttentionMeasures(3)
    for place in places:
        metric.update(place // 3, *parts[place])
    return metric


def test_blocks_in_any_order_and_number_at_once_give_the_same():
    whole = (draw(9, 7, (2, 3)), (2, 3), 15.0, *boxes(9, 7, (2, 3)))
    order = random.Random(0).sample(range(9), 9)
    assert collect(split(*whole), order).compute().means() == pytest.approx(measured(whole), rel=1e-7)


def join(metric: AttentionMeasures, other: AttentionMeasures) -> AttentionMeasures:
    """Make ``metric`` believe in a process group whose other rank holds ``other``."""
    theirs = {other.sums.dtype: other.sums, other.counts.dtype: other.counts}
    metric.dist_sync_fn = lambda tensor, group=None: [tensor, theirs[tensor.dtype]]
    metric.distributed_available_fn = lambda: True
    return metric


@pytest.mark.parametrize("first", [[0, 1, 2], [3, 4, 5, 6, 7, 8], [0, 1, 2, 6, 7, 8], []], ids=str)
def test_two_ranks_give_to_the_last_bit_what_one_gives(first):
    parts = split(draw(9, 7, (2, 3)), (2, 3), 15.0, *boxes(9, 7, (2, 3)))
    expected = collect(parts, list(range(9))).compute().means()
    others = [n for n in range(9) if n not in first]
    assert join(collect(parts, first), collect(parts, others)).compute().means() == expected
    assert join(collect(parts, others), collect(parts, first)).compute().means() == expected


def test_a_rank_without_boxes_and_one_with_them():
    attention, (coverage, inside) = draw(2, 7, (2, 3)), boxes(2, 7, (2, 3))
    one, two = AttentionMeasures(2), AttentionMeasures(2)
    one.update(0, attention[:1], (2, 3), 30.0)
    two.update(1, attention[1:], (2, 3), 30.0, coverage[1:], inside[1:])
    found = join(one, two).compute().means()
    with_boxes = by_loops(attention[1:], (2, 3), 30.0, coverage[1:], inside[1:])
    assert found["pointing_game"] == pytest.approx(with_boxes["pointing_game"])
    assert found["attention_entropy"] == pytest.approx(by_loops(attention, (2, 3), 30.0)["attention_entropy"])


def test_the_mean_is_over_steps_and_not_over_videos():
    long, short = draw(5, 4, (2, 2), sharp=0.1), draw(1, 4, (2, 2), sharp=9)
    found = measured((long, (2, 2), 30.0), (short, (2, 2), 30.0))
    assert found == pytest.approx(by_loops(torch.cat([long, short]), (2, 2), 30.0), rel=1e-6)


@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (5, 2)])
def test_the_recognizer_measures_the_attention_that_it_tests_with(skip, stride):
    """Blocks cut out one by one, instead of windows on a film."""
    grid, steps, blocks = (2, 3), 4, 5
    span = (blocks - 1) * stride + (steps - 1) * skip + 1
    torch.manual_seed(0)
    network = SoftAttentionLSTM(6, 5, 3, 8, 2, "content").eval()
    for parameter in network.parameters():
        parameter.data.normal_()
    cubes, coverage = torch.randn(span, 6, 5), torch.rand(span, 6)
    coverage[3] = math.nan
    inside = torch.where(coverage.isnan(), torch.nan, (coverage > 0.5).float())
    recognizer = Recognizer(network, 3, False, Objective())
    recognizer._trainer = SimpleNamespace(datamodule=SimpleNamespace(skip=skip))  # frames between two steps of the film
    recognizer.videos = VideoMetric(torch.tensor([0, blocks]), 3)
    recognizer.measures = AttentionMeasures(2)
    mean_, max_ = cubes.mean(dim=1), cubes.amax(dim=1)
    batch = DenseBatch(cubes, mean_, max_, 1, blocks, steps, skip, stride, grid, coverage, inside)
    with torch.no_grad():
        recognizer.test_step(batch, 0)
        places = torch.tensor([[n * stride + t * skip for t in range(steps)] for n in range(blocks)])
        attention = network(cubes[places]).attention
    expected = by_loops(attention.double(), grid, 30 / skip, coverage[places].double(), inside[places].double())
    assert recognizer.measures.compute().means() == pytest.approx(expected, rel=1e-4)
    assert recognizer.measures.counts[0].sum() == 0 and len(expected) == len(NAMES)


def test_nothing_seen_gives_no_figure():
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert AttentionMeasures(3).compute().means() == {}


def test_states_stay_out_of_checkpoints():
    assert AttentionMeasures(3).state_dict() == {}
