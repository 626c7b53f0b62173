"""The attention overlay against scikit-image, filmstrips, and which videos a run draws."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.filters import gaussian
from skimage.transform import pyramid_expand, resize

from datamodules import videofolder
from datamodules.blocks import BlockIndex, Span
from datamodules.decoding import VideoError, read_frames
from datamodules.features import FeatureStore
from datamodules.videos import Video
from lightning_modules.attention import SoftAttentionLSTM
from lightning_modules.baselines import PooledLSTM
from lightning_modules.frames import pool_frames, run_blocks
from reproduce.common.files import safe_name
from reproduce.experiments.folder import RunFolder
from reproduce.visual.overlay import GAP, expand, filmstrip, overlay
from reproduce.visual.recordings import choose, draw_filmstrips, look, read_some

# A softmax over 49 cells, sharp in one corner and beside the middle.
MAP = np.exp(np.cos(np.arange(49) ** 2 / 5).reshape(7, 7) * 2)
MAP[0, 0], MAP[3, 4] = 20, 30
MAP /= MAP.sum()


def random_frame(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def recipe(frame, alpha, upscale):
    """The notebook's lines, with scikit-image, in real numbers."""
    light = pyramid_expand(alpha, upscale=upscale, sigma=20)
    return 0.8 * 255 * (light / light.max())[:, :, None] + 0.2 * frame


def test_the_overlay_is_the_notebooks_recipe():
    frame = random_frame(224, 224)
    drawn = overlay(frame, MAP)
    assert drawn.shape == (224, 224, 3) and drawn.dtype == np.uint8
    assert np.abs(drawn - recipe(frame, MAP, 32)).max() <= 0.5 + 1e-9  # of 255: what rounding takes
    np.testing.assert_allclose(expand(MAP, 224, 224), pyramid_expand(MAP, upscale=32, sigma=20), atol=1e-12)


@pytest.mark.parametrize(("grid", "upscale"), [((14, 14), 16), ((4, 6), 32), ((1, 3), 32), ((2, 1), 8), ((5, 5), 44.8)])
def test_other_grids_draw_the_same(grid, upscale):
    alpha = np.random.default_rng(1).dirichlet(np.ones(grid[0] * grid[1])).reshape(grid)
    frame = random_frame(*(round(upscale * cells) for cells in grid))
    assert np.abs(overlay(frame, alpha) - recipe(frame, alpha, upscale)).max() <= 0.5 + 1e-9


def test_frames_that_are_no_multiple_of_the_map_are_filled():
    expected = gaussian(resize(MAP, (120, 161), order=1, mode="reflect", anti_aliasing=False), sigma=9, mode="reflect")
    np.testing.assert_allclose(expand(MAP, 120, 161, sigma=9), expected, atol=1e-12)


def test_the_brightest_spot_is_white_and_the_minimum_is_not_subtracted():
    black = overlay(np.zeros((224, 224, 3), dtype=np.uint8), MAP)
    assert black.max() == 204 and black.min() > 0
    assert overlay(np.full((224, 224, 3), 255, dtype=np.uint8), MAP).max() == 255
    middle = overlay(np.zeros((224, 224, 3), dtype=np.uint8), np.eye(7)[3][:, None] * np.eye(7)[3])[:, :, 0]
    assert middle[112, 112] == 204 and middle[0, 0] == 0
    np.testing.assert_array_equal(middle, middle[::-1, ::-1])


def test_uniform_attention_greys_the_frame_evenly():
    frame = random_frame(96, 128)
    np.testing.assert_array_equal(overlay(frame, np.full((7, 7), 1 / 49)), np.rint(204 + 0.2 * frame))


def test_a_filmstrip_has_a_column_per_frame_with_the_original_above():
    frames = np.stack([random_frame(32, 48, seed) for seed in range(3)])
    maps = np.random.default_rng(2).random((3, 4, 6))
    strip = filmstrip(frames, maps)
    assert strip.shape == (64 + GAP, 3 * 48 + 2 * GAP, 3) and strip.dtype == np.uint8
    for column in range(3):
        across = slice(column * (48 + GAP), column * (48 + GAP) + 48)
        np.testing.assert_array_equal(strip[:32, across], frames[column])
        np.testing.assert_array_equal(strip[32 + GAP :, across], overlay(frames[column], maps[column]))
    assert (strip[32 : 32 + GAP] == 255).all() and (strip[:, 48 : 48 + GAP] == 255).all()


