"""Progress: plain lines for logs, whose last one a scheduler reads, and a bar in a terminal."""

import io
import subprocess
import sys
import threading

import pytest
from conftest import REPOSITORY

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


# in a terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch) -> Terminal:
    """What a terminal is sent, in place of what pytest captures; every update is drawn."""
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL", 0.0)
    monkeypatch.setattr(sys, "stdout", Terminal())
    return sys.stdout  # type: ignore[return-value]


def drawn(terminal) -> list[str]:
    return [line.strip() for line in terminal.getvalue().split("\r")]


def test_a_terminal_shows_one_bar_with_the_time_left(monkeypatch):
    terminal = open_terminal(monkeypatch)
    threads = threading.active_count()
    line = Progress("extracting clips.zip", "MB")
    line.started -= 60
    line.update(12.4, 49.6, "3.1 MB/s")
    assert drawn(terminal)[-1].startswith("extracting clips.zip:  24%|")
    assert drawn(terminal)[-1].endswith("| 12/50 MB [01:00<03:10, 3.1 MB/s]")
    line.update(49.6, 49.6)
    line.close("done")
    assert drawn(terminal)[-1].startswith("extracting clips.zip: 100%|#")
    assert drawn(terminal)[-1].endswith("| 50/50 MB [01:00<00:00, done]")
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().endswith("\n")
    assert threading.active_count() == threads


def test_a_bar_without_a_unit_shows_its_share_alone_and_one_without_a_total_what_is_done(monkeypatch):
    terminal = open_terminal(monkeypatch)
    Progress("training", "").update(3, 4, "epoch 1/2")
    assert drawn(terminal)[-1].startswith("training:  75%|") and "3/4" not in terminal.getvalue()
    Progress("downloading", "MB").update(7, 0)
    assert drawn(terminal)[-1] == "downloading: 7 MB [00:00]"


def test_a_bar_that_was_left_does_not_push_the_next_one_down(monkeypatch):
    terminal = open_terminal(monkeypatch)
    left, line = Progress("first", "MB"), Progress("second", "MB")
    left.update(1, 4)
    line.update(1, 4)
    line.close()
    assert terminal.getvalue().count("\n") == 1 and drawn(terminal)[-1].startswith("second:")


def test_in_a_terminal_too_work_without_pieces_is_a_line_and_other_ranks_are_silent(monkeypatch):
    terminal = open_terminal(monkeypatch)
    Progress("work", "files").close("nothing to do")
    assert terminal.getvalue() == "work, nothing to do, took 0 s\n"
    other = Progress("work", "files", enabled=False)
    other.update(1, 2)
    other.close("done")
    assert terminal.getvalue() == "work, nothing to do, took 0 s\n"


def test_without_a_terminal_no_bar_is_imported():
    code = "import sys; from reproduce.common.progress import Progress as P; p = P('a', 'b'); p.update(1, 2); p.close()"
    done = subprocess.run([sys.executable, "-c", f"{code}; print('tqdm' in sys.modules)"], cwd=REPOSITORY, capture_output=True)
    assert done.stdout.decode().splitlines() == ["a: 1/2 b, took 0 s", "False"]
