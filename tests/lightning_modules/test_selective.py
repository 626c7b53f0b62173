"""Attention that reads some locations: top-k equals soft attention with all, and hard attention with one; weights sum to 1."""

import pytest
import torch
from test_runs_of_frames import values

from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.frames import Rows, pool_frames, run_blocks
from lightning_modules.hard_attention import HardAttentionLSTM
from lightning_modules.selective import TopKAttentionLSTM, largest, rows_of

torch.set_num_threads(1)

T, K, D, H, C, B = 4, 9, 5, 6, 3, 7
KINDS = ["location", "content"]


def pair(other: type, kind: str, **options):
    """Soft attention and another network with its weights, large enough to matter."""
    soft = SoftAttentionLSTM(K, D, C, H, 2, kind, dropout=0.3)
    for parameter in (p for p in soft.parameters() if p.requires_grad):
        parameter.data.copy_(values(*parameter.shape, dtype=torch.float32, seed=parameter.numel()))
    network = other(K, D, C, H, 2, kind, dropout=0.3, **options)
    network.load_state_dict(soft.state_dict(), strict=False)
    return soft, network


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("k", [K, K + 40])
@pytest.mark.parametrize("kind", KINDS)
def test_all_locations_are_soft_attention_to_the_bit(kind, k, training):
    soft, network = (one.train(training) for one in pair(TopKAttentionLSTM, kind, top_k=k))
    found = []
    for one in (soft, network):
        torch.manual_seed(1)
        output = one(values(B, T, K, D, dtype=torch.float32))
        used = [parameter for name, parameter in one.named_parameters() if name != "attention.score.bias"]  # see `over_time`
        slopes = torch.autograd.grad(output.logits.sum(), [parameter for parameter in used if parameter.requires_grad])
        found.append((output, slopes))
    (expected, slopes), (actual, others) = found
    assert torch.equal(expected.logits, actual.logits) and torch.equal(expected.attention, actual.attention)
    assert all(torch.equal(one, other) for one, other in zip(slopes, others, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_that_reads_all_locations_is_soft_attention_but_for_rounding(kind):
    soft, network = (one.eval() for one in pair(TopKAttentionLSTM, kind, top_k=1))
    X = values(B, T, K, D, dtype=torch.float32)
    everything = torch.arange(K).expand(B, -1)
    reading = network.read_over_time(
        network.per_frame(pool_frames(X, network.inputs)), X.mean(dim=(1, 2)), lambda _, l_t: (everything, l_t)
    )
    torch.testing.assert_close(network.head(reading.hidden), soft(X).logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reading.softmax, soft(X).attention, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_location_at_test_is_hard_attention(kind):
    _, one = pair(TopKAttentionLSTM, kind, top_k=1)
    _, hard = pair(HardAttentionLSTM, kind)
    X = values(B, T, K, D, dtype=torch.float32)
    found, expected = one.eval()(X), hard.eval()(X)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.attention.argmax(dim=-1), expected.attention.argmax(dim=-1))


@pytest.mark.parametrize("k", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_one_over_the_k_largest(kind, k):
    soft, network = (one.eval() for one in pair(TopKAttentionLSTM, kind, top_k=k))
    X = values(B, T, K, D, dtype=torch.float32)
    attention, expected = network(X).attention, soft(X).attention
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(B, T))
    assert ((attention > 0).sum(dim=-1) == k).all()
    first = expected[:, 0]  # later steps have seen what was left out
    kept = first >= first.topk(k, dim=-1).values[:, -1:]
    shares = torch.where(kept, first, 0) / torch.where(kept, first, 0).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(attention[:, 0], shares)


def test_the_gradient_goes_through_the_weights_that_are_kept():
    l_t = torch.tensor([[0.5, 0.2, 0.3]], requires_grad=True)
    s, w = largest(l_t, 2)
    assert s.tolist() == [[0, 2]] and w.tolist() == [pytest.approx([0.625, 0.375])]
    (gradient,) = torch.autograd.grad(w[0, 0], l_t)
    assert gradient.tolist() == [pytest.approx([0.3 / 0.64, 0.0, -0.5 / 0.64])]


@pytest.mark.parametrize("kind", KINDS)
def test_one_kept_location_teaches_the_softmax_nothing_and_two_do(kind):
    X = values(B, T, K, D, dtype=torch.float32)
    for k in (1, 2):
        _, network = pair(TopKAttentionLSTM, kind, top_k=k)
        slopes = torch.autograd.grad(network(X).logits.square().sum(), list(network.attention.parameters()))
        assert (sum(float(slope.abs().sum()) for slope in slopes) > 1e-3) == (k > 1)


def test_no_more_is_copied_than_is_read():
    pool, rows = values(20, K, D, dtype=torch.float16), torch.randint(0, 20, (B, T))
    s = torch.randint(0, K, (B, 2))
    found = rows_of(Rows(pool, rows), 1, s)
    assert found.shape == (B, 2, D) and found.dtype == torch.float16
    assert torch.equal(found, rows_of(pool[rows], 1, s))
    assert torch.equal(found[3, 1], pool[rows[3, 1], s[3, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_cubes_by_reference_are_read_as_gathered_ones(kind):
    _, network = pair(TopKAttentionLSTM, kind, top_k=2)
    pool, rows = values(20, K, D, dtype=torch.float16), torch.randint(0, 20, (B, T))
    frames = pool_frames(pool[rows], network.inputs)
    outputs = [run_blocks(network.eval(), one) for one in (frames, frames._replace(cube=Rows(pool, rows)))]
    assert torch.equal(outputs[0].logits, outputs[1].logits)


def test_no_location_at_all_is_refused():
    with pytest.raises(ValueError, match="top_k=0: at least one location must be read"):
        TopKAttentionLSTM(K, D, C, H, top_k=0)