def test_the_first_video_of_the_first_four_classes_is_drawn():
    names = {"b/2": (0,), "b/1": (0, 1), "a/9": (1,), "a/0": (4,), "e/0": (3,), "f/0": (5,)}
    videos = [Video(name, labels, name) for name, labels in names.items()]
    classes = ("walk", "run", "nobody's", "jump", "dive", "zoom")  # by name: dive, jump, nobody's, run, walk, zoom
    assert [videos[number].name for number in choose(videos, classes)] == ["a/0", "e/0", "a/9", "b/1"]
    assert choose(videos[:1], classes) == [0] and choose([], classes) == []


@pytest.mark.parametrize(("length", "skip"), [(40, 1), (160, 5), (9, 1), (1, 1)])
def test_attention_is_that_of_the_first_tested_block(tmp_path, length, skip):
    torch.manual_seed(0)
    store = FeatureStore(tmp_path)
    store.manifest |= {"grid": [2, 3], "channels": 5}
    writer = store.writer("v")
    X = torch.randn(length, 6, 5).half()
    writer.append(X.numpy())
    writer.close()
    network = SoftAttentionLSTM(6, 5, 3, hidden_dim=8, num_layers=2)  # drops out, as after training
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    state = torch.get_rng_state()
    frames, maps = look(network, store, "v", skip)
    assert torch.equal(torch.get_rng_state(), state)
    tested, *_ = BlockIndex([length], skip).stretch(Span(0, 0, 1))
    np.testing.assert_array_equal(frames, tested)
    expected = run_blocks(network.eval(), pool_frames(X[frames][None], network.inputs)).attention
    np.testing.assert_allclose(maps.reshape(30, 6), expected[0].detach().numpy(), rtol=1e-5, atol=1e-7)
    assert maps.shape == (30, 2, 3) and maps.std() > 0.01


def test_frames_are_those_of_the_video_and_too_few_are_an_error(clips):
    path = clips / "clips/class0/clip0.avi"
    every = list(read_frames(path, 224))
    np.testing.assert_array_equal(read_some(path, np.asarray([0, 7, 7])), np.stack([every[0], every[7], every[7]]))
    with pytest.raises(VideoError, match=rf"clip0.avi: has no frame {len(every)}"):
        read_some(path, np.asarray([0, len(every)]))


def test_a_finished_run_holds_filmstrips_of_its_test_videos(trained):
    folder = RunFolder((trained / "run").resolve())
    captions, scored = folder.about()["filmstrips"], folder.predictions()
    assert len(captions) == 3 == len(list((folder.path / "attention").glob("*.png")))
    for number, (name, caption) in enumerate(captions.items(), start=1):
        video, said = caption.split(": ", 1)
        position = scored.videos.index(video)
        assert video == min(other for other in scored.videos if other.startswith(f"class{number - 1}/"))
        assert Path(name).as_posix() == f"attention/{number}-{safe_name(video)}.png"
        assert said == f"class{number - 1}; predicted: {scored.classes[scored.scores[position].argmax()]}"
        with Image.open(folder.path / name) as picture:
            strip = np.asarray(picture)
        assert strip.shape == (2 * 224 + GAP, 6 * 224 + 5 * GAP, 3)


def test_a_video_that_went_is_left_out_and_networks_without_attention_have_no_filmstrips(trained, clips, tmp_path, capsys):
    store = FeatureStore(trained / "features/miniature/clips/mobilenet_v3_small-random")
    shutil.copytree(clips / "clips", tmp_path / "clips")
    annotation = videofolder.read(tmp_path / "clips", "default")
    data = SimpleNamespace(annotation=annotation, store=store, skip=1)
    gone = annotation.test[choose(annotation.test, annotation.classes)[1]]
    annotation.path(gone).unlink()
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    predicted = torch.zeros(len(annotation.test), dtype=torch.int64)
    network = SoftAttentionLSTM(store.grid[0] * store.grid[1], store.channels, 3, hidden_dim=8)
    captions = draw_filmstrips(folder, network, data, predicted)
    assert [Path(name).name.split("-")[0] for name in captions] == ["1", "3"]
    assert all((folder.path / name).is_file() and text.endswith("predicted: class0") for name, text in captions.items())
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"attention on {gone.name} is not drawn" in said
    baseline = PooledLSTM(store.channels, 3, "mean", hidden_dim=8)
    assert draw_filmstrips(RunFolder(tmp_path / "other"), baseline, data, predicted) == {}

    data.annotation = replace(annotation, multi_label=True)
    several = torch.zeros(len(annotation.test), 3, dtype=torch.bool)
    several[:, 1:] = True
    assert {text.split("predicted: ")[1] for text in draw_filmstrips(folder, network, data, several).values()} == {
        "class1, class2"
    }
    said = draw_filmstrips(folder, network, data, torch.zeros_like(several)).values()
    assert {text.split("predicted: ")[1] for text in said} == {"none"}
