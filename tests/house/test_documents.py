"""The documents: links and paths lead somewhere, scripts accept the commands, README.md is short, protocol §n exists."""

import ast
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from reproduce.common.cli import resolve
from reproduce.common.fields import entries

DOCUMENTS = sorted(REPOSITORY.glob("*.md")) + sorted(
    path
    for folder in ("lightning_modules", "datamodules", "reproduce", "sweeps", ".github")
    for path in (REPOSITORY / folder).rglob("*.md")
)
WRITTEN = [path for path in DOCUMENTS if path.name != "miniature.md"]  # by hand; a command wrote most of that one
MOST_WORDS = 900  # of README.md, outside code
MOST_IN_A_SENTENCE = 25
FOLDERS = ("lightning_modules", "datamodules", "reproduce", "sweeps", "tests", r"\.ci", r"\.github")
PATH = re.compile(rf"(?<![\w/<>-])((?:{'|'.join(FOLDERS)})/[\w./*{{}},-]*)")
SCRIPT = re.compile(r"reproduce/(\w+)\.py")


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def prose(text: str) -> str:
    """A document without its fenced code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def fences(text: str) -> list[tuple[str, str]]:
    """(language, code) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def without_links(text: str) -> str:
    """What a reader sees: the text of links, and no addresses or pictures."""
    text = re.sub(r"!\[[^]]*]\([^)]*\)", "", text)
    return re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", text)


def sentences(text: str) -> list[str]:
    """Sentences of the paragraphs and list items of a text; tables and headings are none."""
    lines = [line.strip() for line in without_links(prose(text)).split("\n")]
    kept = ["" if line.startswith(("|", "#", "    ")) else re.sub(r"^(\*|-|\d+\.) ", "\n", line) for line in lines]
    pieces = re.split(r"\n\s*\n|(?<=[.?!])\*{0,2}\s", "\n".join(line or "\n" for line in kept))
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]


def words(text: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def settings_of(script: str) -> type:
    """The settings class that a script hands to ``command_line``."""
    module = importlib.import_module(f"reproduce.{script}")
    tree = ast.parse((REPOSITORY / "reproduce" / f"{script}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "command_line"]
    return getattr(module, ast.unparse(calls[0].args[0]))


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(script, settings) of each command of ours in a document's code."""
    found = []
    for language, code in fences(text):
        if language != "bash":
            continue
        for line in code.replace("\\\n", " ").split("\n"):
            parts = shlex.split(line.replace("<", "'<").replace(">", ">'") if "<" in line else line, comments=True)
            scripts = [SCRIPT.fullmatch(part) for part in parts]
            for position, match in enumerate(scripts):
                if match:
                    found.append((match[1], [part for part in parts[position + 1 :] if "=" in part]))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"]\(([^)]+)\)", prose(path.read_text())):
        if re.match(r"\w+:", target):
            continue
        place, _, heading = target.partition("#")
        file = path.parent / place if place else path
        assert file.exists(), f"{target} is linked and missing"
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            assert heading in [anchor(one) for one in headings], target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_paths_of_the_repository_exist(path):
    for place in PATH.findall(path.read_text()):
        if "<" in place or "{" in place:
            continue
        assert list(REPOSITORY.glob(place.rstrip("./,"))), f"{place} is named and missing"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_scripts_named_alone_exist(path):
    listed = subprocess.run(["git", "ls-files", "-co"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split("\n")
    names = {Path(line).name for line in listed}
    for script in re.findall(r"(?<![\w/])(\w+\.py)\b", path.read_text()):
        assert script in names, script


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_are_accepted(path):
    for script, given in commands(path.read_text()):
        resolve(settings_of(script), given)  # raises for an unknown key or an impossible value


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_settings_in_the_text_exist(path):
    scripts = [file.stem for file in (REPOSITORY / "reproduce").glob("*.py") if "command_line(" in file.read_text()]
    known = {entry.key for script in scripts for entry in entries(settings_of(script))}
    for key in re.findall(r"`'?(?:\w+\.py )?([a-z_]+(?:\.[a-z_]+)*)=", prose(path.read_text())):
        assert key in {*known, "key"}, key


def test_the_readme_is_read_in_five_minutes():
    assert words(without_links(prose((REPOSITORY / "README.md").read_text()))) <= MOST_WORDS


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_sentences_are_short(path):
    long = [one for one in sentences(path.read_text()) if words(one) > MOST_IN_A_SENTENCE]
    assert not long


def test_the_readmes_two_commands_stay_as_they_are():
    lines = (REPOSITORY / "README.md").read_text().split("\n")
    assert "pip install -e . && python reproduce/table1.py preset=miniature" in lines
    assert "pip install -e '.[dev]' && pytest" in lines


def test_every_cited_section_of_the_protocol_exists():
    protocol = (REPOSITORY / "reproduce/PROTOCOL.md").read_text()
    headings = re.findall(r"^## §(\d+) ", protocol, flags=re.MULTILINE)
    assert headings == [str(number) for number in range(1, 11)]
    sources = [path for folder in FOLDERS[:5] for path in (REPOSITORY / folder).rglob("*.py")]
    cited = {number for path in sources for number in re.findall(r"protocol,? §(\d+)", path.read_text(), flags=re.IGNORECASE)}
    assert cited and cited <= set(headings)


def test_the_way_from_video_to_cell_is_true():
    text = (REPOSITORY / "reproduce/README.md").read_text()
    way = text.partition("## From video to cell\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. `([\w/.]+)`, `(\w+)`", way, flags=re.MULTILINE)
    assert 0 < len(steps) == len(re.findall(r"^\d+\. ", way, flags=re.MULTILINE)) <= 12
    for place, what in steps:
        tree = ast.parse((REPOSITORY / place).read_text())
        assert what in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, (place, what)


def test_the_system_that_is_added_is_the_one_of_the_contract_test():
    blocks = [code for language, code in fences((REPOSITORY / "reproduce/README.md").read_text()) if language == "python"]
    tree = ast.parse((REPOSITORY / "tests/contract/test_additions.py").read_text())
    texts = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    module, entries_of = (ast.literal_eval(texts[name]) for name in ("SYSTEM", "ENTRIES"))
    assert module in blocks
    assert "".join(line + "\n" for line in entries_of.split("\n") if line.startswith(("SYSTEMS", "ROWS"))) in blocks


def test_the_workflow_calls_what_a_commit_must_pass():
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"]
    runs = {job: [step["run"] for step in jobs[job]["steps"] if "run" in step] for job in jobs}
    assert ".ci/run" in runs["linux"] and jobs["linux"]["strategy"]["matrix"]["python"] == ["3.10", "3.12"]
    assert "pytest" in runs["quick"]
    assert set(jobs["quick"]["strategy"]["matrix"]["system"]) == {
        "macos-latest",
        "windows-latest",
    }


def test_the_citation_names_the_suite_and_the_paper():
    citation = yaml.safe_load((REPOSITORY / ".github/CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert "1511.04119" in citation["preferred-citation"]["url"]
