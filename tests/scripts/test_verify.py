"""verify.py: a table that holds is said to hold, and each thing that was changed by hand is named with its place."""

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import script
from runfolders import annotation, write_run

from datamodules.features import FeatureStore
from reproduce import verify
from reproduce.evaluation.paper_tables import runs_of, table1, table2
from reproduce.evaluation.writers import write_table
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.scheduler import Point

ROWS = ("softmax_regression", "avg_pool_lstm", "soft_attention_0", "soft_attention_1")
SKILL = dict(zip(ROWS, (0.4, 1.0, 3.6, 1.2), strict=True))
MINIATURE = True
NETWORK = "backbone.name=googlenet"  # runs are drawn by their hashes, whatever network is the default


@dataclass
class Made:
    """Two tables and the runs they were made from; and how often ``verify.py`` did not let them pass."""

    root: Path
    refused: int = 0

    @property
    def results(self) -> Path:
        return self.root / "results"

    def run(self, row: str, data: str = "ucf11", seed: int = 1) -> Path:
        record = json.loads((self.results / "table1.json").read_text())
        cell = next(cell for cell in record["cells"] if (cell["data"], cell["row"]) == (data, row))
        return self.results / next(run["folder"] for run in cell["runs"] if run["seed"] == seed)

    def verify(self, capsys, *words: str) -> tuple[int, str]:
        """Exit status, and what was printed."""
        capsys.readouterr()
        try:
            verify.main([str(self.results), *words])
            status = 0
        except SystemExit as stop:
            status = stop.code
            self.refused += 1
        out, err = capsys.readouterr()
        return status, out + err


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Table 1 on UCF-11 (two seeds) and Hollywood2, and Table 2 on HMDB-51's three splits."""
    root = tmp_path_factory.mktemp("verify")
    points = []
    ucf = annotation("ucf11", ["biking", "diving", "golf", "riding", "swing", "walk"], 8, miniature=MINIATURE)
    hollywood = annotation("hollywood2", ["Run", "Eat", "Kiss", "SitUp", "DriveCar"], 8, True, MINIATURE)
    for data, seeds in ((ucf, (1, 2)), (hollywood, (1,))):
        for row in ROWS:
            for seed in seeds:
                words = [f"data.name={data.data}", NETWORK, f"row={row}", f"seed={seed}"]
                path = write_run(root / "runs", data, words, SKILL[row], 3)
                points.append(Point(data.data, row, seed, words, RunFolder(path)))
    write_table(table1(["ucf11", "hollywood2"], ROWS, runs_of(points)), root / "results")
    points = []
    for split in "123":
        hmdb = annotation("hmdb51", [f"c{split}{number}" for number in range(3)], 6, miniature=MINIATURE)
        for row in ("avg_pool_lstm", "soft_attention_0"):
            words = ["data.name=hmdb51", NETWORK, f"data.split={split}", f"row={row}", "seed=1"]
            path = write_run(root / "runs", hmdb, words, SKILL[row], 3)
            points.append(Point(f"hmdb51_{split}", row, 1, words, RunFolder(path)))
    write_table(table2(["avg_pool_lstm", "soft_attention_0"], runs_of(points)), root / "results")
    return Made(root)


@pytest.fixture
def made(original, tmp_path, count):
    shutil.copytree(original.root, tmp_path, dirs_exist_ok=True)
    yield (made := Made(tmp_path))
    count("refusals by verify.py", made.refused)


def replace(path: Path, pattern: str, new: str, count: int = 1) -> None:
    text, number = re.subn(pattern, new, path.read_text(encoding="utf-8"), count=count, flags=re.M)
    assert number == count
    path.write_text(text, encoding="utf-8")


def status_of(text: str, data: str, row: str) -> str:
    """What a row's line says, in the first table that has it."""
    (line, *_) = [line for line in text.splitlines() if re.match(rf"  {data} +{re.escape(row)} ", line)]
    return next(word for word in (verify.VERIFIED, verify.DIFFERS, verify.UNVERIFIED) if line.endswith(f"  {word}"))


