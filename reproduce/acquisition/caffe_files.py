"""BVLC's own files of the paper's network, its weights and ImageNet's mean image: fetched once, and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.files import file_hashes
from datamodules.videos import DataError
from reproduce.acquisition.download import DownloadError, Patience, download
from reproduce.common.dataset import MEAN_FILE, MEAN_SHA256
from reproduce.common.files import Need, check_space
from reproduce.common.processes import locked


@dataclass(frozen=True)
class CaffeFile:
    """A published file.

    Args:
        name: of the file.
        bytes: its size.
        hash, digest: name and value of its hash.
        addresses: of the same file, in the order of trial.
        setting: by which another file is given.
    """

    name: str
    bytes: int
    hash: str
    digest: str
    addresses: tuple[str, ...]
    setting: str


WEIGHTS = CaffeFile(
    name="bvlc_googlenet.caffemodel",
    bytes=53_533_754,
    hash="sha1",
    digest="405fc5acd08a3bb12de8ee5e23a96bec22f08204",  # models/bvlc_googlenet/readme.md of BVLC/caffe
    addresses=(
        "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
        "https://www.deepdetect.com/downloads/platform/pretrained/caffe/googlenet/bvlc_googlenet.caffemodel",
    ),
    setting="backbone.weights=<file> (.caffemodel, .onnx or .pth), or run without ImageNet: backbone.weights=random",
)
MEAN = CaffeFile(
    name=MEAN_FILE,
    bytes=1_572_944,
    hash="sha256",
    digest=MEAN_SHA256,
    addresses=("https://raw.githubusercontent.com/BVLC/caffe/master/python/caffe/imagenet/ilsvrc_2012_mean.npy",),
    setting="backbone.mean=<file>, or take its channels' means: backbone.mean=channels",
)


def fetched(file: CaffeFile, folder: Path, patience: Patience | None = None) -> Path:
    """A file's path in a folder, after a download where it is not there yet; several processes may ask.

    Raises:
        DataError: what is there is another file, no address gives it, or it cannot be written; says where to put it.
    """
    target = folder / file.name

    def check(path: Path) -> None:
        if path.stat().st_size != file.bytes or file_hashes(path, [file.hash])[file.hash] != file.digest:
            raise DataError(f"not BVLC's file: expected {file.bytes:,} bytes with {file.hash.upper()} {file.digest}")

    def check_head(head: bytes) -> None:
        if head.lstrip().startswith(b"<"):
            raise DataError("gives a web page")

    def room(to_come: int, _: int) -> None:
        check_space([Need(folder, to_come, file.name)])

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{file.name}.lock"):
            if not target.is_file():
                download(file.addresses, target, check_head, check, room, patience=patience, has_hash=True)
                return target
            try:
                check(target)
            except DataError as error:
                raise DataError(f"{target.resolve()}: {error}. Remove it, and it is fetched again") from error
    except DownloadError as error:
        raise DataError(
            f"{error}\nRun the same command again to go on, or put the file at\n    {target.resolve()}\nyourself; or give "
            f"another place as {file.setting}"
        ) from error
    except OSError as error:
        raise DataError(f"cannot write {target.resolve()} ({error}); put the file elsewhere and give {file.setting}") from error
    return target
