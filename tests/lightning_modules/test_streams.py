"""Streams: the last layer is logistic regression, a video's score is its crops', flow comes into an image network."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lightning_modules.backbone import BackboneError, build_backbone
from lightning_modules.crops import CENTRE
from lightning_modules.streams import CropNetwork, LastLayer, Solver, StreamRecognizer, cross_modality, pooled_views

SIZE = 63


def backbone():
    return build_backbone("alexnet", "random", "features.2", SIZE)


def test_the_last_layer_on_a_fixed_cache_is_multinomial_logistic_regression():
    """Full batches and no dropout: mean cross-entropy plus γ/2 ‖W‖² is scikit-learn's with C = 1 / (γ N)."""
    random, decay = np.random.default_rng(0), 1e-2
    labels = np.arange(120) % 4
    x = (random.normal(size=(4, 6))[labels] + random.normal(size=(120, 6))).astype(np.float32)
    module = StreamRecognizer(LastLayer(6, 4, dropout=0.0), 4, False, Solver(lr=0.5, weight_decay=decay))
    module._trainer = SimpleNamespace(global_step=0, world_size=1, global_rank=0)
    module.log = lambda *_: None
    optimizer = module.configure_optimizers()["optimizer"]
    batch = SimpleNamespace(x=torch.from_numpy(x), target=torch.from_numpy(labels), batch_size=120, second=None)
    for _ in range(3000):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    reference = LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=10_000).fit(x, labels)
    with torch.no_grad():
        found = module(batch.x).softmax(dim=1).numpy()
    assert np.abs(found - reference.predict_proba(x)).max() < 1e-3
    assert np.abs(module.network.last.weight.detach().numpy() - reference.coef_).max() < 1e-2


def test_only_the_last_layers_two_tensors_are_trained_on_stored_features():
    network = LastLayer(6, 4, 0.5)
    network(torch.randn(3, 6)).sum().backward()
    assert [name for name, one in network.named_parameters() if one.grad is not None] == ["last.weight", "last.bias"]
    assert len(list(network.parameters())) == 2


def test_a_frozen_network_stays_as_it_is_while_its_features_are_made():
    network = backbone()
    before = network.sha256()
    frames = torch.randint(0, 256, (7, 3, 72, 72), dtype=torch.uint8)
    features = pooled_views(network, frames, SIZE)
    assert features.shape == (7, 10, 64) and network.sha256() == before and not network.training
    centre = network.map(frames[:, :, 4:67, 4:67]).mean(dim=(-2, -1))
    assert torch.allclose(features[:, CENTRE], centre, atol=1e-5)


def scored(network, x: torch.Tensor, multi_label: bool = False) -> tuple[dict[str, float], torch.Tensor]:
    """Figures and scores of one video, whose class is 0."""
    module = StreamRecognizer(network.eval(), 4, multi_label, Solver())
    target = torch.tensor([[1, 0, 0, 1]]) if multi_label else torch.tensor([0])
    data = SimpleNamespace(counts=lambda which: np.array([len(x)]), targets=lambda which: target)
    module._trainer = SimpleNamespace(datamodule=data)
    module.log = lambda *_: None
    module.on_test_epoch_start()
    with torch.no_grad():
        module.test_step(SimpleNamespace(x=x, video=0), 0)
    module.on_test_epoch_end()
    assert module.scores is not None
    return module.figures, module.scores.mean


