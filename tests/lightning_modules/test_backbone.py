"""The frozen image network: shapes, location order, seeds, calibration, weight files, errors. Nothing is downloaded."""

import hashlib
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import GoogLeNet_Weights, get_model

from lightning_modules.backbone import Backbone, BackboneError, build_backbone, calibrate, classification_networks

torch.set_num_threads(1)

REAL_WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights" / "mobilenet_v2_imagenet_fp16.pth"
MAPS = {"googlenet": (1024, 7, 7), "mobilenet_v2": (1280, 7, 7), "vgg11": (512, 14, 14)}
SMALL = "mobilenet_v2"


def frames(number: int = 2, size: int = 224, seed: int = 0) -> Tensor:
    """Smooth random pictures: noise of 7 by 7 patches."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (number, 3, 7, 7), dtype=torch.uint8, generator=generator)
    return patches.repeat_interleave(size // 7, dim=2).repeat_interleave(size // 7, dim=3)


@pytest.fixture(scope="module")
def built() -> dict[str, Backbone]:
    """Backbones with random weights, calibrated where they have batch norms. Tests do not change them."""
    networks = {name: build_backbone(name, "random", size=224) for name in MAPS}
    for name in ("googlenet", "mobilenet_v2"):
        calibrate(networks[name], frames(4))
    return networks


@pytest.fixture
def hub(tmp_path):
    """An empty folder of downloaded weights."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


# Maps and locations


