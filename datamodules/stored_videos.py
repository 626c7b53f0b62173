"""Which videos of an annotation a store of any kind has, and which were replaced since. Free of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from datamodules.manifest import FeatureStoreError
from datamodules.reading import DataError
from datamodules.stores import Store
from datamodules.videos import REMEDY, Annotation, Video, check_sides


def replaced(annotation: Annotation, store: Store, videos: Iterable[Video] | None = None) -> dict[str, tuple[int, int]]:
    """Videos, of train and test or of those given, whose files are not those that their features were made from.

    Returns:
        Video name -> its file's size in bytes at extraction, and now.
    """
    found = {}
    for video in annotation.videos if videos is None else videos:
        then = store.videos.get(video.name, {}).get("source_bytes")
        if then is not None:
            with contextlib.suppress(OSError):  # a missing video is the annotation's affair
                now = annotation.path(video).stat().st_size
                if now != then:
                    found[video.name] = (then, now)
    return found


def to_extract(
    annotation: Annotation, store: Store, videos: Iterable[Video] | None = None, keep_damaged: bool = False
) -> list[str]:
    """Videos, of train and test or of those given, that lack features or have those of a file that was replaced since.

    With ``keep_damaged``, videos that were refused because they are damaged are among them.
    """
    videos = annotation.videos if videos is None else tuple(videos)
    names = [video.name for video in videos]
    return sorted({*_missing(store, names, keep_damaged), *replaced(annotation, store, videos)})


def _missing(store: Store, names: list[str], keep_damaged: bool) -> list[str]:
    return [*store.missing(names), *(name for name in names if keep_damaged and REMEDY in store.bad.get(name, ""))]


def usable(annotation: Annotation, store: Store, skip_bad: bool, keep_damaged: bool = False) -> Annotation:
    """The annotation without the videos that a finished store knows to be bad, and with a note on damaged ones that are kept.

    Raises:
        FeatureStoreError: the store lacks videos, or has features of files that were replaced since.
        DataError: videos are bad, or damaged and not to be kept, and ``skip_bad`` is not set or leaves a class without any.
    """
    names = [video.name for video in annotation.videos]
    missing = _missing(store, names, keep_damaged)
    if missing:
        raise FeatureStoreError(
            f"{store.path.resolve()}: features of {len(missing)} of {len(names)} videos are missing, {missing[0]!r} for "
            "one; python reproduce/prepare.py with the same settings extracts them"
        )
    others = replaced(annotation, store)
    if others:
        name, (then, now) = next(iter(others.items()))
        raise FeatureStoreError(
            f"{store.path.resolve()}: {len(others)} videos were replaced since their features were made, {name!r} for one: "
            f"it had {then} bytes and has {now}; python reproduce/prepare.py with the same settings extracts them again"
        )
    damaged = [name for name in names if name in store.damaged_files]
    bad = [name for name in names if name in store.bad or (name in damaged and not keep_damaged)]
    remedy = any(name in damaged or REMEDY in store.bad[name] for name in bad)
    what = "do not decode or are damaged" if remedy else "do not decode"
    if bad and not skip_bad:
        raise DataError(
            f"{annotation.data}: {len(bad)} videos {what}: {', '.join(map(repr, bad[:5]))}. Replace the files and "
            "run prepare.py with retry_bad=true, or leave them out, and have every table say so, with data.skip_bad=true"
            + (f"; {REMEDY}" if remedy else "")
        )
    left = annotation.without(bad, what)
    if bad:
        check_sides(left, f"    {len(bad)} videos {what}; replace the files and run prepare.py with retry_bad=true")
    if damaged and keep_damaged:
        left = left.noting(damaged, "damaged", "what decodes of them is kept")
    return left
