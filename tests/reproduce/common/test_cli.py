"""Output in any encoding."""

import os
import subprocess
import sys

import pytest
from commands import words
from conftest import PATIENCE, REPOSITORY, script

SCRIPTS = sorted(path.name for path in (REPOSITORY / "reproduce").glob("*.py") if path.name != "__init__.py")
ENCODINGS = ["ascii", "cp1252", "latin-1"]
PRINTS = """
import sys
from reproduce.common.cli import command_line
from reproduce.common.settings import Settings
command_line(Settings, "", [])
for stream in (sys.stdout, sys.stderr):
    print("λ = 1 ± 2 – 3 × 日本 \\udcff", file=stream)
"""


@pytest.mark.counts("terminals of other encodings")
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_printed_in_any_encoding(tmp_path, name, encoding):
    result = script(name, "--help", cwd=tmp_path, encoding=encoding, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert "key=value" in result.stdout and not result.stderr
    assert "λ" not in result.stdout and "\\u03bb" not in result.stdout


@pytest.mark.counts("terminals of other encodings")
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", rb"lambda = 1 +- 2 - 3 x \u65e5\u672c \udcff"),
        ("cp1252", b"lambda = 1 \xb1 2 \x96 3 \xd7 \\u65e5\\u672c \\udcff"),
        ("utf-8", "λ = 1 ± 2 – 3 × 日本 ".encode() + rb"\udcff"),
    ],
)
def test_what_an_encoding_lacks_is_written_in_other_characters(encoding, said):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, timeout=PATIENCE, env=environment)
    assert done.stdout.strip() == done.stderr.strip() == said and done.returncode == 0


@pytest.mark.counts("terminals of other encodings")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_is_printed_in_any_encoding(trained, clips, encoding):
    table = words(clips, "datasets=[videofolder]", "rows=[soft_attention_1]")
    table.remove("data.name=videofolder")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = script("table1.py", *table, cwd=trained, encoding=encoding, env=environment)
    assert "Soft attention model, lambda = 1" in result.stdout
    assert "λ = 1" in (trained / "results/table1.md").read_text(encoding="utf-8")
