"""The composite LSTM: what its decoders are to give, through which of them the encoder learns, and the classifier by a loop."""

import pytest
import torch

from lightning_modules.attention import lstm_step
from lightning_modules.composite import FUTURE, OBSERVED, CompositeLSTM, LSTMClassifier, targets
from lightning_modules.layers import build_lstm
from lightning_modules.metrics import block_scores
from lightning_modules.pretraining import Pretraining

torch.set_num_threads(1)

B, D, H, C, L = 3, 4, 6, 5, 2
LENGTH = OBSERVED + FUTURE
ALL = torch.ones(B, LENGTH, dtype=torch.bool)


def pretraining(weights=(1.0, 1.0), scale: float = 1.0, rectified: bool = False, hidden: int = H) -> Pretraining:
    torch.manual_seed(0)
    encoder = build_lstm(D, hidden, L, 0.5)
    for parameter in encoder.parameters():
        parameter.data.normal_(std=0.5)
    network = CompositeLSTM(encoder, torch.full((D,), 0.25), rectified)
    for decoder in (network.reconstruction, network.prediction):
        decoder.features.weight.data.normal_(std=0.5)
    return Pretraining(network, scale, weights, 1e-2)


def video(*shape: int) -> torch.Tensor:
    return torch.rand(*(shape or (B, LENGTH, D)), generator=torch.Generator().manual_seed(1))


def test_the_targets_are_the_past_in_reverse_and_the_future():
    past, future = targets(torch.arange(1, LENGTH + 1)[None])
    assert past.tolist() == [list(range(16, 0, -1))] and future.tolist() == [list(range(17, 30))]


