"""Glimpses by hand and learned ones: what the network computes with them, and that nothing but W changes."""

import pytest
import torch

from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.frames import Frames, pool_frames, run_dense
from lightning_modules.glimpses import STEP, correct, run_glimpse
from lightning_modules.metrics import block_scores

LOCATIONS, CHANNELS, CLASSES = 9, 6, 3


def network(attention: str = "location") -> SoftAttentionLSTM:
    torch.manual_seed(3)
    made = SoftAttentionLSTM(LOCATIONS, CHANNELS, CLASSES, 16, 2, attention)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data.mul_(30 if parameter.ndim > 1 and parameter.std() < 0.1 else 1)  # far from uniform
    return made.eval()


def video(frames: int) -> Frames:
    return pool_frames(
        3 * torch.randn(frames, LOCATIONS, CHANNELS, generator=torch.Generator().manual_seed(5)), ("cube", "mean")
    )


def test_a_cell_is_all_that_is_seen():
    model, frames = network(), video(40)
    glimpse = torch.zeros(LOCATIONS)
    glimpse[4] = 1
    logits = run_glimpse(model, frames, glimpse, 11, 30)
    for block in (0, 10):
        X = frames.cube[block : block + 30]
        hidden, _ = model.lstm(X[None, :, 4], model.initial_state(X.mean(dim=(0, 1))[None]))
        torch.testing.assert_close(logits[block], model.head(hidden)[0], atol=1e-5, rtol=1e-4)
    moved = frames._replace(cube=frames.cube.clone())
    moved.cube[:, [0, 1, 2, 3, 5, 6, 7, 8]] += 10  # not looked at; the mean, which h_0 sees, is given apart
    torch.testing.assert_close(run_glimpse(model, moved, glimpse, 11, 30), logits)


@pytest.mark.parametrize(("skip", "stride"), [(1, 1), (2, 3)])
def test_its_own_glimpses_give_its_own_answer(skip, stride):
    model = network("content")  # the blocks of content attention see a frame differently: one block
    frames = video(29 * skip + 1)
    own = run_dense(model, frames, 1, 30, skip, stride)
    glimpse = torch.zeros(29 * skip + 1, LOCATIONS)
    glimpse[::skip] = own.attention[0].detach()
    torch.testing.assert_close(run_glimpse(model, frames, glimpse, 1, 30, skip, stride), own.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [30, 100])
def test_correction_learns_where_to_look_and_leaves_the_network_alone(frames):
    model, seen = network(), video(frames)
    blocks = frames - 29
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = block_scores(run_dense(model, seen, blocks, 30).logits, False, 30).mean(dim=0)
    corrected = []
    for target in set(range(CLASSES)) - {int(own.argmax())}:
        made = correct(model, seen, target, blocks, 30, generator=torch.Generator().manual_seed(target), limit=60)
        low, high = before["attention.locations.weight"].aminmax()
        assert low <= made.random.min() and made.random.max() <= high
        assert (made.weight - made.random).abs().max() <= 2 * made.steps * STEP * (high - low)  # Adam's
        with torch.no_grad():  # what it says of itself is what the network says with these weights
            model.attention.locations.weight.copy_(made.weight)
            scores = block_scores(run_dense(model, seen, blocks, 30).logits, False, 30).mean(dim=0)
            model.attention.locations.weight.copy_(before["attention.locations.weight"])
        assert int(scores.argmax()) == made.prediction and made.corrected == (made.prediction == target)
        assert made.corrected or made.steps == 60
        assert (made.steps == 0) == (made.random_prediction == target)
        corrected.append(made.corrected)
    assert any(corrected)  # of these two there is one that another gaze corrects
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.attention.locations.weight.grad is None
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"lstm.bias_hh_l{layer}" for layer in range(2)}


def test_the_gradient_does_not_depend_on_how_many_blocks_come_at_a_time(monkeypatch):
    model, seen = network(), video(70)
    target = int(block_scores(run_dense(model, seen, 41, 30).logits, False, 30).mean(dim=0).argmin())
    whole = correct(model, seen, target, 41, 30, generator=torch.Generator().manual_seed(1), limit=3)
    monkeypatch.setattr("lightning_modules.glimpses.CHUNK", 7)
    parts = correct(model, seen, target, 41, 30, generator=torch.Generator().manual_seed(1), limit=3)
    assert whole.steps == parts.steps
    torch.testing.assert_close(whole.weight, parts.weight, atol=1e-5, rtol=1e-4)


def test_content_attention_has_no_such_weights():
    with pytest.raises(ValueError, match="location attention"):
        correct(network("content"), video(30), 0, 1, 30)
    with pytest.raises(ValueError, match="evaluation mode"):
        correct(network().train(), video(30), 0, 1, 30)
