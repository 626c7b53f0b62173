"""Archives of any kind, and the three data sets packed as their authors distribute them, with a few clips each."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from rar import rar

from datamodules import hmdb51, hollywood2, ucf11, ucf101
from datamodules.miniature import VERSION
from datamodules.videos import MINIATURE_MARKER
from reproduce.acquisition.archives import extract
from reproduce.acquisition.entries import ArchiveError

FILES = {
    "top/class a/v_(1)_[x]&+;~@!#.avi": b"\0\1\2" * 9000,
    "top/class a/second.avi": b"video" * 4000,
    "top/empty.avi": b"",
    "top/notes.txt": b"hello\n",
}
TRAIN_GROUP, TEST_GROUP = 4, 5  # of UCF-11's paper_like split


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)  # of 1980: the same call gives the same bytes
            info.compress_type = method
            archive.writestr(info, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    return tar_of([(tarfile.TarInfo(name), data) for name, data in files.items()], mode)


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def ucf11_names() -> list[str]:
    """A clip of each class in one group of either side."""
    return [
        f"{name}/v_{prefix}_{group:02d}/v_{prefix}_{group:02d}_01.mpg"
        for name, prefix in ucf11.PREFIXES.items()
        for group in (TRAIN_GROUP, TEST_GROUP)
    ]


def ucf11_files(clips: dict[str, bytes]) -> dict[str, bytes]:
    """The archive's contents, with an annotation folder that is ignored."""
    files = {f"UCF11_updated_mpg/{name}": data for name, data in clips.items()}
    return {**files, "UCF11_updated_mpg/biking/Annotation/v_biking_01_01.xgtf": b"<xml/>"}


def hmdb51_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Contents of the archive of clips, by class folder, and of that of the splits."""
    clips, splits = {}, {}
    for name in hmdb51.CLASSES:
        names = [f"Film_[x]_&_(1)_{name}_f_cm_np1_fr_med_{n}.avi" for n in range(3)]
        clips |= {f"{name}/{clip}": f"{name} {clip}".encode() for clip in names}
        lines = "".join(f"{clip} {side} \n" for clip, side in zip(names, "120", strict=True))
        splits |= {f"testTrainMulti_7030_splits/{name}_test_split{split}.txt": lines.encode() for split in (1, 2, 3)}
    return clips, splits


def rar_of_rars(clips: dict[str, bytes]) -> bytes:
    """HMDB-51's: one RAR of a class each, in one RAR."""
    inner = {
        f"{name}.rar": rar({path: data for path, data in clips.items() if path.startswith(f"{name}/")})
        for name in hmdb51.CLASSES
    }
    return rar(inner)


def hollywood2_files() -> dict[str, bytes]:
    files = {}
    for side in ("train", "test"):
        names = [f"actionclip{side}{n + 1:05d}" for n in range(len(hollywood2.CLASSES))]
        files |= {f"Hollywood2/AVIClips/{name}.avi": name.encode() for name in names}
        for label, class_name in enumerate(hollywood2.CLASSES):
            lines = "".join(f"{name}  {1 if n == label else -1}\n" for n, name in enumerate(names))
            files[f"Hollywood2/ClipSets/{class_name}_{side}.txt"] = lines.encode()
    return {**files, "Hollywood2/AVIClips/actionclipautoautotrain00001.avi": b"noisy"}


MARKERS = {
    "ucf11": {"clips": {n: [int(g in (TRAIN_GROUP, TEST_GROUP)) for g in range(1, 26)] for n in ucf11.PREFIXES}},
    "hmdb51": {"counts": {"train": len(hmdb51.CLASSES), "test": len(hmdb51.CLASSES)}},
    "hollywood2": {"counts": {"train": len(hollywood2.CLASSES), "test": len(hollywood2.CLASSES)}},
    "ucf101": {"counts": {"train": 3 * len(ucf101.CLASSES), "test": len(ucf101.CLASSES)}},
}
"""What a small data set is to be counted as."""


def mark(root: Path, data: str) -> Path:
    """Say in a data set's folder that it is a small one; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / MINIATURE_MARKER).write_text(json.dumps({"version": VERSION, **MARKERS[data]}))
    return root


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, data: bytes, name: str = "archive.bin") -> Path:
    """An archive in a folder whose neighbours would show that something escaped."""
    home = folder / "outer" / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / name).write_bytes(data)
    return home / name


def refused(folder: Path, data: bytes) -> str:
    """Extraction fails, leaves nothing inside or outside; returns the message."""
    path = write(folder, data)
    before = tree(folder)
    with pytest.raises(ArchiveError) as error:
        extract(path, path.with_name("out"))
    assert str(path) in str(error.value)
    assert tree(folder) == before and not list(folder.rglob("*.part")) and not path.with_name("out").exists()
    return str(error.value)


def fake_tool(folder: Path, name: str, script: str) -> None:
    """A tool on PATH; ``here`` is the folder it is to extract to, whichever tool it stands for."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    here = "here = next(w for w in (w.removeprefix('-o') for w in reversed(sys.argv)) if pathlib.Path(w).is_dir())"
    text = f"#!{sys.executable}\nimport os, pathlib, sys, time\n{here}\nhere = pathlib.Path(here)\n{script}\n"
    path.write_text(text)
    path.chmod(0o755)