def test_a_ramp_is_learned_to_be_given_back_from_16_to_1_and_continued_from_17_to_29():
    module = pretraining(hidden=24)
    ramp = torch.arange(1.0, LENGTH + 1)[None, :, None].expand(1, LENGTH, D) / LENGTH
    (optimizer,) = [module.configure_optimizers()]
    for _ in range(600):
        optimizer.zero_grad()
        cost, _ = module.costs(ramp, ALL[:1])
        cost.sum().backward()
        optimizer.step()
    past, future = (LENGTH * part.mean(dim=(0, 2)) for part in module.network(ramp[:, :OBSERVED]))
    assert cost.item() < 2e-3
    torch.testing.assert_close(past, torch.arange(16.0, 0, -1), rtol=0, atol=0.5)
    torch.testing.assert_close(future, torch.arange(17.0, 30), rtol=0, atol=0.5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_the_encoder_learns_through_each_decoder_alone_and_not_through_one_without_weight(weights):
    module = pretraining(weights)
    module.costs(video(), ALL)[0].sum().backward()
    network = module.network
    for weight, decoder in zip(weights, (network.reconstruction, network.prediction), strict=True):
        gradients = [one.grad for one in decoder.parameters() if one.grad is not None]
        assert gradients and all(bool(gradient.any()) == (weight > 0) for gradient in gradients)
    learned = [one.grad for one in network.encoder.parameters() if one.grad is not None]
    assert learned and all(bool(gradient.any()) == (sum(weights) > 0) for gradient in learned)


def test_the_cost_is_half_the_squared_error_of_both_parts_by_a_loop():
    module, v = pretraining((2.0, 3.0), scale=0.5), video()
    own = ALL.clone()
    own[1, 20:] = False  # a video of 20 frames
    own[2, 5:] = False
    cost, energy = module.costs(v, own)
    past, future = module.network(v[:, :OBSERVED] / 0.5)
    for b in range(B):
        expected, nothing = 0.0, 0.0
        for t in range(LENGTH):
            if own[b, t]:
                found, weight = (past[b, OBSERVED - 1 - t], 2.0) if t < OBSERVED else (future[b, t - OBSERVED], 3.0)
                expected += weight / 2 * ((found - v[b, t] / 0.5) ** 2).sum()
                nothing += weight / 2 * ((v[b, t] / 0.5) ** 2).sum()
        torch.testing.assert_close(cost[b], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(energy[b], nothing, rtol=1e-5, atol=1e-5)


def test_repeated_frames_count_nothing():
    module, v, own = pretraining(), video(), ALL.clone()
    own[:, 18:] = False
    before = module.costs(v, own)[0]
    changed = v.clone()
    changed[:, 18:] = 9.0
    assert torch.equal(module.costs(changed, own)[0], before)


@pytest.mark.parametrize("rectified", [False, True])
def test_constant_videos_cost_nothing_with_the_bias_alone(rectified):
    torch.manual_seed(0)
    value = torch.rand(D)
    network = CompositeLSTM(build_lstm(D, H, L, 0.0), value, rectified)
    for decoder in (network.reconstruction, network.prediction):
        decoder.features.weight.data.zero_()
    cost, energy = Pretraining(network, 1.0).costs(value.expand(B, LENGTH, D), ALL)
    assert cost.tolist() == [0] * B and bool((energy > 0).all())


def test_what_is_decoded_is_not_below_zero_where_features_are_not():
    free, rectified = (pretraining(rectified=one).network for one in (False, True))
    for network in (free, rectified):
        network.prediction.features.bias.data.fill_(-0.5)
    v = video()[:, :OBSERVED]
    assert (free(v)[1] < 0).any()
    for found, kept in zip(free(v), rectified(v), strict=True):
        assert torch.equal(kept, found.clamp(min=0))


def test_decoders_begin_from_the_encoders_state_and_have_no_input():
    network, v = pretraining().network, video()[:, :OBSERVED]
    _, (h, c) = network.encoder(v)
    h, c = list(h), list(c)
    found, _ = network(v)
    for t in range(OBSERVED):
        x = torch.zeros(B, 1)
        for layer in range(L):
            h[layer], c[layer] = lstm_step(network.reconstruction.lstm, layer, x, h[layer], c[layer])
            x = h[layer]
        torch.testing.assert_close(found[:, t], network.reconstruction.features(x), rtol=1e-5, atol=1e-6)
    weight = network.reconstruction.lstm.get_parameter("weight_ih_l0")
    assert not weight.requires_grad and not weight.any()


def test_the_encoder_is_a_copy_without_dropout():
    encoder = build_lstm(D, H, L, 0.5)
    network = CompositeLSTM(encoder, torch.zeros(D), False)
    assert network.encoder is not encoder and (encoder.dropout, network.encoder.dropout) == (0.5, 0.0)
    assert all(torch.equal(one, encoder.state_dict()[name]) for name, one in network.encoder.state_dict().items())


def test_the_classifier_is_a_loop_over_steps_and_its_prediction_their_mean():
    torch.manual_seed(0)
    network = LSTMClassifier(D, C, H, L).eval()
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.5)
    network.scale.fill_(0.5)
    X = video(B, OBSERVED, 7, D)
    logits = network(X).logits
    h, c = ([torch.zeros(B, H) for _ in range(L)] for _ in range(2))
    for t in range(OBSERVED):
        x = X[:, t].mean(dim=1) / 0.5
        for layer in range(L):
            h[layer], c[layer] = lstm_step(network.encoder, layer, x, h[layer], c[layer])
            x = h[layer]
        torch.testing.assert_close(logits[:, t], network.classes(x), rtol=1e-5, atol=1e-5)
    expected = sum(logits[:, t].softmax(dim=-1) for t in range(OBSERVED)) / OBSERVED
    torch.testing.assert_close(block_scores(logits, False, 30), expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_between_layers_and_before_the_scores():
    torch.manual_seed(0)
    X = video(B, OBSERVED, 7, D)
    assert LSTMClassifier(D, C, H, L, dropout=0.5).encoder.dropout == 0.5
    network = LSTMClassifier(D, C, H, 1, dropout=0.5).train()
    assert network.encoder.dropout == 0 and not torch.equal(network(X).logits, network(X).logits)
    network = LSTMClassifier(D, C, H, 1, dropout=0.0).train()
    assert torch.equal(network(X).logits, network(X).logits)
