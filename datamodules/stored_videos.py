"""Which videos of an annotation a store of any kind has, and which were replaced since. Free of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from datamodules.manifest import FeatureStoreError
from datamodules.reading import DataError
from datamodules.stores import Store
from datamodules.videos import Annotation, Video, check_sides


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


def to_extract(annotation: Annotation, store: Store, videos: Iterable[Video] | None = None) -> list[str]:
    """Videos, of train and test or of those given, that lack features or have those of a file that was replaced since."""
    videos = annotation.videos if videos is None else tuple(videos)
    return sorted({*store.missing(video.name for video in videos), *replaced(annotation, store, videos)})


def usable(annotation: Annotation, store: Store, skip_bad: bool) -> Annotation:
    """The annotation without the videos that a finished store knows to be bad.

    Raises:
        FeatureStoreError: the store lacks videos, or has features of files that were replaced since.
        DataError: videos are bad and ``skip_bad`` is not set, or leave a class without any.
    """
    names = [video.name for video in annotation.videos]
    missing = store.missing(names)
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
    bad = [name for name in names if name in store.bad]
    if bad and not skip_bad:
        raise DataError(
            f"{annotation.data}: {len(bad)} videos do not decode: {', '.join(map(repr, bad[:5]))}. Replace the files and "
            "run prepare.py with retry_bad=true, or leave them out, and have every table say so, with data.skip_bad=true"
        )
    left = annotation.without(bad, "do not decode")
    if bad:
        check_sides(left, f"    {len(bad)} videos do not decode; replace the files and run prepare.py with retry_bad=true")
    return left
