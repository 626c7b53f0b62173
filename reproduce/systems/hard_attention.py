"""Hard attention as a system: the soft model of the same seed goes on with drawn locations, by REINFORCE.

Each stage starts from the weights that the same stage of the soft run was left with: those of the first have not seen the
videos that it holds out.
"""

from __future__ import annotations

from typing import Any, cast

from datamodules.base import VideoDataModule
from datamodules.videos import Annotation, DataError
from lightning_modules.hard_attention import HardAttentionLSTM
from lightning_modules.hard_recognizer import Drawing, HardRecognizer
from lightning_modules.recognizer import Recognizer
from reproduce.common.catalogue import label_of, row_label
from reproduce.common.settings import Settings, SettingsError, with_values
from reproduce.experiments.folder import RunFolder
from reproduce.experiments.identity import members, run_folder
from reproduce.systems.devices import set_up
from reproduce.systems.preemption import read_weights_of
from reproduce.systems.recurrent import RecurrentSystem, build_data, build_recognizer
from reproduce.systems.trainer import BEST, LAST


def build(settings: Settings, annotation: Annotation) -> HardAttentionSystem:
    """Make the system of a run, not yet fitted.

    Raises:
        SettingsError: the run is of all folds, whose soft runs keep no weights; or the soft model has another attention.
        DataError: the soft run is not finished, or its weights are gone.
    """
    (soft,) = members(settings)
    if settings.data.fold is not None and settings.data.fold.startswith("all"):
        raise SettingsError(
            f"data.fold={settings.data.fold}: hard attention starts from a run's weights; take one fold, as 1/5"
        )
    if soft.model.attention != settings.model.attention:
        raise SettingsError(
            f"hard.start={settings.hard.start}: has {soft.model.attention} attention, and this run "
            f"model.attention={settings.model.attention}; take a row that has the same"
        )
    folder, command = run_folder(soft, annotation), f"python reproduce/train.py … row={soft.row}"
    if folder.metrics() is None:
        raise DataError(
            f"hard attention starts from {soft.row}, which has no finished run in {folder.path.resolve()}. With the other "
            f"settings as they are, {command} makes it"
        )
    if not folder.tested.is_file():
        raise DataError(
            f"{folder.tested.resolve()} is missing: hard attention starts from it. Remove that folder, and {command}"
        )
    set_up(settings)
    return HardAttentionSystem(settings, build_data(settings), folder)


class HardAttentionSystem(RecurrentSystem):
    """Hard attention, from a finished soft run.

    Args:
        settings: of the run.
        data: of the run.
        soft: the finished run that it starts from.
    """

    def __init__(self, settings: Settings, data: VideoDataModule, soft: RunFolder) -> None:
        super().__init__(with_values(settings, {"trainer.max_epochs": settings.hard.epochs}), data)
        self.soft = soft

    def begin(self, stage: str) -> Recognizer:
        """The soft run's network as this stage of it was left, to be trained by REINFORCE.

        Raises:
            DataError: its checkpoint is missing, or of another network.
        """
        hard = self.settings.hard
        drawing = Drawing(
            hard.sampling, hard.score_weight, (hard.entropy, hard.last_entropy), (hard.lr, hard.last_lr), hard.samples
        )
        recognizer = build_recognizer(self.settings, self.data, HardRecognizer, drawing=drawing)
        path = self.soft.stage(stage) / (LAST if stage == "retrain" else BEST)
        weights = read_weights_of(path)
        try:
            cast(HardAttentionLSTM, recognizer.network).start_from(weights)
        except RuntimeError as error:
            raise DataError(f"{path.resolve()}: not a checkpoint of the soft run that it lies in ({error})") from error
        return recognizer

    def describe(self, run: RunFolder) -> dict[str, Any]:
        """Say besides what each step reads, how drawn locations do, and which run it started from."""
        found, figures = super().describe(run), self.figures()
        name = "mAP" if self.data.annotation.multi_label else "accuracy"
        label = row_label(self.settings.row or self.settings.model.name)
        which = f"{label_of(self.data.annotation.data)}, {label}, seed {self.settings.seed}"
        (rows, columns), side = self.data.store.grid, self.settings.hard.region
        read = 1 if side == 1 else f"a region of {min(side, rows)}x{min(side, columns)}, softly,"
        note = f"{which}: each step reads {read} of {rows * columns} locations"
        if f"test/sampled_{name}" in figures:
            drawn, likeliest = (100 * figures[f"test/{which}{name}"] for which in ("sampled_", ""))
            note += (
                f", the likeliest: {name} {likeliest:.1f} %; with locations drawn, the mean of {self.settings.hard.samples} "
                f"tests is {drawn:.1f} %"
            )
        member = {"folder": self.soft.name, "predictions_sha256": self.soft.predictions_sha256()}
        return found | {"notes": [*found["notes"], note], "members": [member]}
