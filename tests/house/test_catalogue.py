"""Nothing but the catalogue and presets chooses by a name: of a data set, a system, a row or a column."""

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

from datamodules.videos import TRUTHS
from reproduce.common.catalogue import BASELINE, COLUMNS, DATASETS, DEFAULT_ATTENTION, ROWS, SYSTEMS, row_of
from reproduce.common.cli import resolve
from reproduce.common.fields import entries
from reproduce.common.presets import PRESETS
from reproduce.common.settings import Settings, SettingsError
from reproduce.evaluation.published import table2
from reproduce.experiments.identity import configuration, named

NAMES = {*DATASETS, *SYSTEMS, *ROWS, *COLUMNS}
PACKAGES = ("lightning_modules", "datamodules", "reproduce")
# Where a name stands, and what for.
MAY = {
    "reproduce/common/catalogue.py": "the catalogue",
    "reproduce/common/presets.py": "settings for one data set or row",
    "reproduce/common/settings.py": "defaults",
    "reproduce/figures.py": "which data sets and rows the paper's figures show",
    "reproduce/benchmarking/scale.py": "the rows of Table 1 whose steps a rehearsal times",
    "reproduce/benchmarking/settings.py": "the sizes of data sets, for rehearsals",
    "reproduce/systems/recurrent.py": "the networks of the system's own entries",
    "datamodules/miniature.py": "what is drawn for which data set",
    **{f"datamodules/{name}.py": "the reader" for name in DATASETS},
}


def names_in(path: Path) -> set[str]:
    """Names of the catalogue that stand in a module as texts, docstrings apart."""
    return {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)} & NAMES


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_decides_by_a_name(package):
    found = {path.relative_to(REPOSITORY).as_posix(): names_in(path) for path in (REPOSITORY / package).rglob("*.py")}
    assert {path: names for path, names in found.items() if names and path not in MAY} == {}
    assert {path for path in MAY if path.startswith(package)} <= {path for path, names in found.items() if names}


def test_every_entry_names_what_exists():
    known = {entry.key for entry in entries(Settings)}
    groups = {key.rpartition(".")[0] for key in known}
    sections = {line.section for line in table2()}
    for system in SYSTEMS.values():
        assert system.sees in sections
        assert set(system.settings) <= known | groups and (not system.members or system.members in known)
        assert (REPOSITORY / f"{system.module.replace('.', '/')}.py").is_file()
    for row in ROWS.values():
        assert row.sets["model.name"] in SYSTEMS and set(row.sets) <= known
    for data in DATASETS.values():
        assert data.has_split(data.default_split) and not data.has_split("no such split")
    for name, column in COLUMNS.items():
        assert column.data in DATASETS and set(column.parts(name)) <= set(COLUMNS)
        assert column.split is None or DATASETS[column.data].has_split(column.split)
    assert all(set(preset.on) <= set(DATASETS) for preset in PRESETS.values())
    assert {BASELINE, DEFAULT_ATTENTION} <= set(ROWS) and ROWS[DEFAULT_ATTENTION].system.attends


def test_a_row_is_known_by_what_it_sets():
    assert all(row_of({**row.sets, **row.needs}) == name for name, row in ROWS.items())
    assert row_of({"model.name": "soft_attention", "objective.attention_penalty": 0.5}) == "soft_attention_0.5"


def test_the_row_that_says_most_of_a_run_is_taken():
    sets = {**ROWS["content_attention_0"].sets, **ROWS["content_attention_0"].needs}
    assert row_of(sets) == "content_attention_0" and row_of({**sets, "model.attention": "location"}) == DEFAULT_ATTENTION


def test_runs_of_the_released_preset_are_no_rows_beyond_the_paper():
    for words in (["preset=released"], ["preset=[released,miniature]"]):
        settings = resolve(Settings, [*words, "row=soft_attention_1"])
        assert row_of(named(configuration(settings))) == "soft_attention_1"
    for words in ([], ["preset=miniature"], ["data.fold=1/5"]):
        settings = resolve(Settings, [*words, "row=content_attention_1"])
        assert row_of(named(configuration(settings))) == "content_attention_1"
        assert settings.model.attention == "content" and settings.protocol == "retrain"
        settings = resolve(Settings, [*words, "row=soft_attention_1"])
        assert row_of(named(configuration(settings))) == "soft_attention_1" and settings.model.attention == "location"


def test_a_row_beyond_the_paper_is_refused_in_the_released_network():
    with pytest.raises(SettingsError, match="row=content_attention_0: its runs have model.input_dropout=True"):
        resolve(Settings, ["preset=released", "row=content_attention_0"])


def test_truths_and_default_rows_are_rows():
    truths = {name: some for data in DATASETS.values() for name, some in data.truths.items()}
    assert {row for some in truths.values() for truth in some for row in truth} <= set(ROWS) and set(truths) == set(TRUTHS)
    assert all(set(preset.rows) <= set(ROWS) for preset in PRESETS.values())
    (rows,) = (preset.rows for preset in PRESETS.values() if preset.rows)
    stated = {truth for truth in truths[TRUTHS[0]] if set(truth) <= set(rows)}
    assert {row for truth in stated for row in truth} == {"content_attention_0", "soft_attention_0", "avg_pool_lstm"}
