"""The Optuna study behind bayes and early termination: resumed, counted, searched, cut short."""

from pathlib import Path

import pytest

from reproduce.common.settings import SettingsError
from reproduce.experiments.search import Search
from reproduce.experiments.sweep_file import Hyperband, Sweep, grid_points

pytest.importorskip("optuna", reason="optuna, of the extra `sweep`, is not installed")

PARAMETERS = {
    "data.fold": {"value": "all/5"},
    "optim.lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.01},
    "model.num_layers": {"min": 1, "max": 5},
    "model.hidden_dim": {"values": [8, 16]},
}


def sweep_of(hyperband=None, method="bayes", parameters=PARAMETERS, maximize=True):
    return Sweep(Path("s.yaml"), "s", method, "cv/score", maximize, parameters, (), None, hyperband)


def search_of(tmp_path, count, sweep=None, listed=None, seed=0):
    return Search(sweep or sweep_of(), listed, count, tmp_path / "study.journal", seed)


def test_points_lie_where_the_file_says(tmp_path):
    search = search_of(tmp_path, 40)
    seen = []
    while (proposal := search.ask()) is not None:
        point = proposal.point
        assert list(point) == sorted(PARAMETERS) and point["data.fold"] == "all/5"
        assert 0.0001 <= point["optim.lr"] <= 0.01 and point["model.num_layers"] in range(1, 6)
        assert point["model.hidden_dim"] in (8, 16)
        search.tell(proposal, -abs(point["model.num_layers"] - 4) - (point["model.hidden_dim"] == 8), False)
        seen.append((point["model.num_layers"], point["model.hidden_dim"]))
    assert len(seen) == 40
    late = seen[20:]
    assert sum(layers in (3, 4, 5) and width == 16 for layers, width in late) > len(late) * 0.6, "it learns nothing"


def test_a_killed_search_repeats_what_was_running_and_nothing_else(tmp_path):
    search = search_of(tmp_path, 5)
    ended, running, failed = search.ask(), search.ask(), search.ask()
    search.tell(ended, 0.5, False)
    search.tell(failed, None, False)
    del search  # killed
    search = search_of(tmp_path, 5)
    assert search.left == 4 and search.ended() == [(ended.point, False)]
    again = [search.ask() for _ in range(4)]
    assert search.ask() is None
    assert [proposal.point for proposal in again[:2]] == [running.point, failed.point]
    points = [str(proposal.point) for proposal in (ended, *again)]
    assert len(set(points)) == 5, "the sampler begins anew with the same points"
    for proposal in again:
        search.tell(proposal, 0.1, False)
    search = search_of(tmp_path, 5)
    assert search.ask() is None and len(search.ended()) == 5


def test_a_torn_last_line_is_dropped_and_a_damaged_journal_is_named(tmp_path):
    """As a full disk or a power cut leaves it."""
    search = search_of(tmp_path, 3)
    proposal = search.ask()
    assert proposal is not None
    search.tell(proposal, 1.0, False)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "wor')
    again = search_of(tmp_path, 3)
    assert [values for values, _ in again.ended()] == [proposal.point] and journal.read_bytes().startswith(whole)
    journal.write_bytes(b"no journal\n")
    with pytest.raises(SettingsError, match=r"study\.journal: damaged .*remove it"):
        search_of(tmp_path, 3)


def test_a_larger_count_goes_on(tmp_path):
    search = search_of(tmp_path, 1)
    search.tell(search.ask(), 0.5, False)
    assert search.ask() is None
    assert search_of(tmp_path, 3).left == 2


def test_hyperband_ends_the_poor_half_at_its_epochs(tmp_path):
    search = search_of(tmp_path, 4, sweep_of(Hyperband(2, 2)))
    good, poor = search.ask(), search.ask()
    assert not search.should_stop(good, [0.1]) and not search.should_stop(good, [0.1, 0.8, 0.8])
    search.tell(good, 0.8, False)
    assert not search.should_stop(poor, [0.9]), "before its first epoch of decision"
    assert search.should_stop(poor, [0.9, 0.2])
    search.tell(poor, None, True)
    assert search_of(tmp_path, 4).ended() == [(good.point, False), (poor.point, True)]


def test_a_smaller_figure_may_be_the_better_one(tmp_path):
    search = search_of(tmp_path, 2, sweep_of(Hyperband(1, 2), maximize=False))
    good, poor = search.ask(), search.ask()
    assert not search.should_stop(good, [1.0]) and search.should_stop(poor, [2.0])


def test_a_grid_with_early_termination_is_run_in_its_order_and_once(tmp_path):
    sweep = sweep_of(Hyperband(1, 2), "grid", {"seed": {"values": [1, 2, 3]}})
    listed = list(grid_points(sweep))
    search = search_of(tmp_path, 3, sweep, listed)
    first, second = search.ask(), search.ask()
    assert (first.point, second.point) == ({"seed": 1}, {"seed": 2})
    search.tell(first, 0.5, False)
    search = search_of(tmp_path, 3, sweep, listed)
    assert [search.ask().point for _ in range(2)] == [{"seed": 2}, {"seed": 3}] and search.ask() is None
    assert search.ended() == [({"seed": 1}, False)]


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"pip install -e '\.\[sweep\]'"):
        search_of(tmp_path, 1)
