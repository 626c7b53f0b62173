"""Run folders, checkpoints and sweeps of strangers, and names that mean something to HTML, LaTeX, Markdown or a terminal."""

import copy
import json
import pickle
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runfolders import annotation, write_run

from datamodules.features import FeatureSpec, FeatureStore, FeatureStoreError
from datamodules.videofolder import read as read_videofolder
from datamodules.videos import DataError
from lightning_modules.backbone import BackboneError, build_backbone
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, SettingsError
from reproduce.evaluation.results import Cell, Table
from reproduce.evaluation.writers import to_html, to_latex, to_markdown, to_text
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.sweep_file import read_sweep
from reproduce.prepare import require_whole
from reproduce.report import main as report
from reproduce.systems.cnn_features import calibrated
from reproduce.systems.preemption import read_checkpoint

EVIL = [
    "<script>alert(1)</script>",
    "a|b",
    "a",
    "video",
    "prediction",
    'quo"te, comma',
    "two\nlines",
    "carriage\rreturn",
    "-rf --help",
    "🎬 ünï",
    "=1+1",
    "\x1b[2J\u202eabc",
    "[x](javascript:alert(2))",
    "\\input{/etc/passwd} $x^2_y$ 50%",
]


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# names


def test_predictions_of_any_class_name_read_back(tmp_path):
    data = annotation("mine", EVIL, 2)
    data = replace(data, test=tuple(replace(video, name=f"{video.name}\r{EVIL[6]}") for video in data.test))
    scores = np.random.default_rng(0).random((len(data.test), len(EVIL)), dtype=np.float32)
    folder = RunFolder(tmp_path)
    folder.write_predictions(data, scores, scores.argmax(axis=1))
    back = folder.predictions()
    assert back.classes == tuple(EVIL) and back.videos == tuple(video.name for video in data.test)
    assert np.array_equal(back.scores, scores)
    assert back.target.sum(axis=1).tolist() == [1] * len(data.test)
    assert [int(row.argmax()) for row in back.target] == [video.labels[0] for video in data.test]
    assert back.predicted == tuple(EVIL[label] for label in scores.argmax(axis=1))


@pytest.fixture(scope="module")
def evil_table() -> Table:
    rows = ("avg_pool_lstm", "soft_attention_0")
    cells = {}
    for number, name in enumerate(EVIL):
        cells[rows[0], str(number)] = Cell("acc", (50.0,), (40.0, 60.0), None, (f"{name}: 3 train videos",), data=name)
        cells[rows[1], str(number)] = Cell("acc", (60.0,), (50.0, 70.0), None, (f"[{name}] &lt; # ~~x~~",), data=name)
    labels = {rows[0]: "[6] <b>LSTM</b>\n\n* x", rows[1]: "b | c"}
    return Table("Table 1", rows, tuple(map(str, range(len(EVIL)))), cells, labels=labels)


class Words(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words = set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not {"onerror", "href", "src"} & {name for name, _ in attrs}

    def handle_data(self, data):
        self.words += data


def test_names_stay_text_in_html(evil_table):
    page = Words(to_html(evil_table))
    assert not {"script", "b", "img", "a"} & page.tags
    for name in EVIL[:6]:
        assert name in page.words


def test_names_stay_text_in_markdown(evil_table):
    lines = to_markdown(evil_table).split("\n")
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4, "head, rule, two rows: no name breaks a line"
    bars = {len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) for row in rows}
    assert len(bars) == 1, "no name adds a column"
    text = "\n".join(lines)
    assert not re.search(r"(?<!\\)<", text) and "](" not in text and not re.search(r"(?<!\\)&lt;", text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)


def test_names_stay_text_in_latex(evil_table):
    text = to_latex(evil_table)
    assert "\\input" not in text and "\\textbackslash{}input\\{/etc/passwd\\} \\$x\\textasciicircum{}2\\_y\\$ 50\\%" in text
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert "\n\n" not in body and not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    for line in text.split("\n"):
        assert not line.startswith("["), "after the end of a line, LaTeX takes it for a length"


def test_names_do_not_move_a_terminals_cursor(evil_table):
    text = to_text(evil_table)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert sum("b | c" in line for line in text.split("\n")) >= len(EVIL)


