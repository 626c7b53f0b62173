"""rarfile lists a RAR archive; the first of bsdtar, unrar, unar and 7z that is there and can read it extracts it.

Listing needs no tool, so an archive is judged before a tool is let loose on it, and the tool's result afterwards.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rarfile

from reproduce.acquisition.entries import ArchiveError, Entry, Guard
from reproduce.common.files import size_of
from reproduce.common.processes import open_child
from reproduce.common.progress import Progress

rarfile.TRY_ENCODINGS = ("utf8",)  # as UTF-16 the bytes of "../ÿ" are two harmless letters
rarfile.RAR_MAX_COMMENT = -1  # bytes; a comment would be unpacked by a tool
VOLUME = {
    rarfile.RAR_BLOCK_MAIN: rarfile.RAR_MAIN_VOLUME,
    rarfile.RAR_BLOCK_FILE: rarfile.RAR_FILE_SPLIT_BEFORE | rarfile.RAR_FILE_SPLIT_AFTER,
    rarfile.RAR_BLOCK_SUB: rarfile.RAR_FILE_SPLIT_BEFORE | rarfile.RAR_FILE_SPLIT_AFTER,
    rarfile.RAR_BLOCK_ENDARC: rarfile.RAR_ENDARC_NEXT_VOLUME,
}
"""Flags of a header, by its kind, that tell one of several volumes."""
REPARSE_POINT = 0x400  # Windows' attribute of links and junctions
DAMAGE = (rarfile.Error, ValueError, OverflowError)  # the last two: of dates

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


def list_rar(archive: Path) -> list[Entry]:
    """Read every entry of a RAR archive from its headers, in their order.

    Raises:
        ArchiveError: it is encrypted, one of several volumes, damaged, or cut short.
    """
    blocks: list[Any] = []
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)

        def see(block: Any) -> None:
            if block.flags & VOLUME.get(block.type, 0):
                raise ArchiveError(f"{archive}: one of several volumes; join them first")
            end = block.data_offset + block.add_size
            if end > size:
                raise ArchiveError(
                    f"{archive}: cut short: it has {size:,} bytes, and an entry that ends at byte {end:,}. "
                    "Remove the file and get it again"
                )
            blocks.append(block)

        try:
            if not rarfile.is_rarfile(file):  # else one within it is found
                raise rarfile.NotRarFile("an unknown version of RAR")
            listed = rarfile.RarFile(file, errors="strict", info_callback=see)
            if listed.needs_password():
                raise ArchiveError(f"{archive}: encrypted; the official archive is not")
            last = blocks[-1] if blocks else None  # rarfile stops at what it does not know; RAR 2 writes no end
            if last is None or (last.type != rarfile.RAR_BLOCK_ENDARC and last.data_offset + last.add_size != size):
                raise rarfile.BadRarFile("no header and no end where its entries end")
            return [_entry(archive, block) for block in blocks if block.type == rarfile.RAR_BLOCK_FILE]
        except rarfile.NeedFirstVolume as error:
            raise ArchiveError(f"{archive}: one of several volumes; join them first") from error
        except DAMAGE as error:
            raise ArchiveError(f"{archive}: damaged or cut short ({error}). Remove the file and get it again") from error


def _entry(archive: Path, block: Any) -> Entry:
    if getattr(block, "file_flags", 0) & rarfile.RAR5_FILE_FLAG_UNKNOWN_SIZE:
        raise ArchiveError(f"{archive}: does not say how large {block.filename!r} is")
    mode = block.mode & 0xFFFF if block.host_os == rarfile.RAR_OS_UNIX else None
    kind = "folder" if block.is_dir() else "file"
    if block.file_redir or stat.S_ISLNK(mode or 0) or (mode is None and block.mode & REPARSE_POINT):
        kind = "link"  # symbolic or hard, a junction, or a reference to another entry
    elif kind == "file" and stat.S_IFMT(mode or 0) not in (0, stat.S_IFREG):
        kind = "special file"
    return Entry(block.filename.removesuffix("/"), block.file_size, kind, block.CRC)


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
