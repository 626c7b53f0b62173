"""The paper's own network: its layers, its numbers against NumPy, what it says of real pictures, its input, its errors."""

import numpy as np
import pytest
import torch
from caffe_reference import forward, resized
from caffemodels import write_caffemodel
from conftest import SHARED
from PIL import Image

from lightning_modules import bvlc_googlenet, caffemodel
from lightning_modules.backbone import Backbone, BackboneError, build_backbone, calibrate, folded
from lightning_modules.bvlc_googlenet import MAP, NAME, BvlcGoogLeNet, LocalResponseNorm

torch.set_num_threads(1)

WEIGHTS, MEAN = SHARED / "weights/bvlc_googlenet_fp16.pth", SHARED / "weights/ilsvrc_2012_mean.npy"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file() or not MEAN.is_file(), reason="BVLC's weights are not here")
ESPRESSO, EGYPTIAN_CAT, MISSILE, PALACE = 967, 285, 657, 698


def picture(name: str) -> np.ndarray:
    if name == "china.jpg":
        datasets = pytest.importorskip("sklearn.datasets")
        return datasets.load_sample_image(name)
    return getattr(pytest.importorskip("skimage.data"), name)()


def as_frame(image: np.ndarray, side: int = 256) -> torch.Tensor:
    """(1, 3, side, side) uint8 RGB, squashed."""
    squashed = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(squashed)).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in torch.load(WEIGHTS, weights_only=True).items()}


@pytest.fixture(scope="module")
def paper() -> Backbone:
    return build_backbone(NAME, str(WEIGHTS), mean=MEAN)


@pytest.fixture(scope="module")
def untrained() -> Backbone:
    return build_backbone(NAME, "random", seed=3)


# Layers


def test_it_has_the_published_number_of_parameters_under_caffes_names():
    network = BvlcGoogLeNet()
    assert sum(value.numel() for value in network.parameters()) == 6_998_552
    names = network.state_dict().keys()
    assert len(names) == 116 and {name.rpartition(".")[2] for name in names} == {"weight", "bias"}
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["conv1/7x7_s2.weight"] == (64, 3, 7, 7) and shapes["inception_3a/5x5.weight"] == (32, 16, 5, 5)
    assert shapes["inception_5b/pool_proj.weight"] == (128, 832, 1, 1) and shapes["loss3/classifier.weight"] == (1000, 1024)


@pytest.mark.parametrize(("layer", "shape"), [(None, (1024, 7, 7)), ("inception_3a/output", (256, 28, 28))])
def test_it_is_cut_at_caffes_layers(layer, shape):
    backbone = build_backbone(NAME, "random", layer)
    frames = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    maps = backbone.map(frames)
    assert maps.shape == (2, *shape) and backbone.layer == (layer or MAP) and maps.min() >= 0
    assert backbone(frames).shape == (2, shape[1] * shape[2], shape[0])
    assert not any("classifier" in name for name in backbone.state_dict())


def test_pooling_rounds_sizes_up():
    network = BvlcGoogLeNet().eval()
    for side, expected in ((112, 56), (56, 28), (28, 14), (14, 7)):
        assert network.get_submodule("pool1/3x3_s2")(torch.zeros(1, 1, side, side)).shape[-1] == expected


@pytest.mark.parametrize("channels", [1, 4, 64])
def test_local_response_normalisation_is_torchs_own(channels):
    x = 300 * torch.randn(2, channels, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LocalResponseNorm(channels)(x), torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)(x))


def test_local_response_normalisation_holds_large_values_in_half_precision():
    x = torch.full((1, 8, 1, 1), 5000.0)
    exact = LocalResponseNorm(8)(x)
    found = LocalResponseNorm(8).half()(x.half()).float()
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0)


def test_random_weights_are_seeded_and_keep_their_scale(untrained):
    assert build_backbone(NAME, "random", seed=3).sha256() == untrained.sha256()
    assert build_backbone(NAME, "random", seed=4).sha256() != untrained.sha256()
    frames = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    features = untrained(frames)
    before = untrained.sha256()
    calibrate(untrained, frames)
    assert untrained.sha256() == before, "there is no batch norm to calibrate"
    assert 0.1 < features.std() < 1000 and torch.isfinite(features).all()


def test_its_folded_copy_computes_the_same(untrained):
    frames = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    torch.testing.assert_close(folded(untrained)(frames), untrained(frames))


# Numbers


@needs_weights
def test_map_and_scores_are_those_of_an_independent_forward_pass(paper, state):
    image = picture("astronaut")
    frame = as_frame(image)
    bgr = frame[0].numpy()[::-1].astype(np.float64) - np.load(MEAN)
    expected, scores = forward(resized(bgr, 224), {name: value.numpy() for name, value in state.items()})
    found = paper.map(frame)[0].double().numpy()
    assert expected.shape == found.shape == (1024, 7, 7)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    network = BvlcGoogLeNet(224).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        given = network(frame.float() - paper.mean)[0].double().numpy()
    assert np.abs(given - scores).max() < 1e-4 * np.abs(scores).max()


