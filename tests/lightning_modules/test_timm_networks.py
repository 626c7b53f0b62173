"""Networks of timm as backbones: which tokens become cells, which input they get, whose weights, and what is refused."""

import sys

import pytest
import torch

from lightning_modules.backbone import BackboneError, calibrate, folded
from lightning_modules.timm_networks import build_timm, own_size, pretrained_on

timm = pytest.importorskip("timm")
torch.set_num_threads(1)

VIT, CNN = "vit_tiny_patch16_224", "resnet10t"


def frames(size: int, number: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size", "grid", "channels"),
    [
        (VIT, 64, (4, 4), 192),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 112, (8, 8), 384),  # one class token, four registers
        ("deit_tiny_distilled_patch16_224", 64, (4, 4), 192),  # class token and distillation token
        (CNN, 96, (3, 3), 512),
        ("convnext_atto", 64, (2, 2), 320),
        ("swin_tiny_patch4_window7_224", 224, (7, 7), 768),  # channels last
    ],
)
def test_tokens_and_maps_become_the_cells_of_a_grid(name, size, grid, channels):
    backbone = build_timm(name, "random", size)
    assert backbone.map(frames(size)).shape == (2, channels, *grid)
    assert backbone(frames(size)).shape == (2, grid[0] * grid[1], channels)
    assert not any(parameter.requires_grad for parameter in backbone.parameters()) and not backbone.training


def test_a_vits_cells_are_its_patch_tokens_row_by_row():
    backbone = build_timm(VIT, "random", 96)
    network, given = backbone.body.network, frames(96)
    with torch.no_grad():
        tokens = network.forward_features((given.float() - backbone.mean) / backbone.std)
    assert tokens.shape == (2, 1 + 36, 192) and torch.equal(backbone(given), tokens[:, 1:])
    # A patch is embedded where its cell lies: the second of the third row is cell 2 · 6 + 1.
    lit = torch.zeros(1, 3, 96, 96)
    lit[:, :, 32:48, 16:32] = 1
    embedded = network.patch_embed(lit) - network.patch_embed(torch.zeros_like(lit))
    assert embedded.abs().sum(dim=2)[0].nonzero().flatten().tolist() == [13]


def test_inputs_are_normalised_as_the_networks_own_weights_expect():
    clip = build_timm("vit_base_patch16_clip_224.openai", "random", 32)
    assert (clip.mean.flatten() / 255).tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert (build_timm(VIT, "random", 32).mean.flatten() / 255).tolist() == pytest.approx([0.5] * 3)
    assert (own_size("vit_small_patch14_reg4_dinov2.lvd142m"), own_size(VIT), own_size(CNN)) == (518, 224, 176)
    assert (pretrained_on("vit_base_patch16_clip_224.openai"), pretrained_on(CNN)) == ("openai", "c3_in1k")


def test_random_weights_depend_on_the_seed_alone():
    one, same, other = (build_timm(VIT, "random", 32, seed) for seed in (1, 1, 2))
    assert one.sha256() == same.sha256() != other.sha256()
    before = torch.random.get_rng_state()
    build_timm(CNN, "random", 64)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_random_network_is_calibrated_and_its_copy_computes_the_same():
    backbone = build_timm(CNN, "random", 64)
    before = backbone(frames(64))
    calibrate(backbone, frames(64, 8))
    after = backbone(frames(64))
    assert not torch.allclose(before, after) and 0.1 < float(after.std()) < 10
    assert torch.equal(folded(backbone)(frames(64)), after)


@pytest.mark.parametrize("name", [VIT, CNN])
def test_a_file_of_the_network_gives_its_features_with_its_head_or_without(name, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = timm.create_model(name)
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    network.reset_classifier(0)
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "bare.pth")
    whole, bare = (build_timm(name, str(tmp_path / f"{kind}.pth"), 64) for kind in ("whole", "bare"))
    assert torch.equal(whole(frames(64)), bare(frames(64))) and whole.sha256() == bare.sha256()
    assert not torch.allclose(whole(frames(64)), build_timm(name, "random", 64)(frames(64)))


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    ("name", "weights", "size", "said"),
    [
        ("vit_tiny_patch16_225", "random", 64, "timm has|has no such network; did you mean vit_tiny_patch16_224"),
        (f"{VIT}.nobody", "random", 64, "has no such network; did you mean vit_tiny_patch16_224"),
        (VIT, "random", 65, "patches of 16 pixels; take a multiple"),
        (VIT, "random", 16, "ends without a map of locations"),
        ("levit_128s", "random", 80, "gives no map of such images .*its own size is 224"),
        (VIT, "nowhere.pth", 64, "nor an existing file"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_to_write(name, weights, size, said):
    with pytest.raises(BackboneError, match=said):
        build_timm(name, weights, size)


@pytest.mark.counts("bad settings")
def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_384").state_dict(), tmp_path / "other.pth")
    with pytest.raises(BackboneError, match=rf"does not fit timm:{VIT}: .*pos_embed.* has the shape"):
        build_timm(VIT, str(tmp_path / "other.pth"), 224)


@pytest.mark.counts("missing libraries")
def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (lambda: build_timm(VIT, "random", 64), lambda: own_size(VIT)):
        with pytest.raises(BackboneError, match=r"timm:vit_tiny_patch16_224: timm is not installed .*'.\[timm\]'"):
            call()


@pytest.mark.counts("faults of servers")
def test_weights_that_cannot_be_fetched_are_told_with_what_else_there_is(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(BackboneError, match=r"timm's weights of resnet10t could not be fetched .*no route.*weights=random"):
        build_timm(CNN, "imagenet", 64)
