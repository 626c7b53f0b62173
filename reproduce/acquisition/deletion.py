"""Delete what is no longer needed once features are complete: archives, and the videos themselves. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datamodules.features import FeatureStore, write_atomically
from datamodules.removed import REMOVED, removed_videos
from datamodules.videos import Annotation, DataError
from reproduce.acquisition.ledger import hashes
from reproduce.common.progress import Progress

CHOICES = ("none", "archives", "videos")


def delete(what: str, annotation: Annotation, store: FeatureStore, archives: Sequence[Path]) -> int:
    """Delete a data set's archives, or these and its videos, after its features were read once more.

    Bad videos stay. The names, sizes and hashes of deleted ones are on disk before the first is deleted, so that the data
    set still counts as whole.

    Args:
        what: ``none``, ``archives`` or ``videos``.
        annotation: the data set; all its videos count, those that the split has on neither side too.
        store: of its features.
        archives: its archives.

    Returns:
        Bytes freed.

    Raises:
        DataError: features are missing or damaged; nothing was deleted.
    """
    if what == "none":
        return 0
    names = [video.name for video in annotation.listed]
    missing = store.missing(names)
    if missing:
        refusal = f"delete={what}: {len(missing)} videos have no features yet, {missing[0]!r} for one; nothing was deleted"
        spare = len(set(missing) & {video.name for video in annotation.spare})
        if spare:
            refusal += (
                f". {spare} of them have no side in split {annotation.split} but may have one in another: prepare.py without "
                "data.split extracts their features too"
            )
        raise DataError(refusal)
    good = [name for name in names if name in store.videos]
    progress = Progress("reading the features once more", "videos")
    for done, name in enumerate(good, start=1):
        damaged = store.damaged([name])
        if damaged:
            raise DataError(f"delete={what}: {damaged[name]}; nothing was deleted")
        progress.update(done, len(good))
    progress.close()
    freed = sum(map(_remove, archives))
    if what == "videos":
        freed += _delete_videos(annotation, good)
    print(f"deleted {what if what == 'archives' else 'archives and videos'}: {freed / 1e9:.2f} GB are free again", flush=True)
    return freed


def _delete_videos(annotation: Annotation, names: Sequence[str]) -> int:
    paths = {name: annotation.folder / name for name in names if (annotation.folder / name).is_file()}
    progress = Progress("hashing the videos", "videos")
    entries = {}
    for done, (name, path) in enumerate(paths.items(), start=1):
        entries[name] = {"bytes": path.stat().st_size, "sha256": hashes(path)["sha256"]}
        progress.update(done, len(paths))
    progress.close()
    content = {"videos": dict(sorted({**removed_videos(annotation.root), **entries}.items()))}
    write_atomically(annotation.root / REMOVED, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return sum(map(_remove, paths.values()))


def _remove(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size
