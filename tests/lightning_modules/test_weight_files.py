"""Files of weights as people have them: what holds the right body loads, and what does not is told by its name."""

import sys
import zlib

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from torchvision.models import get_model

from lightning_modules.backbone import BackboneError, build_backbone

SMALL = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return get_model(SMALL, weights=None).state_dict()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def of_classes(state: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    return state | {"classifier.3.weight": torch.zeros(classes, 1024), "classifier.3.bias": torch.zeros(classes)}


def headless(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("classifier")}


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}


FITTING = {
    "plain": lambda state: state,
    "fine-tuned to 101 classes": lambda state: of_classes(state, 101),
    "headless": headless,
    "of DataParallel": lambda state: prefixed("module.", state),
    "compiled and distributed": lambda state: prefixed("module._orig_mod.", state),
    "beside another head": lambda state: prefixed("backbone.", headless(state)) | {"head.weight": torch.zeros(5, 576)},
    "nested": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}, "param_groups": []}},
    "of Lightning": lambda state: {
        "state_dict": prefixed("model.", state) | {"criterion.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.0",
        "optimizer_states": [{"state": {}}],
        "loops": {},
    },
    "under model": lambda state: {"model": state},
    "beside its moving average": lambda state: {"model_ema": {"x": torch.zeros(1)}, "model": state},
    "under a name of its own": lambda state: {"my_net": state, "epoch": 1},
}


@pytest.mark.counts("files of weights")
@pytest.mark.parametrize("kind", FITTING)
def test_what_holds_the_right_body_loads(tmp_path, state, kind):
    torch.save(FITTING[kind](state), tmp_path / "weights.pth")
    own = build_backbone(SMALL, str(tmp_path / "weights.pth"), size=64).state_dict()
    body = {name.removeprefix("body."): value for name, value in own.items() if name.startswith("body.")}
    assert "features.12.0.weight" in body and not any(name.startswith("classifier") for name in body)
    assert all(torch.equal(value, state[name]) for name, value in body.items())


@pytest.mark.counts("files of weights")
@pytest.mark.parametrize("change", [dict, half])
def test_safetensors_load(tmp_path, state, change):
    (tmp_path / "x.safetensors").write_bytes(save(change(state)))
    own = build_backbone(SMALL, str(tmp_path / "x.safetensors"), size=64).state_dict()
    name = "features.12.0.weight"
    assert torch.equal(own[f"body.{name}"], change(state)[name].float())
    assert torch.equal(own["body.features.0.1.num_batches_tracked"], state["features.0.1.num_batches_tracked"])


def test_safetensors_need_their_library(tmp_path, state, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(save(state))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(BackboneError, match=r"pip install -e '\.\[weights\]'"):
        build_backbone(SMALL, str(tmp_path / "x.safetensors"), size=64)


def test_layers_after_the_cut_are_not_needed(tmp_path, state):
    early = {name: value for name, value in state.items() if int(name.split(".")[1]) <= 3 and name.startswith("features")}
    torch.save(early, tmp_path / "weights.pth")
    assert build_backbone(SMALL, str(tmp_path / "weights.pth"), "features.3", 64).sha256()
    with pytest.raises(BackboneError, match=r"'features\.4\.block\.0\.0\.weight' \(96, 24, 1, 1\) is missing"):
        build_backbone(SMALL, str(tmp_path / "weights.pth"), "features.4", 64)


NO_WEIGHTS = {
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n", "Git LFS pointer"),
    "a web page": (b"\n<!DOCTYPE html><html>Google Drive - Virus scan warning</html>", "web page"),
    "an error of a cloud": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "nothing": (b"", "it is empty"),
    "noise": (zlib.compress(b"noise"), "that torch can load"),
}


@pytest.mark.counts("files of weights")
@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file_of_weights_is_called_what_it_is(tmp_path, kind, suffix):
    content, says = NO_WEIGHTS[kind]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(BackboneError) as error:
        build_backbone(SMALL, str(path), size=64)
    assert f"backbone.weights={path}: not a file of weights" in str(error.value) and "\n" not in str(error.value)
    assert says in str(error.value) or (kind == "noise" and suffix == ".safetensors")


@pytest.mark.counts("files of weights")
@pytest.mark.parametrize("kind", ["whole module", "TorchScript"])
def test_a_file_that_needs_code_is_told_with_what_to_do(tmp_path, kind):
    module = torch.nn.Linear(2, 2)
    if kind == "TorchScript":
        torch.jit.save(torch.jit.script(module), tmp_path / "file.pt")
    else:
        torch.save(module, tmp_path / "file.pt")
    with pytest.raises(BackboneError, match=r"torch\.save\(model\.state_dict\(\), <file>\)") as error:
        build_backbone(SMALL, str(tmp_path / "file.pt"), size=64)
    assert ("TorchScript program" if kind == "TorchScript" else "it needs code (torch.nn.modules.linear.Linear)") in str(
        error.value
    )


@pytest.mark.counts("files of weights")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content[:200], "a damaged .safetensors file"),
        (lambda content: content[:-100], "a damaged .safetensors file"),
        (lambda content: content.replace(b'"F32"', b'"F99"', 1), "a damaged .safetensors file .*F99"),
        (lambda content: content.replace(b"[16,3,3,3]", b"[16,3,3,9]", 1), "a damaged .safetensors file"),
        (lambda content: b"\xff" * 7 + b"\x7f{}", "a damaged .safetensors file"),
        (lambda content: b"\x02" + b"\0" * 7 + b"{}", "holds no state dict"),
    ],
)
def test_damaged_safetensors_are_told(tmp_path, state, change, says):
    (tmp_path / "x.safetensors").write_bytes(change(save(state)))
    with pytest.raises(BackboneError, match=says):
        build_backbone(SMALL, str(tmp_path / "x.safetensors"), size=64)


@pytest.mark.counts("files of weights")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mobilenet_v2", r"'features\.0\.0\.weight' has the shape \(32, 3, 3, 3\) instead of \(16, 3, 3, 3\)"),
        ("squeezenet1_1", r"'features\.0\.0\.weight'; its first one is 'features\.0\.weight' \(64, 3, 3, 3\)"),
    ],
)
def test_another_network_s_file_is_told_by_a_tensor_and_both_shapes(tmp_path, name, says):
    torch.save(get_model(name, weights=None).state_dict(), tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=f"does not fit {SMALL}: .*{says}"):
        build_backbone(SMALL, str(tmp_path / "file.pth"), size=64)


def test_a_deeper_network_s_file_is_refused(tmp_path):
    """It has all of the shallower one's names, in the same shapes."""
    torch.save(get_model("resnet101", weights=None).state_dict(), tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=r"resnet50: 'layer3\.6\.conv1\.weight' \(256, 1024, 1, 1\) is no tensor"):
        build_backbone("resnet50", str(tmp_path / "file.pth"), size=64)


def test_two_networks_in_one_file_are_told_apart_by_nobody(tmp_path, state):
    torch.save(prefixed("student.", state) | prefixed("teacher.", state), tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=r"two such networks, under 'student\.' and 'teacher\.'"):
        build_backbone(SMALL, str(tmp_path / "file.pth"), size=64)


def test_a_name_that_parts_of_a_network_share_is_no_prefix(tmp_path):
    state = get_model("resnet18", weights=None).state_dict()
    torch.save(prefixed("module.", state), tmp_path / "file.pth")
    own = build_backbone("resnet18", str(tmp_path / "file.pth"), "relu", 64).state_dict()
    assert torch.equal(own["body.conv1.weight"], state["conv1.weight"])