def test_a_report_on_evil_names_is_written_and_runs_none_of_them(tmp_path):
    for row in ("avg_pool_lstm", "soft_attention_0"):
        data = annotation("my <script>alert(3)<\u2215script> data", EVIL, 2)
        write_run(tmp_path / "runs", data, ["data.name=videofolder", "data.folder=x", f"row={row}"], 3.0, 3)
    text = report([f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path}"]).read_text()
    scripts = re.findall(r"<script[^>]*>", text)
    assert scripts.count("<script>") == 1 and all("json" in one or one == "<script>" for one in scripts)
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


# run folders


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    data = annotation("mine", ["run", "walk"], 4)
    root = tmp_path_factory.mktemp("untrusted") / "runs"
    return RunFolder(write_run(root, data, ["data.name=videofolder", "data.folder=mine", "row=avg_pool_lstm"], 3.0, 3))


@pytest.fixture
def copied(run, tmp_path) -> RunFolder:
    shutil.copytree(run.path.parent.parent, tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / run.path.parent.name / run.path.name)


HEAD = "video,target,prediction,run,walk\n"


@pytest.mark.counts("damaged run folders")
@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", 1, "expected video,target,prediction"),
        ("video,target,run,walk\nv,run,1,0\n", 1, "expected video,target,prediction"),
        ("video,target,prediction,run,run\nv,run,run,1,0\n", 1, "expected video,target,prediction"),
        (HEAD + "v,run,run,1\n", 2, "4 values instead of 5"),
        (HEAD + "v,run,run,1,0,0\n", 2, "6 values instead of 5"),
        (HEAD + "v,run,run,1,0\nw,jump,run,1,0\n", 3, "no class 'jump'"),
        (HEAD + "v,run,run,nan,0\n", 2, "not finite"),
        (HEAD + "v,run,run,1,inf\n", 2, "not finite"),
        (HEAD + "v,run,run,one,0\n", 2, "malformed"),
        (HEAD + "v,run,run,1,0\n\nv,run,run,1,0\n", 4, "'v' stands in line 2 already"),
        (HEAD + "v,,run,1,0\n", 2, "0 classes instead of one"),
        (HEAD + "v,run|walk,run,1,0\n", 2, "2 classes instead of one"),
        (HEAD + '"v,run,run,1,0\n', 2, "not closed"),
        (HEAD + "v,run,run,1,0\0\n", 2, "zero byte"),
        (HEAD.encode() + "Läufe,run,run,1,0\n".encode("latin-1"), 2, "not UTF-8"),
    ],
)
def test_damaged_predictions_name_their_line(copied, content, line, words):
    path = copied.path / "predictions.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=words) as error:
        copied.predictions()
    assert f"{path}, line {line}" in str(error.value)


@pytest.mark.counts("damaged run folders")
def test_predictions_without_a_video_are_refused(copied):
    (copied.path / "predictions.csv").write_text(HEAD)
    with pytest.raises(DataError, match=r"predictions\.csv: holds no video"):
        copied.predictions()
    assert copied.predictions(sound=False).scores.shape == (0, 2)


def test_predictions_as_a_spreadsheet_saves_them_are_read(copied):
    path = copied.path / "predictions.csv"
    before = copied.predictions()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = copied.predictions()
    assert after.videos == before.videos and np.array_equal(after.scores, before.scores)
    assert np.array_equal(after.target, before.target) and after.classes == before.classes


DAMAGED = [
    ("metrics.json", ""),
    ("metrics.json", "[]"),
    ("metrics.json", '{"test/accuracy": "high"}'),
    ("metrics.json", '{"test/accuracy": NaN}'),
    ("metrics.json", '{"test/accuracy": 85.0}'),
    ("metrics.json", '{"test/mAP": true}'),
    ("metrics.json", '{"test/mAP": 0.1, "test/mAP": 0.9}'),
    ("metrics.json", "[" * 50_000),
    ("metrics.json", b"\xff\xfe{}"),
    ("run.json", ""),
    ("run.json", "{}"),
    ("run.json", "null"),
    ("run.json", {"multi_label": "no"}),
    ("run.json", {"groups": []}),
    ("run.json", {"groups": {"v": 3}}),
    ("run.json", {"notes": "one"}),
    ("run.json", {"notes": [["x"]]}),
    ("run.json", {"stride": 1.5}),
    ("run.json", {"train_videos": True}),
    ("history.csv", "stage,epoch\nholdout\n"),
    ("history.csv", "stage,epoch\nholdout,0,5\n"),
    ("history.csv", "stage,epoch,train/loss\nholdout,0,nan\n"),
    ("history.csv", "stage,epoch,train/loss\nholdout,zero,1\n"),
    ("history.csv", b"stage,epoch\n\xffholdout,0\n\0"),
    ("predictions.csv", HEAD + "v,run,run,nan,0\n"),
]