@needs_weights
@pytest.mark.parametrize(
    ("name", "label", "among"),
    [("coffee", ESPRESSO, 1), ("chelsea", EGYPTIAN_CAT, 1), ("rocket", MISSILE, 1), ("china.jpg", PALACE, 5)],
)
def test_it_knows_what_real_pictures_show(paper, state, name, label, among):
    network = BvlcGoogLeNet(224).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        scores = network(as_frame(picture(name)).float() - paper.mean)
    assert label in scores[0].topk(among).indices.tolist()


# Input


def test_frames_come_as_the_authors_script_made_them(tmp_path, untrained):
    generator = np.random.default_rng(0)
    mean = generator.uniform(90, 140, (3, 256, 256)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    backbone = build_backbone(NAME, "random", mean=tmp_path / "mean.npy")
    frame = torch.from_numpy(generator.integers(0, 256, (1, 3, 256, 256), dtype=np.uint8))
    seen = input_of(backbone, frame)
    expected = resized(frame[0].numpy()[::-1].astype(np.float64) - mean, 224)
    np.testing.assert_allclose(seen, expected, atol=0.02)
    assert backbone.sha256() != untrained.sha256(), "the mean is part of what decides the features"
    expected = resized(frame[0].numpy()[::-1] - np.array([104.0, 117.0, 123.0])[:, None, None], 224)
    np.testing.assert_allclose(input_of(untrained, frame), expected, atol=0.02)


def test_frames_can_come_directly(tmp_path):
    generator = np.random.default_rng(1)
    mean = generator.uniform(90, 140, (3, 256, 256)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    backbone = build_backbone(NAME, "random", size=96, authors_resize=False, mean=tmp_path / "mean.npy")
    frame = torch.from_numpy(generator.integers(0, 256, (1, 3, 96, 96), dtype=np.uint8))
    expected = frame[0].numpy()[::-1].astype(np.float64) - resized(mean, 96)
    np.testing.assert_allclose(input_of(backbone, frame), expected, atol=0.02)
    assert backbone(frame).shape == (1, 9, 1024)


def input_of(backbone: Backbone, frame: torch.Tensor) -> np.ndarray:
    """What the first convolution is given of a frame."""
    seen = []
    first = backbone.body.get_submodule("conv1/7x7_s2")
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone.map(frame)
    hook.remove()
    return seen[0][0].numpy()


# Files


def test_a_caffemodel_gives_the_same_network(tmp_path, untrained):
    network = BvlcGoogLeNet()
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    heads = {"loss1/classifier.weight": np.ones((4, 2)), "loss1/classifier.bias": np.ones(4)}
    for old in (True, False):
        path = write_caffemodel(tmp_path / f"{old}.caffemodel", {**arrays, **heads}, old)
        backbone = build_backbone(NAME, str(path))
        for name, value in backbone.body.state_dict().items():
            assert name.endswith("band") or torch.equal(value, network.state_dict()[name])


def test_weights_of_any_float_precision_are_taken(tmp_path):
    state = BvlcGoogLeNet().state_dict()
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "half.pth")
    found = build_backbone(NAME, str(tmp_path / "half.pth")).body.state_dict()["conv1/7x7_s2.weight"]
    assert torch.equal(found, state["conv1/7x7_s2.weight"].half().float())


def test_errors_say_what_is_wrong(tmp_path, monkeypatch):
    def refused(what: str, weights: str = "random", **options):
        with pytest.raises(BackboneError, match=what):
            build_backbone(NAME, weights, **options)

    refused("torchvision does not have bvlc_googlenet", "imagenet")
    refused("no such node", layer="inception_9z/output")
    refused("nor an existing file", str(tmp_path / "none.caffemodel"))
    (tmp_path / "page.caffemodel").write_bytes(b"<html>not here</html>")
    refused("not a .caffemodel", str(tmp_path / "page.caffemodel"))
    other = write_caffemodel(tmp_path / "other.caffemodel", {"fc8.weight": np.ones((5, 3)), "fc8.bias": np.ones(5)}, True)
    refused("does not fit bvlc_googlenet", str(other))
    torch.save({"conv1/7x7_s2.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "shape.pth")
    refused("does not fit bvlc_googlenet", str(tmp_path / "shape.pth"))
    refused("not a readable .npy file", mean=tmp_path / "none.npy")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    refused("not a readable .npy file", mean=tmp_path / "torn.npy")
    np.save(tmp_path / "small.npy", np.full((3, 8, 8), 100.0))
    refused("not a mean image", mean=tmp_path / "small.npy")
    np.save(tmp_path / "unit.npy", np.full((3, 256, 256), 0.4))
    refused("not a mean image", mean=tmp_path / "unit.npy")

    def missing():
        raise ImportError("No module named 'google'")

    monkeypatch.setattr(caffemodel, "net_message", missing)
    refused(r"the library that reads it is not here .*pip install -e", str(other))
    with pytest.raises(BackboneError, match="vgg11.*bvlc_googlenet"):
        build_backbone("bvlc_googlenett", "random")


@needs_weights
def test_channel_means_are_the_mean_images_own():
    assert np.load(MEAN).mean(axis=(1, 2)) == pytest.approx(bvlc_googlenet.CHANNEL_MEANS, abs=0.5)