def test_a_run_stands_in_its_own_row_with_its_own_seed_and_once(made, capsys):
    path = made.results / "table1.json"
    record = json.loads(path.read_text())
    cells = {(cell["data"], cell["row"]): cell for cell in record["cells"]}
    one, two = cells["ucf11", "avg_pool_lstm"], cells["ucf11", "soft_attention_0"]
    one["runs"], two["runs"] = two["runs"], one["runs"]
    path.write_text(json.dumps(record))
    status, text = made.verify(capsys)
    assert status == 1 and status_of(text, "ucf11", "avg_pool_lstm") == verify.DIFFERS
    assert "row is 'soft_attention_0', the table's record has it at 'avg_pool_lstm'" in text
    one["runs"], two["runs"] = two["runs"], one["runs"]
    one["runs"][1] = one["runs"][0] | {"seed": 2}
    path.write_text(json.dumps(record))
    status, text = made.verify(capsys)
    assert status == 1 and "seed is 1, the table's record has it at 2" in text and "stands twice in the table's record" in text
    one["runs"], cells["hollywood2", "avg_pool_lstm"]["runs"] = cells["hollywood2", "avg_pool_lstm"]["runs"], one["runs"]
    path.write_text(json.dumps(record))
    assert "data is 'hollywood2', the table's record has it at 'ucf11'" in made.verify(capsys)[1]


def test_one_folder_at_a_time(made, capsys):
    status, text = made.verify(capsys, "elsewhere")
    assert status == 1 and "one results folder at a time" in text


# Tables that hold


def test_every_number_of_two_tables_is_verified_and_moves_with_its_runs(made, capsys):
    status, text = made.verify(capsys)
    assert status == 0, text
    assert "table1.csv: 8 verified" in text and verify.DIFFERS not in text
    counts = re.search(r"table2.csv: (\d+) verified, (\d+) no number", text)
    assert (
        counts and int(counts[1]) == 4 + 12 and int(counts[1]) + int(counts[2]) == 30
    )  # two rows measured twice, twelve quoted
    significant = [row for row in csv.DictReader((made.results / "table1.csv").open()) if row["significant"] == "True"]
    assert significant  # so that the star was verified
    assert re.search(r"ucf11 +soft_attention_0 +\d+\.\d \[\d+\.\d, \d+\.\d\] +verified", text)


def test_run_folders_that_were_moved_are_found_by_their_key(made, capsys):
    shutil.move(made.root / "runs", made.root / "elsewhere")
    status, text = made.verify(capsys)
    assert status == 3 and text.count("is missing") >= 8 and verify.VERIFIED in text  # the quoted numbers
    status, text = made.verify(capsys, f"paths.runs={made.root / 'elsewhere'}")
    assert status == 0 and "table1.csv: 8 verified" in text


def test_a_trained_run_says_what_it_was_made_with(trained):
    about = RunFolder((trained / "run").resolve()).about()
    assert {"torch", "torchvision", "numpy", "av", "libavcodec"} <= set(about["versions"])
    assert {"commit", "dirty", "command", "cpu", "cores", "ram_gib", "gpus", "data_fingerprint"} <= set(about)
    store = FeatureStore(next((trained / "features").rglob("manifest.json")).parent)
    assert about["feature_fingerprint"] == store.fingerprint(store.videos) and len(about["feature_fingerprint"]) == 64
    assert about["features_made_by"]["decoder"] == store.manifest["decoder"]


# What was changed by hand


@pytest.mark.parametrize("column", ["mean", "low", "difference", "paper", "seeds", "from_baseline_high", "p_corrected", "test"])
def test_a_changed_cell_of_the_csv_is_named(made, capsys, column):
    path = made.results / "table1.csv"
    lines = list(csv.DictReader(path.open(newline="")))
    number = next(i for i, line in enumerate(lines) if (line["data"], line["row"]) == ("ucf11", "soft_attention_1"))
    true = lines[number][column]
    lines[number][column] = "bootstrap" if column == "test" else f"{float(true) + 0.001:.6g}" if column != "seeds" else "3"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    status, text = made.verify(capsys)
    assert status == 1 and "7 verified, 1 DIFFERS" in text
    assert status_of(text, "ucf11", "soft_attention_1") == verify.DIFFERS
    assert re.search(rf"table1.csv, line {number + 2}: {column} is {re.escape(lines[number][column])}, .* expected", text)


