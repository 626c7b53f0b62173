import subprocess
from datetime import datetime, timezone

from reproduce.provenance import commit_of, provenance


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_changes_of_a_checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs.txt").write_text("a result, not code\n")
    assert commit_of(tmp_path) == (commit, False)
    commit_of.cache_clear()  # a process looks once, since the code it has loaded does not change under it
    (tmp_path / "a.py").write_text("2\n")
    assert commit_of(tmp_path) == (commit, True)


def test_a_copy_inside_somebody_elses_repository_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "copy").mkdir()
    assert commit_of(tmp_path / "copy") == (None, None)


def test_a_run_knows_when_and_by_what_it_was_started(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/reproduce/train.py", "row=avg_pool_lstm", "preset=[released,miniature]"])
    found = provenance()
    assert found["command"] == "python reproduce/train.py row=avg_pool_lstm 'preset=[released,miniature]'"
    assert abs((datetime.fromisoformat(found["started"]) - datetime.now(timezone.utc)).total_seconds()) < 5
    assert found["cpu"] and found["cores"] >= 1
