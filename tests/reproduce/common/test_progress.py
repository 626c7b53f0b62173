import pytest

from reproduce.common import progress
from reproduce.common.progress import Progress, duration


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (89.6, "90 s"), (120, "2 min"), (7200, "2.0 h")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_follows_from_the_share_done(monkeypatch, capsys):
    clock = iter([0.0, 20.0, 20.0, 25.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    line = Progress("work", "files")
    line.update(1, 4, "5 files/s")
    line.update(2, 4)
    assert capsys.readouterr().out == "work: 1/4 files, 5 files/s, 60 s left\n"
    line.close("done")
    assert "took 25 s" in capsys.readouterr().out


def test_other_ranks_are_silent(capsys):
    line = Progress("work", "files", enabled=False)
    line.update(4, 4)
    line.close()
    assert capsys.readouterr().out == ""