@pytest.mark.parametrize("suffix", ["md", "tex", "html"])
def test_another_number_in_another_format_is_named(made, capsys, suffix):
    line = next(line for line in csv.DictReader((made.results / "table1.csv").open()) if line["row"] == "soft_attention_1")
    old = f"{float(line['mean']):.1f}"
    path = made.results / f"table1.{suffix}"
    text = path.read_text(encoding="utf-8")
    start = text.index("λ = 1") if suffix != "tex" else text.index("$\\lambda$ = 1")
    path.write_text(text[:start] + text[start:].replace(old, f"{float(old) + 0.2:.1f}", 1), encoding="utf-8")
    status, text = made.verify(capsys)
    assert status == 1 and status_of(text, "ucf11", "soft_attention_1") == verify.DIFFERS
    new = f"{float(old) + 0.2:.1f}"
    assert re.search(rf"table1\.{suffix}, line \d+: shows '{new}.*', '{old}.*' expected", text)
    assert text.count(f"  {verify.DIFFERS}\n") == 1


def test_a_star_too_many_is_named(made, capsys):
    replace(made.results / "table1.md", r"(λ = 1 \| \d+\.\d ± \d+\.\d)", r"\1\\*")
    status, text = made.verify(capsys)
    assert status == 1 and status_of(text, "ucf11", "soft_attention_1") == verify.DIFFERS
    assert re.search(r"table1.md, line \d+: shows '(\d+\.\d ± \d+\.\d)\* .*', '\1 .*' expected", text)


def test_a_title_that_hides_the_miniature_is_named(made, capsys):
    replace(made.results / "table1.html", " on MINIATURE data: [^<]*", "", 2)
    status, text = made.verify(capsys)
    assert status == 1 and text.count("on MINIATURE data: generated stand-ins") == 2
    assert len(re.findall(r"table1.html, line \d+: says '<(?:title|h1)>Table 1<", text)) == 2


def test_a_row_of_predictions_that_was_improved_is_named_with_its_line(made, capsys):
    path = made.run("softmax_regression") / "predictions.csv"
    rows = list(csv.reader(path.open(newline="")))
    number = next(i for i, row in enumerate(rows) if i and row[1] != row[2])
    rows[number][2] = rows[number][1]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    status, text = made.verify(capsys)
    assert status == 1 and status_of(text, "ucf11", "softmax_regression") == verify.DIFFERS and "7 verified" in text
    assert f"predictions.csv, line {number + 1}: {rows[number][0]!r} is predicted as {rows[number][1]!r}" in text
    assert "is not the file the table was made from" in text


def test_changed_scores_are_found_by_metrics_json_and_by_the_table(made, capsys):
    path = made.run("softmax_regression") / "predictions.csv"
    rows = list(csv.reader(path.open(newline="")))
    number = next(i for i, row in enumerate(rows) if i and row[1] != row[2])
    rows[number][2] = rows[number][1]
    rows[number][3 + rows[0][3:].index(rows[number][1])] = "0.999"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    _, text = made.verify(capsys)
    assert re.search(r"metrics.json: test/accuracy is 0\.\d+, 0\.\d+ recomputed from predictions.csv", text)
    assert re.search(r"table1.csv, line 2: mean is [\d.]+, [\d.]+ expected", text)


