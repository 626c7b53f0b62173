"""RAR by external tools: which is taken, and what is made of those that fail, hang or do wrong."""

import pytest
from packing import FILES, fake_tool, refused, tree, write
from rar import rar

from reproduce.acquisition import rar as rar_module
from reproduce.acquisition.archives import extract

WRITES = "".join(
    f"p = here / {name!r}; p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes({data!r})\n"
    for name, data in FILES.items()
)


def test_the_first_tool_that_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in reversed(rar_module.COMMANDS):
        fake_tool(tmp_path / "bin", name, WRITES)
        path = write(tmp_path, rar(FILES))
        assert extract(path, tmp_path / f"by {name}").tool == name
        assert tree(tmp_path / f"by {name}") == FILES
    assert list(rar_module.COMMANDS) == ["bsdtar", "unrar", "unar", "7z"]


MISDEEDS = {
    "fails": ("sys.exit('cannot read this')", "failed with status 1: cannot read this"),
    "leaves a file out": (WRITES + "p.unlink()", "'top/notes.txt' is missing"),
    "cuts a file short": (WRITES + "p.write_bytes(b'')", "'top/notes.txt' has 0 bytes"),
    "writes one too many": (WRITES + "(here / 'more').touch()", "declares no such file"),
    "writes a link": (WRITES + "p.unlink(); p.symlink_to('/etc/passwd')", "became a link"),
    "links a file twice": (WRITES + "os.link(here / 'top/empty.avi', here / 'again')", "became a link"),
    "writes a pipe": (WRITES + "p.unlink(); os.mkfifo(p)", "became a link or a special file"),
    "writes beside its folder": (WRITES + "(here / '../escaped').write_text('x')", "escaped"),
    "writes without end": ("f = open(here / 'x', 'wb')\nwhile True: f.write(bytes(1 << 16)); time.sleep(.01)", "ended it"),
}


@pytest.mark.counts("unpackers that misbehave")
@pytest.mark.parametrize(("script", "says"), MISDEEDS.values(), ids=MISDEEDS)
def test_a_tool_that_does_wrong_is_found_out_and_the_next_one_taken(script, says, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    fake_tool(tmp_path / "bin", "bsdtar", script)
    message = refused(tmp_path, rar(FILES))
    assert says in message and "sudo apt-get install" in message
    fake_tool(tmp_path / "bin", "unar", WRITES)
    assert extract(write(tmp_path, rar(FILES)), tmp_path / "out").tool == "unar"
    assert tree(tmp_path / "out") == FILES


@pytest.mark.counts("unpackers that misbehave")
def test_a_tool_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(rar_module, "HANGS_AFTER", 0.3)
    monkeypatch.setattr(rar_module, "LOOK_EVERY", 0.05)
    fake_tool(tmp_path / "bin", "7z", "time.sleep(60)")
    assert "wrote nothing for" in refused(tmp_path, rar(FILES))


def test_without_a_tool_one_line_for_each_system_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(tmp_path, rar(FILES))
    assert "RAR needs one of bsdtar, unrar, unar, 7z, and none is on PATH" in message
    lines = message.splitlines()
    commands = {
        "Debian": "apt-get install unar",
        "Fedora": "dnf install unar",
        "Arch": "pacman -S unarchiver",
        "openSUSE": "zypper install unar",
        "conda": "conda-forge libarchive",
        "macOS": "brew install unar",
        "Windows": "winget install 7zip.7zip",
    }
    for system, command in commands.items():
        (line,) = (line for line in lines if line.strip().startswith(system))
        assert command in line and ("PATH" in line) == (system == "Windows")
    assert r"C:\Program Files\7-Zip, to PATH" in message
