"""What a finished run leaves: its predictions, figures, attention and pictures by hand, and what run.json says of it."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from datamodules.features import FeatureStore
from datamodules.leaks import MARK
from lightning_modules.measures import NAMES, VideoMeasures
from lightning_modules.metrics import VideoScores
from reproduce.common.cli import resolve
from reproduce.common.dataset import feature_folder, feature_spec
from reproduce.common.settings import Settings, with_values
from reproduce.experiments.attention_files import counted_in, read_attended
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import run_folder
from reproduce.systems import base, devices
from reproduce.systems.cnn_features import EXTRACTION
from reproduce.systems.recurrent import RecurrentSystem, build_data, build_recognizer
from reproduce.visual.recordings import draw

CLASSES = ('<b> "x", y', "a|b", "🎬 ü")  # as they are sorted
GRID, CHANNELS = (2, 3), 4
WORDS = [
    "data.name=videofolder",
    "data.folder=my clips",
    "backbone.name=googlenet",
    "backbone.weights=random",
    "model.hidden_dim=4",
    "model.num_layers=1",
]
WORDS += ["row=soft_attention_0", "trainer.accelerator=cpu"]
FRAMES = 4
TEST = [f"class{label}/clip{number}.avi" for label in range(3) for number in (0, 1)]


def draw_noise(path: Path, seed: int) -> None:
    """A clip of noise that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in np.random.default_rng(seed).integers(0, 255, (FRAMES, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Nine drawn clips of three classes of odd names, two of each for the test, and features of them."""
    root = tmp_path_factory.mktemp("outcome")
    folder = root / "my clips"
    folder.mkdir()
    with (folder / "videos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", "group", "split"])
        for label, name in enumerate(CLASSES):
            for number in range(3):
                draw_noise(folder / f"class{label}/clip{number}.avi", 3 * label + number)
                side = "test" if number < 2 else "train"
                writer.writerow([f"class{label}/clip{number}.avi", name, f"{side} {label} <&>", side])
    settings = resolve(Settings, [*WORDS, f"paths.data={root}", f"paths.features={root / 'features'}"])
    store = FeatureStore(feature_folder(settings))
    extraction = {"resize": "squash", "precision": "fp32", "decoder": "libavcodec 61", "more": 1}
    store.create(feature_spec(settings), GRID, CHANNELS, {"notes": ["of the features"], "weights_sha256": "ab", **extraction})
    random = np.random.default_rng(0)
    for path in sorted(folder.glob("*/*.avi")):
        writer = store.writer(path.relative_to(folder).as_posix())
        writer.append(random.normal(size=(FRAMES, GRID[0] * GRID[1], CHANNELS)))
        writer.close()
    store.merge()
    return root


def made(root: Path, *words: str):
    """Settings and data module; ``data.annotation`` may be changed before it is used."""
    settings = resolve(Settings, [*WORDS, f"paths.data={root}", f"paths.features={root / 'features'}", *words])
    return settings, build_data(settings)


def as_tested(settings, data, mean: list[list[float]] = (), attention: VideoMeasures | None = None) -> RecurrentSystem:
    """A system as it is after its test."""
    system = RecurrentSystem(settings, data)
    system.recognizer = build_recognizer(settings, data)
    scores = torch.tensor(mean, dtype=torch.float32)
    votes = torch.zeros(scores.shape, dtype=torch.int64)
    system.recognizer.scores, system.recognizer.attention = VideoScores(scores, votes), attention
    return system


def write_test(folder: RunFolder, settings, data, mean: list[list[float]], attention: VideoMeasures | None = None) -> dict:
    """What is written after a test; returns what of it goes into run.json."""
    system = as_tested(settings, data, mean, attention)
    system.describe(folder)
    return base._write_test(folder, system, np.asarray(mean, np.float32), data.annotation, draw)


def about(settings, data, folder: RunFolder | None = None) -> dict:
    """What run.json says of a run without a test."""
    system = as_tested(settings, data)
    return base._about(settings, data.annotation, {"cubes": data.store}, folder or RunFolder(Path("nowhere")), system)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


# after the test


def test_predictions_recalls_confusions_and_pictures_follow_from_the_scores(original, folder):
    """Of the first class both videos are right, of the second one, of the third none; nobody is of a fourth."""
    settings, data = made(original)
    data.annotation = replace(data.annotation, classes=(*CLASSES, "never seen"))
    scores = [
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.3, 0.2, 0.1],
        [0.1, 0.6, 0.2, 0.1],
        [0.5, 0.3, 0.1, 0.1],
        [0.1, 0.2, 0.3, 0.4],
        [0.1, 0.5, 0.3, 0.1],
    ]
    found = write_test(folder, settings, data, scores)
    assert found["per_class"] == {CLASSES[0]: 1.0, CLASSES[1]: 0.5, CLASSES[2]: 0.0, "never seen": None}
    assert found["confusion"] == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    back = folder.predictions()
    assert list(back.videos) == TEST and back.classes == (*CLASSES, "never seen")
    assert np.array_equal(back.scores, np.asarray(scores, np.float32))
    assert back.predicted == (*CLASSES[:1] * 2, CLASSES[1], CLASSES[0], "never seen", CLASSES[1])
    assert found["filmstrips"] == {
        "attention/1-class0-clip0.png": f"class0/clip0.avi: {CLASSES[0]}; predicted: {CLASSES[0]}",
        "attention/2-class1-clip0.png": f"class1/clip0.avi: {CLASSES[1]}; predicted: {CLASSES[1]}",
        "attention/3-class2-clip0.png": f"class2/clip0.avi: {CLASSES[2]}; predicted: never seen",
    }
    assert all((folder.path / name).is_file() for name in found["filmstrips"])
    assert folder.recordings.is_file() and len(list(folder.path.glob("attention/*.webp"))) == 3


def test_of_several_labels_average_precisions_stand_in_the_place_of_confusions(original, folder):
    """The first class's videos are at ranks 1 and 3: (1 + 2/3) / 2. The second's are at 1 and 2, the third's is the last."""
    settings, data = made(original, "row=avg_pool_lstm")
    labels = [(0, 1), (0,), (1,), (), (), (2,)]
    test = tuple(replace(video, labels=some) for video, some in zip(data.annotation.test, labels, strict=True))
    first, second, third = classes = ('"x", y', "🎬 ü", "<b>")
    data.annotation = replace(data.annotation, multi_label=True, test=test, classes=classes)
    scores = [[0.9, 0.8, 0.5], [0.5, 0.1, 0.4], [0.7, 0.7, 0.4], [0.1, 0.2, 0.3], [0.2, 0.3, 0.6], [0.3, 0.4, 0.2]]
    found = write_test(folder, settings, data, scores)
    assert found["per_class"] == {first: pytest.approx(5 / 6), second: 1.0, third: pytest.approx(1 / 6)}
    assert found["confusion"] is None and found["filmstrips"] == {}
    back = folder.predictions(sound=False)
    assert back.target.astype(int).tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert back.predicted == (f"{first}|{second}|{third}", first, f"{first}|{second}", "", third, "")


def measured(counts: list[int]) -> VideoMeasures:
    """Of each video so many blocks, steps and moves, none with a box; every figure is the video's number, from 1."""
    number = torch.tensor([[0 if counted_in(name) == "boxed_steps" else one for name in NAMES] for one in counts])
    return VideoMeasures(number.double() * torch.arange(1, len(counts) + 1)[:, None], number)


def test_what_was_measured_of_each_videos_attention_is_written(original, folder):
    settings, data = made(original)
    write_test(folder, settings, data, [[0.5, 0.3, 0.2]] * 6, measured([2, 2, 2, 2, 2, 10]))
    videos, means = read_attended(folder.attended)
    assert list(videos) == TEST
    unboxed = {name for name in NAMES if counted_in(name) != "boxed_steps"}
    assert means == dict.fromkeys(unboxed, (2 * (1 + 2 + 3 + 4 + 5) + 10 * 6) / 20)


@pytest.mark.parametrize("attention", [None, measured([0] * 6)], ids=["not measured", "nothing to measure"])
def test_a_network_without_attention_leaves_no_file_of_it(original, folder, attention):
    settings, data = made(original, "row=avg_pool_lstm")
    assert write_test(folder, settings, data, [[0.5, 0.3, 0.2]] * 6, attention)["filmstrips"] == {}
    assert not folder.attended.exists() and folder.predictions().videos == tuple(TEST)


def test_videos_that_went_after_the_test_cost_their_pictures_and_nothing_else(original, folder, tmp_path, capsys):
    shutil.copytree(original, tmp_path / "data")
    settings, data = made(tmp_path / "data")
    (tmp_path / "data/my clips" / TEST[0]).unlink()
    found = write_test(folder, settings, data, [[0.5, 0.3, 0.2]] * 6)
    said = capsys.readouterr().out
    assert f"{TEST[0]} is not recorded for the report's viewer: " in said and f"attention on {TEST[0]} is not drawn: " in said
    assert [name[:11] for name in found["filmstrips"]] == ["attention/2", "attention/3"]
    assert folder.predictions().videos == tuple(TEST) and found["per_class"][CLASSES[0]] == 1.0


# run.json


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_run_json_says_what_a_run_was_made_from(original, folder, no_gpu):
    settings, data = made(original, "data.stride=4", "trainer.devices=2", "trainer.num_nodes=3")
    found = about(settings, data)
    expected = {
        "data": "my clips",
        "split": "default",
        "system": "soft_attention",
        "stores": ["cubes"],
        "threshold": 0.5,
        "miniature": False,
        "multi_label": False,
        "classes": list(CLASSES),
        "map": [2, 3, 4],
        "notes": ["of the features"],
        "stride": 4,
        "train_videos": 3,
        "test_videos": 6,
        "groups": {name: f"test {name[5]} <&>" for name in TEST},
        "features": {"backbone": "googlenet", "weights": "random:0", "layer": None, "size": 224},
        "weights_sha256": "ab",
        "features_made_by": {
            "resize": "squash",
            "precision": "fp32",
            "compiled": None,
            "decoder": "libavcodec 61",
            "torch": None,
        },
        "processes": 6,
        "gpus": [],
    }
    assert {key: found[key] for key in expected} == expected and list(found["features_made_by"]) == list(EXTRACTION)
    assert found["data_fingerprint"] == data.annotation.fingerprint() and len(found["data_fingerprint"]) == 64
    assert found["versions"]["torch"] == torch.__version__ and found["device"] and found["cpu_capability"]
    folder.write_about(found)
    folder.finish({"test/accuracy": 0.5})
    assert folder.about() == json.loads(json.dumps(found, allow_nan=False))


def test_run_json_says_by_what_truth_other_data_than_usual_were_drawn(original, no_gpu):
    settings, data = made(original)
    assert "truth" not in about(settings, data)
    assert about(with_values(settings, {"data.truth": "ring"}), data)["truth"] == "ring"


def test_the_identity_in_run_json_is_what_the_runs_folder_is_named_by(original, tmp_path):
    names = set()
    for word in ("seed=1", "seed=2", "optim.lr=0.5"):
        settings, data = made(original, word)
        text = json.dumps(json.loads(json.dumps(about(settings, data)["identity"])), sort_keys=True)
        name = run_folder(settings, data.annotation).path.name
        assert name == f"soft_attention_0-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        names.add(name)
    assert len(names) == 3


def test_notes_are_those_of_the_data_their_leaks_the_features_and_the_memory(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    films = tmp_path / "data/my clips"
    shutil.copyfile(films / "class1/clip2.avi", films / TEST[0])
    settings, data = made(tmp_path / "data")
    data.annotation = replace(data.annotation, notes=("of the data",))
    data.capacity = 50
    notes = about(settings, data)["notes"]
    assert [notes[0], notes[2]] == ["of the data", "of the features"] and len(notes) == 4
    leak = f"my clips: {MARK}, 1 test file has the content of a train file: 'class0/clip0.avi' = 'class1/clip2.avi'"
    assert notes[1] == leak and "a pool of 50 frames" in notes[3]


def test_the_fingerprint_of_the_features_is_that_of_all_videos_or_none(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    settings, data = made(tmp_path / "data")
    path = feature_folder(settings) / "manifest.json"
    assert about(settings, data)["feature_fingerprint"] == data.store.fingerprint(data.store.videos)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["videos"]["class2/clip2.avi"]["crc32"], manifest["weights_sha256"]  # as earlier versions wrote it
    path.write_text(json.dumps(manifest), encoding="utf-8")
    found = about(*made(tmp_path / "data"))
    assert (found["feature_fingerprint"], found["weights_sha256"]) == (None, None)
    assert found["features"] == feature_spec(settings).made_from


def test_the_gpus_of_a_run_are_listed_with_their_memory(original, monkeypatch):
    cards = [("NVIDIA H100 80GB HBM3", 85_029_158_912), ('odd "card" 🎬', 2**30)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: cards[0][0])
    properties = [SimpleNamespace(name=name, total_memory=size) for name, size in cards]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = about(*made(original, "trainer.accelerator=auto"))
    assert found["device"] == cards[0][0] and "IEEE's" in found["notes"][-1]
    assert found["gpus"] == [
        {"name": cards[0][0], "memory_gib": 79.2, "cuda": "13.0"},
        {"name": cards[1][0], "memory_gib": 1.0, "cuda": "13.0"},
    ]


@pytest.mark.parametrize(("processor", "device"), [("x86_64", "x86_64"), ("", "cpu")])
def test_without_a_gpu_the_device_is_the_processor(original, monkeypatch, no_gpu, processor, device):
    monkeypatch.setattr(devices.platform, "processor", lambda: processor)
    assert about(*made(original))["device"] == device