def test_metrics_edited_by_hand_are_named(made, capsys):
    folder = RunFolder(made.run("avg_pool_lstm", "hollywood2"))
    metrics = folder.metrics()
    folder.finish({**metrics, "test/mAP": metrics["test/mAP"] + 0.01})
    status, text = made.verify(capsys)
    assert status == 1 and status_of(text, "hollywood2", "avg_pool_lstm") == verify.DIFFERS
    assert f"{folder.path.resolve()}/metrics.json: test/mAP is {metrics['test/mAP'] + 0.01:.6f}" in text
    assert text.count(f"  {verify.DIFFERS}\n") == 1


def test_a_video_that_stands_twice_is_named(made, capsys):
    path = made.run("softmax_regression") / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    status, text = made.verify(capsys)
    assert (
        status == 1 and f"predictions.csv, line {len(lines) + 1}: {lines[1].split(',')[0]!r} stands in line 2 already" in text
    )


def test_another_quoted_number_is_named(made, capsys):
    path = made.results / "table2.csv"
    replace(path, r"^(Table 2,hmdb51_mean,video_darwin.*),63\.7000,", r"\1,73.7000,")
    status, text = made.verify(capsys)
    assert status == 1 and "paper is 73.7000, 63.7000 expected" in text
    assert status_of(text, "hmdb51_mean", "video_darwin") == verify.DIFFERS and text.count(f"  {verify.DIFFERS}\n") == 1


def test_a_line_that_was_taken_out_of_the_csv_is_named(made, capsys):
    replace(made.results / "table1.csv", r"^Table 1,hollywood2,soft_attention_0.*\n", "")
    status, text = made.verify(capsys)
    assert status == 1 and "table1.csv: has 0 lines of soft_attention_0 on hollywood2 instead of one" in text


@pytest.mark.parametrize(("suffix", "kind"), [("md", "missing"), ("tex", "a folder"), ("html", "no text")])
def test_a_format_that_cannot_be_read_is_named_and_the_others_are_compared(made, capsys, suffix, kind):
    path = made.results / f"table1.{suffix}"
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff")
    other = "tex" if suffix == "md" else "md"
    replace(made.results / f"table1.{other}", r"43\.91", "43.92")
    status, text = made.verify(capsys)
    assert status == 1 and f"{verify.DIFFERS}: {path}: not readable (" in text
    assert status_of(text, "hollywood2", "soft_attention_0") == verify.DIFFERS and "7 verified, 1 DIFFERS" in text


def test_a_line_that_stands_twice_in_the_csv_is_named(made, capsys):
    path = made.results / "table1.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3]]))
    status, text = made.verify(capsys)
    assert status == 1 and "table1.csv: has 2 lines of soft_attention_0 on ucf11 instead of one" in text


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        ("csv", "^Table 1,ucf11,soft_attention_1,", 'Table 1,"ucf11",soft_attention_1,'),
        ("json", '"table": "Table 1"', '"table": "Table 3"'),
        ("json", '"baseline": "avg_pool_lstm"', '"baseline": "max_pool_lstm"'),
        ("json", r'"cells": \[', '"more": 1, "cells": ['),
    ],
)
def test_what_nothing_reads_is_verified_too(made, capsys, suffix, old, new):
    path = made.results / f"table1.{suffix}"
    replace(path, old, new)
    status, text = made.verify(capsys)
    line = next(number for number, line in enumerate(path.read_text().splitlines(), 1) if new in line)
    assert status == 1 and re.search(rf"{verify.DIFFERS}: {path}, line {line}.*: says .* expected", text), text


@pytest.mark.parametrize("key", ["predictions_sha256", "videos", "features", "seed", "folder"])
def test_a_digit_of_the_record_that_was_changed_is_named(made, capsys, key):
    path = made.results / "table1.json"
    record = json.loads(path.read_text())
    run = next(cell for cell in record["cells"] if cell["row"] == "soft_attention_0")["runs"][0]
    run[key] = 7 if key == "seed" else f"{run[key]}0"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    status, text = made.verify(capsys)
    said = {"seed": "the table's record has it at 7", "folder": "is missing"}.get(key, "the table's record says")
    assert status == (3 if key == "folder" else 1) and said in text
    assert status_of(text, "ucf11", "soft_attention_0") == (verify.UNVERIFIED if key == "folder" else verify.DIFFERS)


