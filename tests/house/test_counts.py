"""The summary's count of injected faults and bad inputs: the same from any number of processes, and of passed tests alone."""

import subprocess
import sys
from pathlib import Path

import conftest
import pytest

TESTS = """
import pytest

@pytest.mark.counts("wrong words")
@pytest.mark.parametrize("word", "abc")
def test_marked(word):
    pass

@pytest.fixture
def server(count):
    yield
    count("faults", 3)

def test_counted(server, count):
    count("faults", 2)
    count("faults", 2)
    count("full disks", 0)

def test_counted_as_it_ends(server):
    pass

@pytest.mark.counts("wrong words")
def test_failed(server):
    raise ValueError

@pytest.mark.counts("wrong words")
def test_skipped(server):
    pytest.skip()

@pytest.fixture
def breaks(count):
    count("faults", 1)
    yield
    raise ValueError

def test_that_ends_badly(breaks):
    pass
"""


def section(folder: Path, *words: str) -> list[str]:
    """What pytest prints of counts, run in a process of its own."""
    (folder / "conftest.py").write_text(Path(conftest.__file__).read_text())
    (folder / "test_few.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=conftest.PATIENCE)
    assert "1 failed" in result.stdout, result.stdout + result.stderr
    _, found, after = result.stdout.partition(" injected faults and bad inputs ")
    return [line.strip() for line in after.partition("\n")[2].partition("\n=")[0].splitlines()] if found else []


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_counts_of_tests_that_passed_are_added_up_by_kind(tmp_path, processes):
    assert section(tmp_path, "-n", processes) == ["10 faults, in 2 tests", "3 wrong words, in 3 tests"]


def test_where_nothing_was_counted_nothing_is_printed(tmp_path):
    assert section(tmp_path, "-n", "0", "-k", "failed") == []
