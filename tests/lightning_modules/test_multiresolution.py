"""Attention over several maps: the paper's model where there is one, mean pooling where uniform, and what a fine map adds."""

import pytest
import torch
from torch import nn

from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.backbone import BackboneError, build_backbone
from lightning_modules.frames import Frames, Rows, run_blocks
from lightning_modules.metrics import BlockMean
from lightning_modules.multiresolution import MultiresolutionLSTM, pack, unpack
from lightning_modules.objective import attention_penalty, classification_cost

torch.set_num_threads(1)

B, T, C, H, L = 3, 5, 4, 6, 2
SCALES = [(2, 3, 5), (4, 6, 3), (2, 6, 2)]


def network(scales=SCALES, std: float = 0.5, **settings) -> MultiresolutionLSTM:
    torch.manual_seed(0)
    made = MultiresolutionLSTM(scales, C, H, L, width=7, **settings)
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and "projections" not in name:
            parameter.data.normal_(std=std)
    return made.eval()


def maps(*leading: int, scales=SCALES, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(*leading, rows * columns, channels) for rows, columns, channels in scales]
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


def test_what_is_packed_is_found_again_and_the_first_map_lies_as_it_is():
    given = maps(B, T)
    X = pack(given)
    assert X.shape == (B, T, 6 + -(-(72 + 24) // 5), 5) and torch.equal(X[:, :, :6], given[0])
    assert all(torch.equal(*pair) for pair in zip(unpack(X, SCALES), given, strict=True))
    assert unpack(X, SCALES)[1].untyped_storage().data_ptr() == X.untyped_storage().data_ptr()
    assert torch.equal(pack(given[:1]), given[0])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_one_scale_is_the_papers_model_to_the_bit(training, dtype):
    one = network(SCALES[:1], dropout=0.5).train(training)
    paper = SoftAttentionLSTM(6, 5, C, H, L, dropout=0.5, fast=False).train(training)
    state = {key.replace("attention.0.", "attention."): value for key, value in one.state_dict().items()}
    del state["gate.weight"]
    paper.load_state_dict(state)
    X, found = maps(B, T, dtype=dtype)[0], []
    for module in (one, paper):
        torch.manual_seed(5)
        found.append(module(X))
    assert torch.equal(found[0].logits, found[1].logits) and torch.equal(found[0].attention, found[1].attention)
    gradients = []
    for output, module in zip(found, (one, paper), strict=True):
        classification_cost(output.logits, torch.zeros(B, dtype=torch.long)).sum().backward()
        gradients.append([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_uniform_attention_is_mean_pooling_of_each_map():
    made, given = network(), maps(B, T)
    for attention in made.attention:
        nn.init.zeros_(attention.get_parameter("locations.weight"))
    nn.init.zeros_(made.gate.weight)
    means = [one.mean(dim=2, keepdim=True).expand_as(one) for one in given]
    pooled = made(pack(means))
    torch.testing.assert_close(made(pack(given)).logits, pooled.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled.attention, torch.full((B, T, 24), 1 / 24))
    x = sum(project(one.mean(dim=2)) for project, one in zip(made.projections, given, strict=True)) / 3  # (B, T, width)
    first = given[0].mean(dim=2).mean(dim=1)
    state = made.initial_state(first)
    torch.testing.assert_close(pooled.logits, made.head(made.lstm(x, state)[0]), rtol=1e-4, atol=1e-5)


def test_the_gate_and_every_map_sum_to_one_and_so_does_what_they_are_together():
    made = network()
    output = made(pack(maps(B, T)))
    begin = 0
    for rows, columns, _ in SCALES:
        part = output.scales[..., begin : begin + rows * columns]
        torch.testing.assert_close(part.sum(dim=-1), torch.ones(B, T))
        begin += rows * columns
    assert begin == output.scales.shape[-1] and output.attention.shape == (B, T, 24)
    torch.testing.assert_close(output.attention.sum(dim=-1), torch.ones(B, T))
    means = [metric.compute() for metric in made.gates if isinstance(metric, BlockMean)]
    assert sum(means) == pytest.approx(1) and min(means) > 0 and len(set(map(float, means))) == 3
    assert attention_penalty(output.scales).shape == (B,)


def test_concatenated_maps_stand_side_by_side_and_count_alike_in_what_is_shown():
    made, given = network(concatenated=True), maps(B, T)
    for attention in made.attention:
        nn.init.zeros_(attention.get_parameter("locations.weight"))
    output = made(pack(given))
    x = torch.cat([project(one.mean(dim=2)) for project, one in zip(made.projections, given, strict=True)], dim=-1)
    assert x.shape == (B, T, 21)
    state = made.initial_state(given[0].mean(dim=2).mean(dim=1))
    torch.testing.assert_close(output.logits, made.head(made.lstm(x, state)[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.attention, torch.full((B, T, 24), 1 / 24))
    assert not made.gate.weight.requires_grad and not network(SCALES[:1], concatenated=True).concatenated


def test_every_map_begins_with_as_large_a_part_whatever_its_channels():
    torch.manual_seed(0)
    made = MultiresolutionLSTM([(2, 2, 64), (2, 2, 1024)], C, H, width=64)
    for project, channels in zip(made.projections, (64, 1024), strict=True):
        assert float(project(3 + 20 * torch.randn(50, channels)).square().mean().sqrt()) == pytest.approx(1, rel=0.1)


def test_nested_attention_is_the_parents_times_a_softmax_over_the_children():
    made, given = network(nested=True), maps(B, T)
    found = made.attend(torch.randn(B, H, generator=torch.Generator().manual_seed(4)), given[0])
    first = found[0].view(B, 2, 3)
    for l_s, (rows, columns, _) in zip(found, SCALES, strict=True):
        cells = l_s.view(B, 2, rows // 2, 3, columns // 3)
        torch.testing.assert_close(cells.sum(dim=(2, 4)), first)
    h = torch.randn(B, H, generator=torch.Generator().manual_seed(4))
    e = made.attention[1].locations(h).view(B, 4, 6)[:, 2:, 2:4]  # what the second row's second cell covers
    expected = e.flatten(1).softmax(dim=1) * first[:, 1, 1, None]
    torch.testing.assert_close(found[1].view(B, 4, 6)[:, 2:, 2:4].flatten(1), expected)
    assert torch.equal(network(SCALES[:1], nested=True)(given[0]).logits, network(SCALES[:1])(given[0]).logits)
    with pytest.raises(ValueError, match="is no multiple of the first"):
        network([(4, 6, 5), (2, 3, 3)], nested=True)


def test_a_coarse_cells_weight_is_spread_over_the_cells_that_it_covers():
    made = network([(1, 2, 5), (2, 4, 3)])
    locations = torch.tensor([0.75, 0.25, *[0.0] * 7, 1.0])[None, None]
    found = made.combined(locations, torch.tensor([0.5, 0.5])[None, None]).view(2, 4)
    expected = torch.tensor([[0.1875] * 2 + [0.0625] * 2] * 2) / 2
    expected[1, 3] += 0.5
    torch.testing.assert_close(found, expected)


def test_cubes_by_reference_give_the_same():
    made, X = network(), pack(maps(9))
    rows = torch.tensor([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]])
    by_reference = run_blocks(made, Frames(cube=Rows(X, rows)))
    torch.testing.assert_close(by_reference.logits, made(X[rows]).logits)


def test_maps_that_do_not_go_into_each_other_are_refused():
    with pytest.raises(ValueError, match="do not go into each other"):
        MultiresolutionLSTM([(7, 7, 5), (15, 15, 3)], C, H)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_feature_planted_in_one_cell_of_the_fine_map_alone_is_found(seed):
    """The coarse map is noise, so that the paper's model on it stays at chance."""
    scales, generator = [(2, 2, 4), (4, 4, 6)], torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 2
        coarse, fine = (torch.randn(count, T, k, d, generator=generator) for k, d in ((4, 4), (16, 6)))
        fine[:, :, 9, 0] = 8.0 * (2 * labels[:, None] - 1)
        return pack([coarse, fine]), labels

    accuracies = []
    for used in (scales, scales[:1]):
        torch.manual_seed(seed)
        made = MultiresolutionLSTM(used, 2, 16, 1, dropout=0.0, width=8)
        optimizer = torch.optim.Adam(made.parameters(), 1e-2)
        for _ in range(80):
            X, labels = draw(32)
            optimizer.zero_grad()
            classification_cost(made(X if used is scales else X[:, :, :4]).logits, labels).mean().backward()
            optimizer.step()
        X, labels = draw(400)
        logits = made.eval()(X if used is scales else X[:, :, :4]).logits
        accuracies.append(float((logits.softmax(-1).mean(dim=1).argmax(-1) == labels).float().mean()))
        if used is scales:
            assert made.scales and made(X).attention.mean(dim=(0, 1)).argmax() == 9
    assert accuracies[0] == 1 and accuracies[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("name", "layer", "finer"),
    [
        ("googlenet", "inception5b", ["inception4e", "inception3b"]),
        ("bvlc_googlenet", "inception_5b/output", ["inception_4e/output", "inception_3b/output"]),
    ],
)
def test_a_googlenets_finer_maps_are_those_of_its_layers_averaged_to_14_by_14(name, layer, finer):
    options = {"authors_resize": False, "seed": 3}
    several = build_backbone(name, "random", layer, finer=finer, side=14, **options)
    frames = torch.randint(0, 255, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = several(frames)
    scales = [(7, 7, 1024), (14, 14, 832), (14, 14, 480)]
    assert [(*one.shape[2:], one.shape[1]) for one in several.maps(frames)] == scales
    for found, (node, size) in zip(unpack(packed, scales), zip([layer, *finer], [7, 14, 28], strict=True), strict=True):
        alone = build_backbone(name, "random", node, **options).map(frames)
        assert alone.shape[2:] == (size, size)
        expected = nn.functional.avg_pool2d(alone, 2) if size > 14 else alone
        torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "expected"), [(None, 14), (14, 14), (13, 7), (5, 7)])
def test_a_finer_map_is_averaged_to_a_multiple_of_the_first_ones_sides(side, expected):
    frames = torch.randint(0, 255, (1, 3, 63, 63), dtype=torch.uint8)
    backbone = build_backbone("alexnet", "random", "features.2", 63, finer=["features.1", "features.5"], side=side)
    assert [tuple(one.shape[2:]) for one in backbone.maps(frames)] == [(7, 7), (expected, expected), (3, 3)]


def test_a_layer_twice_or_unknown_is_refused():
    with pytest.raises(BackboneError, match="names a layer twice"):
        build_backbone("alexnet", "random", "features.2", 63, finer=["features.2"], side=14)
    with pytest.raises(BackboneError, match=r"a layer of features\.2, nowhere: alexnet has no such node"):
        build_backbone("alexnet", "random", "features.2", 63, finer=["nowhere"], side=14)