def test_where_a_run_is_missing_what_does_not_depend_on_it_is_still_compared(made, capsys):
    shutil.rmtree(made.run("soft_attention_1"))
    status, text = made.verify(capsys)
    assert status == 3 and verify.DIFFERS not in text and "7 verified, 1 not verified" in text
    replace(made.results / "table1.md", "(Hollywood2: 15 train)", r"\g<1>ed")
    status, text = made.verify(capsys)
    assert status == 1 and re.search(rf"{verify.DIFFERS}: .*table1.md, line \d+: says .*15 trained", text)


def test_where_a_run_is_missing_the_formats_are_compared_with_the_csv(made, capsys):
    shutil.rmtree(made.run("soft_attention_1"))
    line = next(line for line in csv.DictReader((made.results / "table1.csv").open()) if line["row"] == "soft_attention_1")
    replace(made.results / "table1.md", rf"(λ = 1 \| ){float(line['mean']):.1f}", r"\g<1>99.9")
    status, text = made.verify(capsys)
    assert status == 1 and status_of(text, "ucf11", "soft_attention_1") == verify.DIFFERS
    assert re.search(r"table1.md, line \d+: shows '99\.9 .*' expected", text)


# What cannot be verified


def test_a_missing_run_leaves_its_row_unverified_and_its_columns_tests_too(made, capsys):
    shutil.rmtree(gone := made.run("avg_pool_lstm", seed=2))
    status, text = made.verify(capsys)
    assert status == 3 and f"the run folder {gone.resolve()} is missing" in text
    assert {row: status_of(text, "ucf11", row) for row in ROWS} == dict.fromkeys(ROWS, verify.UNVERIFIED)
    assert text.count("its difference from avg_pool_lstm: the run folder") == 3
    assert "table1.csv: 4 verified, 4 not verified" in text


def test_a_run_folder_of_a_name_that_no_disk_takes_is_missing(made, capsys):
    replace(
        made.results / "table1.json", r'"folder": "[^"]*/avg_pool_lstm-', '"folder": "runs/' + "a" * 5000 + "/avg_pool_lstm-"
    )
    status, text = made.verify(capsys)
    assert status == 3 and "a" * 5000 in text and "is missing" in text


@pytest.mark.parametrize("name", ["predictions.csv", "metrics.json", "run.json"])
def test_a_missing_file_leaves_its_row_unverified(made, capsys, name):
    (made.run("soft_attention_0") / name).unlink()
    status, text = made.verify(capsys)
    assert status == 3 and "7 verified, 1 not verified" in text and f"/{name}" in text and "missing" in text


def test_a_run_on_other_data_than_its_column_is_not_verified(made, capsys):
    folder = RunFolder(made.run("soft_attention_0"))
    folder.write_about({**folder.about(), "data_fingerprint": "f" * 64})
    record = made.results / "table1.json"
    entries = json.loads(record.read_text())
    for cell in entries["cells"]:
        for run in cell["runs"]:
            run["videos"] = "f" * 64 if run["folder"].endswith(folder.path.name) else run["videos"]
    record.write_text(json.dumps(entries))
    status, text = made.verify(capsys)
    assert status == 3 and "made from other videos than the column's other runs" in text
    assert status_of(text, "ucf11", "soft_attention_0") == verify.UNVERIFIED and "7 verified" in text


def test_a_table_without_its_record_is_not_verified(made, capsys):
    (made.results / "table1.json").unlink()
    status, text = made.verify(capsys)
    assert status == 3 and text.count("table1.json names no run of it; make the table again") == 8


def test_a_dirty_checkout_is_noted_and_no_fault(made, capsys):
    folder = RunFolder(made.run("soft_attention_0"))
    folder.write_about({**folder.about(), "dirty": True, "commit": "0123456789abcdef"})
    status, text = made.verify(capsys)
    assert status == 0 and f"note: commit 012345678, with uncommitted changes: ucf11/{folder.path.name}\n" in text