def test_a_video_of_equal_frames_scores_as_that_frame():
    network = CropNetwork(backbone(), 64, 4, dropout=0.5, crop=SIZE, size=SIZE, flow=False)
    frame = torch.randint(0, 256, (1, 3, 72, 72), dtype=torch.uint8)
    one, many = scored(network, frame)[1], scored(network, frame.expand(25, -1, -1, -1))[1]
    assert torch.allclose(one, many, atol=1e-6) and torch.allclose(many.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_video_scores_the_mean_of_its_crops_and_the_centre_crops_are_told_beside(multi_label):
    network, x = LastLayer(6, 4, 0.5), torch.randn(25, 10, 6)
    with torch.no_grad():
        network.last.weight.mul_(100)
        logits = network.eval()(x.flatten(0, 1)).unflatten(0, (25, 10))
    expected = logits.sigmoid() if multi_label else logits.softmax(dim=-1)
    figures, scores = scored(network, x, multi_label)
    assert torch.allclose(scores[0], expected.mean(dim=(0, 1)), atol=1e-6)
    if not multi_label:
        assert figures["test/centre_crop_accuracy"] == float(expected[:, CENTRE].mean(dim=0).argmax() == 0)
    assert {"test/mAP", "test/centre_crop_mAP"} <= figures.keys()


@pytest.mark.parametrize("channels", [2, 20])
def test_a_network_responds_to_flow_as_to_grey_images_times_the_channels(channels):
    """Of one value in all channels, 20 times the mean filter give 20 / 3 of what the three filters give."""
    images, flow = backbone(), cross_modality(backbone(), channels)
    value = torch.randn(2, 1, SIZE, SIZE)
    first, made = images.body.get_submodule("features.0"), flow.body.get_submodule("features.0")
    bias = first.bias[:, None, None]
    response = first(value.expand(-1, 3, -1, -1)) - bias
    assert torch.allclose(made(value.expand(-1, channels, -1, -1)) - bias, response * channels / 3, atol=1e-4)
    assert flow.map(torch.zeros(1, channels, SIZE, SIZE)).shape == (1, 64, 7, 7)
    assert all(one.requires_grad for one in flow.parameters())


def test_from_scratch_the_first_filters_differ_between_channels():
    torch.manual_seed(0)
    weight = cross_modality(backbone(), 20, scratch=True).body.get_submodule("features.0").weight
    assert not torch.equal(weight[:, 0], weight[:, 1]) and abs(float(weight.detach().std()) - (2 / (20 * 121)) ** 0.5) < 1e-3


def test_a_network_that_rescales_its_three_channels_takes_no_flow():
    network = build_backbone("alexnet", "random", "features.2", SIZE)
    network.body.register_forward_pre_hook(lambda module, given: (given[0][:, :3],))
    with pytest.raises(BackboneError, match="does not take 20 channels .* backbone.name"):
        cross_modality(network, 20)


def test_all_layers_are_trained_on_crops_of_any_size():
    network = CropNetwork(cross_modality(backbone(), 4), 64, 3, dropout=0.0, crop=24, size=SIZE, flow=True)
    assert network.training and network.backbone.training
    fields = torch.randint(0, 256, (2, 2, 2, 27, 36), dtype=torch.uint8)
    network(network.drawn(fields)).sum().backward()
    assert all(one.grad is not None for one in network.parameters())
    assert network.views(fields).shape == (2, 10, 4, 24, 24)


def test_the_rate_falls_to_a_tenth_at_each_drop_and_biases_do_not_decay():
    module = StreamRecognizer(LastLayer(6, 4, 0.5), 4, False, Solver(lr=1.0, weight_decay=0.1, drops=(2, 3)))
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 1, 0.1, 0.01])


def gradients(batch, second: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = CropNetwork(cross_modality(backbone(), 4), 64, 3, 0.0, crop=24, size=SIZE, flow=True, second=second)
    network.drawn = lambda x: network.views(x)[:, CENTRE]  # whatever stands beside an image
    module = StreamRecognizer(network, 3, False, Solver())
    module._trainer = SimpleNamespace(global_step=0, world_size=1, global_rank=0)
    module.log = lambda *_: None
    module.training_step(batch, 0).backward()
    return {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


def drawn(seed: int, count: int, second=None) -> SimpleNamespace:
    x = torch.randint(0, 256, (count, 2, 2, 27, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return SimpleNamespace(x=x, target=torch.arange(count) % 3, batch_size=count, second=second)


def test_a_second_task_adds_its_loss_to_the_trunk_by_a_last_layer_of_its_own():
    alone, beside, empty = drawn(1, 4), drawn(1, 4, drawn(2, 6)), drawn(1, 4, drawn(2, 0))
    empty.second.batch_size = 1
    single, without, both = gradients(alone), gradients(empty, 5), gradients(beside, 5)
    assert set(both) - set(single) == {"second.weight", "second.bias"} and both["second.weight"].shape == (5, 64)
    trunk = next(name for name in single if name.startswith("backbone"))
    for name, value in single.items():
        torch.testing.assert_close(without[name], value, rtol=1e-5, atol=1e-7)  # an empty second set: a single task
    torch.testing.assert_close(both["last.weight"], single["last.weight"], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(both[trunk], single[trunk]) and not both["second.weight"].isnan().any()
