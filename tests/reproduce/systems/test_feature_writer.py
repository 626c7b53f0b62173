"""Extraction: features near single precision, the same whatever came with a frame, and errors of the writing thread."""

import threading

import numpy as np
import pytest
import torch
from coloured_videos import stamped, write_video
from conftest import SHARED

from datamodules.decoding import VideoInfo, probe, read_frames
from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError
from datamodules.frames import FramePacket, Segment
from datamodules.growing import GrowingArray
from datamodules.videos import Annotation
from lightning_modules.backbone import build_backbone, calibrate, folded
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings
from reproduce.systems import cnn_features as extraction
from reproduce.systems.feature_writer import FeatureExtractor, FeatureWriter, Prediction, Stopwatch
from reproduce.systems.preemption import LostProcess

CLIPS = SHARED / "data/clips"
WEIGHTS = SHARED / "weights/mobilenet_v2_imagenet_fp16.pth"
END = VideoInfo(30.0, 64, 48, 3)


def images(count: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth pictures; noise is what no network was made for."""
    rough = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, size, mode="bilinear")
    return (255 * smooth).byte().contiguous(memory_format=torch.channels_last)


def extractor(backbone, precision="fp32", compiled=False, packet=8) -> FeatureExtractor:
    return FeatureExtractor(backbone, precision, compiled, packet, Stopwatch())


def features_of(module: FeatureExtractor, frames: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.predict_step(FramePacket(frames, []), 0).features


def cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(one.flatten(1).float(), other.flatten(1).float())


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="../shared is absent")
def test_half_precision_features_of_real_frames_stay_within_cosine_0_999_of_single_precision():
    backbone = build_backbone("mobilenet_v2", str(WEIGHTS))
    frames = np.stack(list(read_frames(CLIPS / "v_biking_01_01.mpg", 224)))[::50]
    frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
    single, half = (features_of(extractor(backbone, name, packet=len(frames)), frames) for name in ("fp32", "fp16"))
    assert len(single) == 4 and cosines(single, half).min() > 0.999
    cosine = extraction.kept_cosine(backbone, frames, "bf16", torch.device("cpu"))
    assert 0.97 < cosine < 0.999  # so that auto does not take it for this network
    assert extraction.kept_cosine(backbone, frames, "fp16", torch.device("cpu")) == pytest.approx(
        float(cosines(single, half).min()), abs=1e-4
    )


@pytest.mark.parametrize("name", ["bvlc_googlenet", "mobilenet_v3_small", "convnext_tiny"])
def test_weights_are_cast_once_to_what_autocast_casts_them_to(name):
    backbone = build_backbone(name, "random", size=64, authors_resize=False)
    calibrate(backbone, images(4))
    frames = images(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = folded(backbone)(frames).half()
    module = extractor(backbone, "bf16", packet=2)
    assert features_of(module, frames).equal(expected)
    products = [one for one in module.backbone.modules() if isinstance(one, torch.nn.Conv2d | torch.nn.Linear)]
    assert {one.weight.dtype for one in products} == {torch.bfloat16}
    assert {one.dtype for one in backbone.parameters()} == {torch.float32}, "the network itself stays as it is"


@pytest.mark.parametrize(
    ("hardware", "cosine", "asked", "taken"),
    [
        ("bf16", 0.9991, "auto", "bf16"),
        ("bf16", 0.9989, "auto", "fp32"),
        ("fp16", 0.9999, "auto", "fp16"),
        (None, 1.0, "auto", "fp32"),
        ("bf16", 0.5, "bf16", "bf16"),
        ("bf16", 1.0, "fp32", "fp32"),
    ],
)
def test_auto_takes_half_precision_only_if_a_trial_keeps_the_features(
    tmp_path, monkeypatch, capsys, hardware, cosine, asked, taken
):
    monkeypatch.setattr(extraction, "half_precision", lambda on_gpu: hardware)
    monkeypatch.setattr(extraction, "kept_cosine", lambda *arguments: cosine)
    monkeypatch.setattr(extraction, "calibration_frames", lambda annotation, size: images(20))
    monkeypatch.setattr(extraction, "estimated_frames", lambda annotation, names: 10)
    settings = resolve(Settings, [f"backbone.precision={asked}", "backbone.compile=auto"])
    assert extraction._how(settings, None, FeatureStore(tmp_path / "new"), [], None) == (taken, False)
    assert (f"{cosine:.4f}" in capsys.readouterr().out) == (asked == "auto" and hardware is not None)


def test_a_store_goes_on_in_the_precision_it_was_begun_in(tmp_path):
    store = FeatureStore(tmp_path / "store")
    about = {"notes": [], "precision": "bf16", "compiled": True}
    store.create(FeatureSpec("googlenet", "random:0", None, 64), (2, 2), 3, about)
    settings = resolve(Settings, ["backbone.precision=fp32", "backbone.compile=false"])
    assert extraction._how(settings, None, FeatureStore(store.path), [], None) == ("bf16", True)


def test_one_process_alone_begins_a_store_and_the_others_wait_for_what_it_decided(tmp_path, monkeypatch):
    """Those that torchrun or srun starts at the same moment: only the first calibrates and tries half precision."""
    spec = FeatureSpec("googlenet", "random:0", None, 64)
    about = {"notes": [], "precision": "fp16", "compiled": False}
    begin = threading.Timer(0.3, lambda: FeatureStore(tmp_path / "store").create(spec, (2, 2), 3, about))
    begin.start()
    store = extraction._begun(tmp_path / "store")
    begin.join()
    monkeypatch.setattr(extraction, "kept_cosine", lambda *given: pytest.fail("tried a second time"))
    assert extraction._how(resolve(Settings, []), None, store, [], None) == ("fp16", False)
    monkeypatch.setattr(extraction, "BEGINNING", 0.1)
    with pytest.raises(LostProcess, match="has not begun .*nowhere in 0 s"):
        extraction._begun(tmp_path / "nowhere")


@pytest.mark.parametrize(("frames", "compiled"), [(19_000, False), (21_000, True), (None, False)])
def test_a_network_is_compiled_where_the_frames_repay_it(tmp_path, monkeypatch, frames, compiled):
    monkeypatch.setattr(extraction, "estimated_frames", lambda annotation, names: frames)
    monkeypatch.setattr(extraction, "uses_gpu", lambda settings: False)
    monkeypatch.setattr(extraction.shutil, "which", lambda name: f"/usr/bin/{name}")
    settings = resolve(Settings, ["backbone.precision=fp32"])
    assert extraction._how(settings, None, FeatureStore(tmp_path / "new"), [], None) == ("fp32", compiled)


@pytest.mark.counts("strange videos")
def test_one_lying_header_decides_neither_on_space_nor_on_compilation(tmp_path):
    """A header that claims 2^32 - 1 frames, and one that claims ten times what the file has, among seven films."""
    names, lies = [f"{number}.avi" for number in range(9)], {0: 2**32 - 1, 4: 1200}
    for number, name in enumerate(names):
        path = write_video(tmp_path / name, map(stamped, range(120)))
        assert probe(path).expected_frames == 120
        data = bytearray(path.read_bytes())
        for at in (data.index(b"avih") + 24, data.index(b"vids") + 32):
            assert int.from_bytes(data[at : at + 4], "little") == 120
            data[at : at + 4] = lies.get(number, 120).to_bytes(4, "little")
        path.write_bytes(data)
    annotation = Annotation("demo", "1", tmp_path, tmp_path, ("a", "b"), False, (), ())
    assert extraction.estimated_frames(annotation, names) == 9 * 120
    assert extraction.estimated_frames(annotation, names[:1]) <= (tmp_path / names[0]).stat().st_size / 8
    assert extraction.estimated_frames(annotation, ["missing.avi"]) is None


def test_what_is_damaged_in_a_kept_video_stands_in_the_store(tmp_path):
    store = FeatureStore(tmp_path)
    store.create(FeatureSpec("googlenet", "random:0", None, 64), (2, 2), 3, {"notes": []})
    writer = FeatureWriter(tmp_path, ["a.avi", "b.avi"], [10, 20], Stopwatch())
    writer.store = store
    segments = [Segment(0, 2, True, END), Segment(1, 1, True, END, damage="0.8 s are missing after 1.6 s")]
    writer._write(Prediction(torch.ones(3, 4, 3, dtype=torch.float16), None), segments, 0)
    store.merge()
    assert FeatureStore(tmp_path).damaged_files == {"b.avi": "0.8 s are missing after 1.6 s"}
    assert "damage" not in FeatureStore(tmp_path).videos["a.avi"]


def test_folding_batch_norms_changes_nothing():
    for name in ("googlenet", "mobilenet_v2", "resnet18"):
        backbone = build_backbone(name, "random", size=64)
        calibrate(backbone, images(8))
        fast = folded(backbone)
        assert not [module for module in fast.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        with torch.no_grad():
            torch.testing.assert_close(fast(images(2, seed=1)), backbone(images(2, seed=1)), rtol=1e-3, atol=1e-4)
        assert [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_a_frames_features_do_not_depend_on_the_frames_that_came_with_it():
    module = extractor(build_backbone("mobilenet_v3_small", "random", "features.3", 64))
    frames = images(8)
    together = features_of(module, frames)
    for count in (1, 3, 7):
        assert torch.equal(features_of(module, frames[:count]), together[:count])
    shifted = frames.roll(3, 0).contiguous(memory_format=torch.channels_last)
    assert torch.equal(features_of(module, shifted), together.roll(3, 0))


def test_no_frames_give_no_features():
    module = extractor(build_backbone("mobilenet_v3_small", "random", "features.3", 64))
    assert len(features_of(module, images(1)[:0])) == 0


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_features():
    backbone = build_backbone("mobilenet_v3_small", "random", "features.1", 32)
    frames = images(5, 32)
    plain, compiled = (features_of(extractor(backbone, compiled=flag), frames) for flag in (False, True))
    torch.testing.assert_close(compiled.float(), plain.float(), rtol=2e-3, atol=2e-3)


@pytest.fixture
def writer(tmp_path):
    """A writer in the middle of a prediction, without a Trainer's loop around it."""
    store = FeatureStore(tmp_path / "store")
    store.create(FeatureSpec("googlenet", "random:0", None, 64), (2, 2), 3, {"notes": []})
    made = FeatureWriter(store.path, ["a.mp4", "b.mp4"], [10, 10], Stopwatch())
    trainer = type("Trainer", (), {"is_global_zero": False, "global_rank": 0, "world_size": 1})()
    made.on_predict_start(trainer, None)
    yield made, trainer
    made.drop()


def hand_over(writer, trainer, features, segments) -> None:
    prediction = type("P", (), {"features": torch.as_tensor(features), "ready": None})()
    packet = FramePacket(torch.empty(0), segments)
    writer.write_on_batch_end(trainer, None, prediction, None, packet, 0, 0)


def test_videos_across_packets_are_written_whole_and_a_broken_one_is_entered_as_bad(writer):
    made, trainer = writer
    cubes = np.random.default_rng(0).random((5, 4, 3)).astype(np.float16)
    hand_over(made, trainer, cubes[:2], [Segment(0, 2, True)])
    hand_over(made, trainer, cubes[2:4], [Segment(0, 1, False, END), Segment(1, 1, True)])
    hand_over(made, trainer, cubes[4:], [Segment(1, 1, False), Segment(1, 0, False, error="frame 2 does not decode")])
    made.on_predict_end(trainer, None)
    store = FeatureStore(made.path)
    assert np.array_equal(store.read("a.mp4"), cubes[:3]) and store.frames("a.mp4") == 3
    assert store.bad == {"b.mp4": "frame 2 does not decode"}
    assert not list(made.path.rglob("*.part"))


def test_an_error_of_the_writing_thread_reaches_the_main_one_and_leaves_no_part(writer):
    made, trainer = writer
    bad = np.full((2, 4, 3), np.nan, dtype=np.float16)
    with pytest.raises(FeatureStoreError, match="a.mp4: features of frame 0 are not finite"):
        hand_over(made, trainer, bad, [Segment(0, 2, True)])
        made.on_predict_end(trainer, None)
    made.drop()
    assert not list(made.path.rglob("*.part")) and not FeatureStore(made.path).videos


def test_an_error_that_cuts_the_dropping_short_leaves_no_part_either(writer, monkeypatch):
    """A decoding process's death is raised wherever the main process is, once."""
    made, trainer = writer
    cubes = np.ones((2, 4, 3), dtype=np.float16)
    hand_over(made, trainer, cubes, [Segment(0, 1, True), Segment(1, 1, True)])
    made.waiting[0].result()
    assert len(list(made.path.rglob("*.part"))) == 4
    discard, died = GrowingArray.discard, ["DataLoader worker is killed"]

    def cut_short(array: GrowingArray) -> None:
        if died:
            raise RuntimeError(died.pop())
        discard(array)

    monkeypatch.setattr(GrowingArray, "discard", cut_short)
    with pytest.raises(RuntimeError, match="is killed"):
        made.drop()
    made.drop()
    assert not list(made.path.rglob("*.part"))


def test_every_moment_belongs_to_one_part_of_the_work(monkeypatch):
    moments = iter([5.0, 6.0, 8.0, 11.0, 15.0, 20.0])
    stopwatch = Stopwatch()
    monkeypatch.setattr("reproduce.systems.feature_writer.time.perf_counter", lambda: next(moments))
    stopwatch.start()
    laps = [stopwatch.lap(name) for name in ("decode", "transfer", "network", "write", "network")]
    assert laps == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert stopwatch.seconds == {"decode": 1.0, "transfer": 2.0, "network": 8.0, "write": 4.0}
    assert stopwatch.summary() == "time went to decode 7%, transfer 13%, network 53%, write 27%"