@pytest.mark.counts("damaged run folders")
@pytest.mark.parametrize(("name", "content"), DAMAGED, ids=[f"{name} {str(content)[:30]}" for name, content in DAMAGED])
def test_a_report_on_a_damaged_run_names_the_file_and_shows_no_traceback(copied, tmp_path, capsys, name, content):
    path = copied.path / name
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SystemExit) as stop:
        report([f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path}"])
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.startswith("error: ") and str(path) in said, said
    assert not (tmp_path / "report.html").exists()


# checkpoints


@pytest.mark.counts("files with code in them")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, legacy):
    path = tmp_path / "last.ckpt"
    trap = Trap(tmp_path / "sprung")
    if legacy:
        path.write_bytes(pickle.dumps({"state_dict": {}, "epoch": 0, "x": trap}))
    else:
        torch.save({"state_dict": {}, "epoch": 0, "x": trap}, path)
    with pytest.raises(DataError, match=r"last\.ckpt: not a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists(), "else the test would prove nothing"


@pytest.mark.counts("damaged checkpoints")
@pytest.mark.parametrize("kind", ["code", "another network", "empty", "other weights"])
def test_foreign_weights_beside_features_are_refused_and_not_run(clips, tmp_path, kind):
    settings = resolve(Settings, [*TINY, f"paths.data={clips}"])
    store = FeatureStore(tmp_path)
    if kind == "code":
        torch.save({"x": Trap(tmp_path / "sprung")}, tmp_path / "backbone.pt")
    elif kind == "another network":
        torch.save({"weight": torch.ones(3)}, tmp_path / "backbone.pt")
    elif kind == "empty":
        (tmp_path / "backbone.pt").write_bytes(b"")
    else:
        options = settings.backbone
        other = build_backbone(options.name, "random", options.layer, options.size, seed=99)
        torch.save(other.state_dict(), tmp_path / "backbone.pt")
        store.manifest["weights_sha256"] = "0" * 64
    with pytest.raises(FeatureStoreError, match=r"backbone\.pt: not the weights"):
        calibrated(settings, read_videofolder(clips / "clips"), store)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.counts("files with code in them")
def test_a_file_of_weights_with_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"features.0.0.weight": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(BackboneError, match=r"weights\.pth: not a file of weights"):
        build_backbone("mobilenet_v3_small", str(path), "features.3", 64, 0)
    assert not (tmp_path / "sprung").exists()


def test_a_full_check_names_every_damaged_file(tmp_path, capsys, count):
    store = FeatureStore(tmp_path)
    store.create(FeatureSpec("googlenet", "random:0", None, 224), (2, 2), 3, {})
    for name in ("a.avi", "b.avi", "c.avi"):
        writer = store.writer(name)
        writer.append(np.random.default_rng(len(name)).random((9, 4, 3)))
        writer.close()
    require_whole(FeatureStore(tmp_path), ["a.avi", "b.avi", "missing.avi"])
    assert "the features of 2 videos are what was written" in capsys.readouterr().out
    for path in (store.file("a.avi"), store.pooled_file("c.avi")):
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
        count("damaged features", 1)
    with pytest.raises(DataError, match="features of 2 of 3 videos are damaged") as error:
        require_whole(FeatureStore(tmp_path), ["a.avi", "b.avi", "c.avi"])
    assert str(store.file("a.avi")) in str(error.value) and str(store.pooled_file("c.avi")) in str(error.value)
    assert "b.avi" not in str(error.value)


# sweeps


SWEEPS = [
    yaml.safe_load((Path(__file__).resolve().parents[2] / f"sweeps/{name}.yaml").read_text())
    for name in ("layers", "cross_validation")
]
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(SWEEPS), st.integers(0, 1000), junk)
@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_a_sweep_with_one_value_replaced_is_refused_by_name_or_read(tmp_path_factory, count, sweep, where, value):
    sweep = copy.deepcopy(sweep)
    places, waiting = [], [sweep]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], (dict, list))]
    node, key = places[where % len(places)]
    node[key] = value
    path = tmp_path_factory.getbasetemp() / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    count("sweeps, fuzzed", 1)
    try:
        found = read_sweep(path)
    except SettingsError as error:
        assert str(path) in str(error)
    else:
        assert found.parameters and found.metric


@pytest.mark.counts("damaged sweeps")
@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 3000, b"a: &a [*a]\n", b"\0", b"\xff\xfe\x00", b"!!python/object/apply:os.system [x]\n", b"- 1\n", b"{1: 2}"],
)
def test_what_is_no_sweep_is_refused_by_name(tmp_path, content):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        read_sweep(path)
    assert str(path) in str(error.value)