# The data set's own list


@pytest.fixture
def on_disk(trained, clips, tmp_path, count):
    """A table of a run that was really trained, and a copy of its videos."""
    folder = RunFolder((trained / "run").resolve())
    shutil.copytree(folder.path, tmp_path / "runs/clips" / folder.path.name)
    shutil.copytree(clips / "clips", tmp_path / "data/clips")
    point = Point("videofolder", "soft_attention_1", 1, [], RunFolder(tmp_path / "runs/clips" / folder.path.name))
    write_table(table1(["videofolder"], ["soft_attention_1"], runs_of([point])), tmp_path / "results")
    yield (made := Made(tmp_path))
    count("refusals by verify.py", made.refused)


def test_a_trained_run_agrees_with_its_data_set(on_disk, capsys):
    status, text = on_disk.verify(capsys, f"paths.data={on_disk.root / 'data'}")
    assert status == 0 and "table1.csv: 1 verified" in text


def test_other_labels_other_files_and_other_lists_are_named(on_disk, capsys):
    predictions = next(on_disk.root.glob("runs/clips/*/predictions.csv"))
    video, target = predictions.read_text().splitlines()[1].split(",")[:2]
    listing = on_disk.root / "data/clips/videos.csv"
    test = [line.partition(",")[0] for line in predictions.read_text().splitlines()[1:]]
    head, *rows = listing.read_text().splitlines()
    sides = [f"{row},{'test' if row.partition(',')[0] in test else 'train'}" for row in rows]
    original = "\n".join([f"{head},split", *sides]) + "\n"
    listing.write_text(original)
    words = [f"paths.data={on_disk.root / 'data'}"]
    assert on_disk.verify(capsys, *words)[0] == 0
    with (on_disk.root / "data/clips" / video).open("ab") as file:
        file.write(b"x")
    status, text = on_disk.verify(capsys, *words)
    assert status == 1 and "run.json: data_fingerprint is not that of the videos" in text
    other = next(name for name in ("class0", "class1") if name != target)
    listing.write_text(original.replace(f"{video},{target}", f"{video},{other}"))
    status, text = on_disk.verify(capsys, *words)
    assert status == 1 and re.search(
        rf"predictions.csv, line 2: {video!r} is of class {target!r}, {other!r} in the test list", text
    )
    lines = [line for line in original.splitlines() if not line.startswith(video)]
    listing.write_text("\n".join(lines) + "\n")
    status, text = on_disk.verify(capsys, *words)
    assert status == 1 and "more are not in the test list of clips" in text


# The command


def test_the_command_says_what_is_not_there(tmp_path):
    result = script("verify.py", "nowhere", cwd=tmp_path, check=False)
    assert result.returncode == 1 and f"no table1.csv or table2.csv in {tmp_path / 'nowhere'}" in result.stderr
    (tmp_path / "table1.csv").write_text("a,b\n1,2\n")
    result = script("verify.py", ".", cwd=tmp_path, check=False)
    assert result.returncode == 1 and "table1.csv, line 1: not the columns" in result.stderr


def test_a_damaged_record_is_named(made, capsys):
    (made.results / "table1.json").write_text('{"cells": [{"data": "ucf11"}]}')
    status, text = made.verify(capsys)
    assert status == 1 and "table1.json: damaged" in text and "Traceback" not in text


# Notes


def test_notes_are_verified(made, capsys):
    status, text = made.verify(capsys)
    assert status == 0
    for number, table in enumerate(("8 verified", "16 verified, 14 no number"), start=1):
        notes = re.findall(r"^\* ", (made.results / f"table{number}.md").read_text(encoding="utf-8"), re.M)
        assert f"{table}; notes: {len(notes)} verified" in text and len(notes) > 7


