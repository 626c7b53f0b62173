"""What a finished run leaves beside its figures: predictions, filmstrips, and what a reader has to know of it."""

from __future__ import annotations

import math
import platform
from typing import Any

import torch

from datamodules.base import VideoDataModule
from datamodules.leaks import find_leaks, leak_notes
from lightning_modules.measures import NAMES
from lightning_modules.metrics import confusion_matrix, per_class, predictions
from lightning_modules.recognizer import Recognizer
from reproduce.common.settings import Settings
from reproduce.experiments.attention_files import write_attended
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import identity
from reproduce.experiments.provenance import versions
from reproduce.visual.recordings import draw_filmstrips, record

EXTRACTION = ("resize", "precision", "compiled", "decoder", "torch")
"""What of the feature store's manifest says how the features were extracted."""


def write_test(folder: RunFolder, recognizer: Recognizer, data: VideoDataModule) -> dict[str, Any]:
    """Write predictions, what was measured of their attention, filmstrips, and the recording for the report's viewer.

    Returns:
        Each class's score, the confusion matrix, and the filmstrips' captions.
    """
    assert recognizer.scores is not None
    scores, target = recognizer.scores, torch.as_tensor(data.targets("test"))
    multi_label, classes = data.annotation.multi_label, data.annotation.classes
    predicted = predictions(scores, multi_label)
    folder.write_predictions(data.annotation, scores.mean.numpy(), predicted.numpy())
    found = recognizer.attention
    if found is not None and bool(found.counts.any()):
        videos = [video.name for video in data.annotation.test]
        write_attended(folder.attended, videos, NAMES, found.sums.tolist(), found.counts.tolist())
    record(folder, recognizer.network, data)
    figures = [None if math.isnan(figure) else figure for figure in per_class(scores, target).tolist()]
    return {
        "per_class": dict(zip(classes, figures, strict=True)),
        "confusion": None if multi_label else confusion_matrix(scores, target).tolist(),
        "filmstrips": draw_filmstrips(folder, recognizer.network, data, predicted),
    }


def about(settings: Settings, data: VideoDataModule) -> dict[str, Any]:
    """What a table and a reader have to know of a run."""
    annotation = data.annotation
    return {
        "data": annotation.data,
        "identity": identity(settings, annotation),
        "split": annotation.split,
        "miniature": annotation.miniature,
        "multi_label": annotation.multi_label,
        "classes": list(annotation.classes),
        "map": [*data.store.grid, data.store.channels],
        "notes": [*annotation.notes, *leak_notes(annotation, find_leaks(annotation)), *data.store.notes, *data.notes],
        "stride": settings.data.stride,
        "train_videos": len(annotation.train),
        "test_videos": len(annotation.test),
        "groups": {video.name: video.group for video in annotation.test},
        "data_fingerprint": annotation.fingerprint(),
        "features": data.store.manifest["spec"],
        "weights_sha256": data.store.manifest.get("weights_sha256"),
        "feature_fingerprint": data.store.fingerprint(video.name for video in annotation.videos),
        "features_made_by": {key: data.store.manifest.get(key) for key in EXTRACTION},
        "versions": versions() | {"torch": torch.__version__},  # with the build, such as +cpu
        "processes": settings.trainer.devices * settings.trainer.num_nodes,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "gpus": _gpus(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _gpus() -> list[dict[str, Any]]:
    """The GPUs that this process sees: name, memory in GiB, and the CUDA version that torch was built with."""
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [{"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1), "cuda": torch.version.cuda} for one in found]
