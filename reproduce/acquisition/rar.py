"""RAR by an external tool: the first of bsdtar, unrar, unar and 7z that is there and can read the archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reproduce.acquisition.entries import ArchiveError, Guard
from reproduce.common.processes import open_child
from reproduce.common.progress import Progress

COMMANDS: dict[str, Callable[[str, str], list[str]]] = {
    "bsdtar": lambda archive, folder: ["-x", "-f", archive, "-C", folder, "--no-same-owner", "--no-same-permissions"],
    "unrar": lambda archive, folder: ["x", "-y", "-o+", "-p-", "-idq", "--", archive, f"{folder}{os.sep}"],
    "unar": lambda archive, folder: ["-q", "-f", "-D", "-nr", "-p", "", "-o", folder, archive],
    "7z": lambda archive, folder: ["x", "-y", "-bd", "-p-", f"-o{folder}", "--", archive],
}
INSTALL = """
    Debian, Ubuntu:  sudo apt-get install unar
    Fedora:          sudo dnf install unar
    Arch:            sudo pacman -S unarchiver
    openSUSE:        sudo zypper install unar
    conda:           conda install -c conda-forge libarchive
    macOS:           brew install unar
    Windows:         winget install 7zip.7zip, and add its folder, C:\\Program Files\\7-Zip, to PATH"""
LOOK_EVERY = 0.2  # seconds
HANGS_AFTER = 600.0  # seconds without a new byte
LOG_BYTES = 500  # of a tool's last words, in an error


def unpack_rar(archive: Path, folder: Path, guard: Guard, check: Callable[[], object]) -> str:
    """Extract a RAR archive into an empty folder.

    Args:
        archive: whose entries ``guard`` has admitted.
        folder: to extract to; nothing else may be in its parent.
        guard: knows what the archive declares.
        check: looks at what a tool has left; raises ArchiveError if it is not what was declared.

    Returns:
        The tool that did it.

    Raises:
        ArchiveError: there is no tool, or none of those there can do it.
    """
    tools = {name: path for name in COMMANDS if (path := shutil.which(name))}
    if not tools:
        raise ArchiveError(f"{archive}: RAR needs one of {', '.join(COMMANDS)}, and none is on PATH. Install one:{INSTALL}")
    reasons = []
    for name, path in tools.items():
        try:
            _run([path, *COMMANDS[name](str(archive.resolve()), str(folder.resolve()))], archive, folder, guard)
            check()
            return name
        except ArchiveError as error:
            reasons.append(f"    {name}: {error}")
            shutil.rmtree(folder)
            folder.mkdir()
    missing = ", ".join(name for name in COMMANDS if name not in tools)
    more = f"\nor install another ({missing}):{INSTALL}" if missing else ""
    reason = "\n".join(reasons)
    raise ArchiveError(f"{archive}: no tool extracts it\n{reason}\nIf the file is damaged, remove it and get it again{more}")


def _run(command: list[str], archive: Path, folder: Path, guard: Guard) -> None:
    """Run a tool, and end it if it writes more than was declared, or hangs."""
    progress = Progress(f"extracting {archive.name} with {Path(command[0]).name}", "MB")
    with tempfile.TemporaryFile() as log:
        process = open_child(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            size, grew = 0, time.monotonic()
            while _runs(process):
                now = size_of(folder)
                if now > guard.declared:
                    raise ArchiveError(f"wrote {now:,} bytes, the archive declares {guard.declared:,}; ended it")
                if now > size:
                    size, grew = now, time.monotonic()
                elif time.monotonic() - grew > HANGS_AFTER:
                    raise ArchiveError(f"wrote nothing for {HANGS_AFTER:.0f} s; ended it")
                progress.update(size / 1e6, guard.declared / 1e6)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode != 0:
            log.seek(max(0, log.seek(0, 2) - LOG_BYTES))
            words = " ".join(log.read().decode(errors="replace").split())
            raise ArchiveError(f"failed with status {process.returncode}: {words or 'without a word'}")
    progress.update(guard.declared / 1e6, guard.declared / 1e6)
    progress.close()


def _runs(process: subprocess.Popen) -> bool:
    try:
        process.wait(LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return True
    return False


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder that another process may be writing."""
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # renamed or removed since
            continue
    return total