@pytest.mark.parametrize("suffix", ["md", "tex", "html"])
@pytest.mark.parametrize(
    ("table", "old", "new", "says"),
    [
        (1, r"(UCF-11, points.*?)−14\.6", r"\g<1>−17.6", "line {}.*−17.6 .*−14.6 .* expected"),
        (1, r"(UCF-11, points.*?−14\.6 \[)−25\.1", r"\g<1>−20.1", r"line {}.*−20.1.*−25.1, −4.3\].* expected"),
        (1, r"(UCF-11, points.*?p =) 0\.043", r"\g<1> 0.0043", "line {}.*p = 0.0043.*p = 0.043.* expected"),
        (1, r"(UCF-11, points.*?); Soft.{40}", r"\g<1>", "line {}.*UCF-11, points .*; Soft attention.*expected"),
        (1, r"^.*Hollywood2, points.*\n", "", "lacks the line '.*Hollywood2, points from the average-pooled LSTM: "),
        (1, r"(Hollywood2, points.*?)\.(?=<|$|\\)", r"\g<1>; More +9.0 [+8.0, +9.9].", r"line {}.*; More \+9.0.* expected"),
        (1, "18 train and 48 test", "18 train and 84 test", "line {}.*UCF-11: 18 train and 84.*18 train and 48 .*expected"),
        (2, "test videos, split 2", "test videos, split 4", "line {}.*split 4.*HMDB-51: 9 train and 18 .*split 2.*expected"),
        (2, r"(split 1, points.*p =) 0\.016", r"\g<1> 0.02", "line {}.*p = 0.02.*p = 0.016.*expected"),
        (1, "two-sided", "one-sided", "line {}.*one-sided.*two-sided.*expected"),
        (1, "Avg pooled LSTM", "Average of pools", "line {}.*'.*Average of pools.*'.*Avg pooled LSTM.*' expected"),
        (1, "UCF-11 \\(acc", "UCF-101 (acc", "line {}.*UCF-101 \\(acc.*UCF-11 \\(acc.*expected"),
        (2, "Source", "Place", "line {}.*Place.*Source.*expected"),
        (2, "RGB data only", "RGB data", "line {}.*RGB data.*RGB data only.*expected"),
    ],
)
def test_what_was_changed_outside_the_cells_is_named_with_its_line(made, capsys, suffix, table, old, new, says):
    path = made.results / f"table{table}.{suffix}"
    text = path.read_text(encoding="utf-8").replace("$-$", "−").replace("\\%", "%") if suffix == "tex" else path.read_text()
    changed = re.sub(old, new, text, count=1, flags=re.M)
    assert changed != text
    number = next(i for i, pair in enumerate(zip(changed.split("\n"), text.split("\n"), strict=False), 1) if len({*pair}) > 1)
    path.write_text(changed.replace("−", "$-$").replace("%", "\\%") if suffix == "tex" else changed, encoding="utf-8")
    status, said = made.verify(capsys)
    said = said.replace("$-$", "−")
    assert status == 1 and re.search(rf"table{table}\.{suffix}(, |: )" + says.format(number), said), said


def test_the_smallest_p_value_of_a_column_without_differences_is_verified(tmp_path, capsys):
    ucf = annotation("ucf11", ["biking", "diving", "golf"], 8, miniature=MINIATURE)
    points = []
    for row in ("avg_pool_lstm", "soft_attention_0"):
        words = ["data.name=ucf11", f"row={row}", "seed=1"]
        points.append(Point("ucf11", row, 1, words, RunFolder(write_run(tmp_path / "runs", ucf, words, 1.0, 3))))
    write_table(table1(["ucf11"], ["avg_pool_lstm", "soft_attention_0"], runs_of(points)), tmp_path / "results")
    made = Made(tmp_path)
    status, text = made.verify(capsys)
    assert status == 0 and "2 verified; notes: 7 verified" in text
    replace(made.results / "table1.md", r"smallest corrected p = [\d.]+", "smallest corrected p = 0.05")
    status, text = made.verify(capsys)
    assert status == 1 and "2 verified; notes: 6 verified" in text
    assert re.search(r"table1.md, line \d+.*UCF-11: no difference.*smallest corrected p = 0.05.*p = .* expected", text)