@pytest.mark.parametrize("name", MAPS)
def test_features_are_the_last_map_row_by_row(built, name):
    channels, rows, columns = MAPS[name]
    pictures = frames()
    maps, X = built[name].map(pictures), built[name](pictures)
    assert maps.shape == (2, channels, rows, columns)
    assert X.shape == (2, rows * columns, channels)
    for row, column in [(0, 0), (0, columns - 1), (2, 5), (rows - 1, 0), (rows - 1, columns - 1)]:
        assert torch.equal(X[:, row * columns + column], maps[:, :, row, column])
    assert X.std(dim=1).max() > 0


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("bottom", "right"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_bright_corner_changes_the_location_of_that_corner_most(built, name, bottom, right):
    _, rows, columns = MAPS[name]
    dark = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    bright = dark.clone()
    vertical, horizontal = (slice(192, None) if bottom else slice(32)), (slice(192, None) if right else slice(32))
    bright[:, :, vertical, horizontal] = 255
    change = (built[name](bright) - built[name](dark)).square().sum(dim=-1)[0]
    place = int(change.argmax())
    row, column = divmod(place, columns)
    assert (row >= rows / 2, column >= columns / 2) == (bottom, right)
    assert change[place] > 3 * change.mean()


def test_other_frame_sizes_give_other_numbers_of_locations():
    backbone = build_backbone(SMALL, "random", size=96)
    assert backbone(frames(1, 98)[:, :, :96, :96]).shape == (1, 9, 1280)


def test_another_layer_may_be_named():
    backbone = build_backbone(SMALL, "random", layer="features.13", size=64)
    assert backbone.layer == "features.13"
    assert backbone(frames(1, 63)).shape == (1, 16, 96)


def test_pictures_are_normalised_as_the_official_weights_expect():
    class Same(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"map": images}

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    backbone = Backbone(Same(), mean, std, "")
    pictures = frames(1, 14)
    expected = (pictures.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(backbone.map(pictures), expected)
    assert backbone(pictures).shape == (1, 196, 3)
    real = build_backbone(SMALL, "random", size=64)
    torch.testing.assert_close(real.mean.flatten(), 255 * torch.tensor(mean))
    torch.testing.assert_close(real.std.flatten(), 255 * torch.tensor(std))


def test_backbones_are_frozen_and_in_evaluation_mode(built):
    for backbone in built.values():
        assert not any(module.training for module in backbone.modules())
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_frames_do_not_influence_each_other(built):
    pictures = frames(3)
    torch.testing.assert_close(built[SMALL](pictures)[1:2], built[SMALL](pictures[1:2]), rtol=1e-4, atol=1e-4)


# Seeds and fingerprints


def test_seeds_reproduce_and_differ():
    first, again, other = (build_backbone(SMALL, "random", size=64, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert first.sha256() == again.sha256() != other.sha256()


def test_building_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_backbone(SMALL, "random", size=64)
    assert torch.equal(torch.rand(3), expected)


def test_fingerprint_follows_every_weight_and_statistic():
    backbone = build_backbone(SMALL, "random", size=64)
    seen = {backbone.sha256()}
    assert {len(digest) for digest in seen} == {64}
    assert backbone.sha256() in seen
    state = backbone.state_dict()
    for name in ["mean", "std", next(iter(state)), "body.features.0.1.running_var", "body.features.18.1.bias"]:
        state[name].view(-1)[0] += 1e-3
        seen.add(backbone.sha256())
    assert len(seen) == 6


def test_fingerprint_tells_names_and_shapes_apart():
    def fingerprint(name: str, inputs: int, outputs: int) -> str:
        body = nn.ModuleDict({name: nn.Conv2d(inputs, outputs, 1, bias=False)})
        nn.init.ones_(body[name].weight)
        return Backbone(body, (0.5,) * 3, (0.5,) * 3, "").sha256()

    assert fingerprint("a", 2, 3) == fingerprint("a", 2, 3)
    assert len({fingerprint("a", 2, 3), fingerprint("b", 2, 3), fingerprint("a", 3, 2)}) == 3


def test_fingerprint_does_not_depend_on_the_memory_layout():
    backbone = build_backbone(SMALL, "random", size=64)
    assert backbone.to(memory_format=torch.contiguous_format).sha256() == build_backbone(SMALL, "random", size=64).sha256()


# Calibration


def normalised(backbone: Backbone, pictures: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance per channel that each batch norm gives before its affine map."""
    moments = {}

    def track_video(name: str):
        def hook(norm: nn.BatchNorm2d, _: object, output: Tensor) -> None:
            plain = (output - norm.bias[:, None, None]) / norm.weight[:, None, None]
            moments[name] = plain.mean(dim=(0, 2, 3)), plain.var(dim=(0, 2, 3), unbiased=False)

        return hook

    hooks = [m.register_forward_hook(track_video(n)) for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    backbone.map(pictures)
    for hook in hooks:
        hook.remove()
    return moments


@pytest.mark.parametrize("affine", [False, True], ids=["as initialised", "with an affine map"])
def test_calibrated_batch_norms_give_mean_zero_and_variance_one_before_their_affine_map(affine):
    pictures = frames(8, 126)
    backbone = build_backbone("resnet18", "random", size=126)
    if affine:
        generator = torch.Generator().manual_seed(0)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
    before = normalised(backbone, pictures)
    assert max(float((variance - 1).abs().max()) for _, variance in before.values()) > 0.5
    calibrate(backbone, pictures)
    after = normalised(backbone, pictures)
    assert len(after) == 20
    for mean, variance in after.values():
        assert mean.abs().max() < 0.05
        assert (variance - 1).abs().max() < 0.05  # running variances are unbiased, N / (N - 1), and this adds up over layers
    assert not any(module.training for module in backbone.modules())


def test_calibration_in_batches_averages_their_statistics():
    pictures = frames(8, 63)
    whole, parts = (build_backbone("resnet18", "random", size=63) for _ in range(2))
    calibrate(whole, pictures)
    calibrate(parts, pictures, batch=4)
    first = "body.bn1.running_mean"
    torch.testing.assert_close(parts.state_dict()[first], whole.state_dict()[first], rtol=1e-4, atol=1e-5)
    means = torch.stack([mean.abs().mean() for mean, _ in normalised(parts, pictures).values()])
    assert means.max() < 0.2
    assert parts.sha256() != whole.sha256()


def test_calibration_weighs_every_frame_alike():
    pictures = frames(5, 63)
    pictures[4] = 255  # unlike the others, and alone in its batch
    whole, parts = (build_backbone("resnet18", "random", size=63) for _ in range(2))
    calibrate(whole, pictures, batch=5)
    calibrate(parts, pictures, batch=4)
    first = "body.bn1.running_mean"
    torch.testing.assert_close(parts.state_dict()[first], whole.state_dict()[first], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2"])
def test_calibration_makes_features_spread(built, name):
    pictures = frames(4)
    raw = build_backbone(name, "random")(pictures).std(dim=0).mean()
    calibrated = built[name](pictures).std(dim=0).mean()
    assert raw < 1e-3 < 0.1 < calibrated


def test_calibrating_twice_changes_nothing(built):
    pictures = frames(4, 63)
    backbone = build_backbone("resnet18", "random", size=63)
    calibrate(backbone, pictures)
    first = {name: value.clone() for name, value in backbone.state_dict().items()}
    calibrate(backbone, pictures)
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-5, atol=1e-6)


# Weights from files


@pytest.fixture(scope="module")
def small_state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return get_model(SMALL, weights=None).state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_state_dict_files_of_any_precision_load(tmp_path, small_state, dtype):
    stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in small_state.items()}
    torch.save(stored, tmp_path / "weights.pth")
    backbone = build_backbone(SMALL, str(tmp_path / "weights.pth"), size=64)
    own = backbone.state_dict()
    for name in [name for name in own if name.startswith("body.")]:
        assert own[name].dtype in (torch.float32, torch.int64)
        assert torch.equal(own[name], stored[name.removeprefix("body.")].to(own[name].dtype))
    assert "body.features.18.0.weight" in own


def test_weights_from_a_file_do_not_depend_on_the_seed(tmp_path, small_state):
    torch.save(small_state, tmp_path / "weights.pth")
    first, other = (build_backbone(SMALL, str(tmp_path / "weights.pth"), size=64, seed=seed) for seed in (0, 1))
    assert first.sha256() == other.sha256()


def test_state_dict_without_batch_counters_loads(tmp_path, small_state):
    torch.save({k: v for k, v in small_state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "weights.pth")
    backbone = build_backbone(SMALL, str(tmp_path / "weights.pth"), size=64)
    assert torch.equal(backbone.state_dict()["body.features.0.0.weight"], small_state["features.0.0.weight"])


@pytest.mark.skipif(not REAL_WEIGHTS.exists(), reason=f"needs {REAL_WEIGHTS}")
def test_real_imagenet_weights_give_features_that_tell_pictures_apart():
    backbone = build_backbone(SMALL, str(REAL_WEIGHTS))
    X = backbone(frames(4))
    assert X.shape == (4, 49, 1280)
    assert X.isfinite().all()
    assert X.std() > 0.1
    assert X.std(dim=0).mean() > 0.01  # between pictures
    assert X.std(dim=1).mean() > 0.01  # between locations
    assert (X >= 0).all()  # after ReLU6
    assert X.max() <= 6


# ImageNet weights, as if they had been downloaded


@pytest.fixture(scope="module")
def official_state() -> dict[str, Tensor]:
    """What torchvision's GoogLeNet file holds, auxiliary heads included, with made-up values."""
    torch.manual_seed(4)
    network = get_model("googlenet", weights=None, aux_logits=True, init_weights=False)
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_imagenet_weights_come_from_the_official_file_and_rescale_the_input(hub, official_state):
    file = hub / Path(GoogLeNet_Weights.DEFAULT.url).name
    torch.save(official_state, file)
    backbone = build_backbone("googlenet", "imagenet")
    official = get_model("googlenet", weights=GoogLeNet_Weights.DEFAULT).eval()
    assert official.transform_input
    maps = []
    official.inception5b.register_forward_hook(lambda *_: maps.append(_[2]))
    pictures = frames()
    with torch.no_grad():
        official(GoogLeNet_Weights.DEFAULT.transforms(crop_size=224, resize_size=224)(pictures))
    assert maps[0].shape == (2, 1024, 7, 7)
    assert maps[0].std() > 0
    torch.testing.assert_close(backbone.map(pictures), maps[0], rtol=1e-3, atol=1e-5 * float(maps[0].abs().max()))

    maps.clear()
    official.transform_input = False
    with torch.no_grad():
        official(GoogLeNet_Weights.DEFAULT.transforms(crop_size=224, resize_size=224)(pictures))
    assert not torch.allclose(backbone.map(pictures), maps[0], rtol=1e-3, atol=1e-5 * float(maps[0].abs().max()))

    named = build_backbone("googlenet", str(file))  # the same file, given by its path
    assert named.sha256() == backbone.sha256()
    torch.testing.assert_close(named(pictures), backbone(pictures))


def test_random_googlenet_does_not_rescale_its_input():
    """Rescaling belongs to the official weights; a random network sees the normalised picture."""
    backbone = build_backbone("googlenet", "random", size=64)
    seen = []
    backbone.body.get_submodule("conv1.conv").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pictures = frames(1, 63)
    backbone.map(pictures)
    torch.testing.assert_close(seen[0], (pictures - backbone.mean) / backbone.std)


def test_failing_download_is_an_error_that_names_the_address_and_the_way_out(hub, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(BackboneError) as error:
        build_backbone("googlenet", "imagenet")
    for part in (GoogLeNet_Weights.DEFAULT.url, "no route to host", str(hub), "backbone.weights=random"):
        assert part in str(error.value)


def test_broken_official_file_is_a_backbone_error(hub):
    (hub / Path(GoogLeNet_Weights.DEFAULT.url).name).write_bytes(b"half a download")
    with pytest.raises(BackboneError, match="googlenet-"):
        build_backbone("googlenet", "imagenet")


# Errors


def test_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(BackboneError, match=r"backbone.name=googlenet_v9: .*googlenet, .*vgg11"):
        build_backbone("googlenet_v9", "random")


@pytest.mark.parametrize("name", ["raft_large", "fcn_resnet50", "r3d_18"])
def test_only_image_classifiers_are_known(name):
    assert name not in classification_networks()
    with pytest.raises(BackboneError, match="no such classification network"):
        build_backbone(name, "random")


def test_unknown_layer_is_refused():
    with pytest.raises(BackboneError, match="backbone.layer=features.99: mobilenet_v2 has no such node"):
        build_backbone(SMALL, "random", layer="features.99", size=64)


def test_transformer_without_a_map_is_refused():
    with pytest.raises(BackboneError, match="without a map of locations"):
        build_backbone("vit_b_16", "random")


def test_missing_file_is_refused_with_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError, match=f"nor an existing file .*{tmp_path}/absent.pth"):
        build_backbone(SMALL, "absent.pth")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", hashlib.sha256(b"noise").digest() * 40])
def test_files_that_hold_no_weights_are_refused(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(BackboneError, match=r"file.pth: not a file of weights"):
        build_backbone(SMALL, str(tmp_path / "file.pth"))


def test_folders_are_refused(tmp_path):
    with pytest.raises(BackboneError, match="not a file of weights"):
        build_backbone(SMALL, str(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)], ids=["list", "other dict", "tensor"])
def test_files_that_hold_something_else_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(BackboneError, match="holds no state dict"):
        build_backbone(SMALL, str(tmp_path / "file.pth"))


class Malicious:
    """Its pickle writes a file where it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"weight": Malicious(trace)}, tmp_path / "file.pth")
    with pytest.raises(BackboneError, match="not a file of weights"):
        build_backbone(SMALL, str(tmp_path / "file.pth"))
    assert not trace.exists()
    torch.load(tmp_path / "file.pth", weights_only=False)
    assert trace.exists()  # it would have run


def test_another_networks_file_is_refused(tmp_path, small_state):
    torch.save(small_state, tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=r"does not fit resnet18: .*is backbone.name right\?"):
        build_backbone("resnet18", str(tmp_path / "file.pth"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", r"does not fit mobilenet_v2: 'features.3.conv.0.0.weight' \(144, 24, 1, 1\) is missing"),
        ("unexpected", r"does not fit mobilenet_v2: 'features.99.weight' \(1,\) is no tensor of it"),
        ("shape", r"'features.0.1.bias' has the shape \(11,\) instead of \(32,\); is backbone.name right\?"),
        ("empty", "holds no state dict"),
    ],
)
def test_files_that_almost_fit_are_refused(tmp_path, small_state, change, says):
    state = dict(small_state)
    if change == "missing":
        del state["features.3.conv.0.0.weight"]
    elif change == "unexpected":
        state["features.99.weight"] = torch.zeros(1)
    elif change == "shape":
        state["features.0.1.bias"] = torch.zeros(11)
    else:
        state = {}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=says):
        build_backbone(SMALL, str(tmp_path / "file.pth"))
