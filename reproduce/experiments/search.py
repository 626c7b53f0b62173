"""Bayesian search and early termination without a server: an Optuna study that outlives this process.

What W&B's server does otherwise: its ``bayes`` fits a Gaussian process to the runs so far and takes the point of largest
expected improvement; here Optuna's tree-structured Parzen estimator proposes points, and takes running ones for bad ones so
that parallel workers spread. Both draw the first points at random, and both search the unit cube of the parameters'
quantiles. Its ``hyperband`` ends a run whose best figure so far does not reach, at the last of the epochs
``min_iter · eta^k``, what the best ``1/eta`` of all runs had there; Optuna's asynchronous successive halving, here, compares
the figures at those epochs themselves, as W&B does with ``strict: true``, and decides once at each.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.files import write_atomically
from reproduce.common.settings import SettingsError
from reproduce.experiments.sweep_file import Sweep, quantile


@dataclass
class Proposal:
    """A point to run.

    Args:
        point: value by dotted key.
        trial: Optuna's.
        epochs: how many of the run's figures the study has been told.
    """

    point: dict[str, Any]
    trial: Any = field(repr=False)
    epochs: int = 0


def _drop_torn_line(journal: Path) -> None:
    """Cut a journal back to its last whole line: the end of the one that a full disk or a power cut left is no use."""
    if journal.is_file():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            write_atomically(journal, content[:whole])


class Search:
    """The study of a sweep.

    Points that were being run when an earlier process was killed, or that failed, come first. One process at a time may
    work on a study.

    Args:
        sweep: the file.
        listed: points to run, for ``grid`` and ``random``; None for the sampler's.
        count: points in all, those of earlier processes included.
        journal: file that holds the study.
        seed: of the sampler.

    Raises:
        SettingsError: Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, listed: Sequence[dict[str, Any]] | None, count: int, journal: Path, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise SettingsError("bayes and early_terminate need Optuna here: pip install -e '.[sweep]'") from None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        journal.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(journal)
        self._states = optuna.trial.TrialState
        self.sweep, self.listed = sweep, listed
        try:
            self.study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal))),
                study_name=sweep.name,
                direction="maximize" if sweep.maximize else "minimize",
                load_if_exists=True,
            )
            earlier = self.study.get_trials(deepcopy=False)
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{journal.resolve()}: damaged ({error}); remove it, and the sweep begins anew with the runs that are finished"
            ) from error
        # Another seed than the process before, which would be followed step by step otherwise.
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(earlier), constant_liar=True)
        if sweep.hyperband is not None:
            self.study.pruner = optuna.pruners.SuccessiveHalvingPruner(sweep.hyperband.min_iter, sweep.hyperband.eta)
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(spec["values"])
            if "values" in spec and "probabilities" not in spec
            else optuna.distributions.FloatDistribution(0, 1)
            for name, spec in sorted(sweep.parameters.items())
            if listed is None and "value" not in spec
        }
        self._again, ended = self._take_over(earlier)
        self.left = max(0, count - ended)

    def _take_over(self, earlier: Sequence[Any]) -> tuple[list[dict[str, Any]], int]:
        """What earlier processes left undone, and how many points they brought to an end."""
        for trial in earlier:
            if trial.state == self._states.RUNNING:
                self.study.tell(trial.number, state=self._states.FAIL)
        ended = [t for t in earlier if t.state in (self._states.COMPLETE, self._states.PRUNED)]
        if self.listed is not None:
            numbers = {trial.user_attrs["point"] for trial in ended}
            return [{"point": n} for n in range(len(self.listed)) if n not in numbers], len(numbers)
        known = {_key(trial.params) for trial in ended}
        undone = {_key(trial.params): trial.params for trial in earlier if trial.params and _key(trial.params) not in known}
        return list(undone.values()), len(ended)

    def ended(self) -> list[tuple[dict[str, Any], bool]]:
        """The points that came to an end, and whether each was stopped early."""
        trials = self.study.get_trials(deepcopy=False, states=(self._states.COMPLETE, self._states.PRUNED))
        return [(self._values(trial), trial.state == self._states.PRUNED) for trial in trials]

    def _values(self, trial: Any) -> dict[str, Any]:
        return self._point(trial.params) if self.listed is None else self.listed[trial.user_attrs["point"]]

    def ask(self) -> Proposal | None:
        """The next point, or None when all have been asked for."""
        if self.left == 0:
            return None
        self.left -= 1
        again = self._again.pop(0) if self._again else None
        if self.listed is not None:
            assert again is not None
            trial = self.study.ask()
            trial.set_user_attr("point", again["point"])
        else:
            if again is not None:
                self.study.enqueue_trial(again)
            trial = self.study.ask(self.distributions)
        return Proposal(self._values(trial), trial)

    def _point(self, drawn: dict[str, Any]) -> dict[str, Any]:
        categories = {
            name: value
            for name, value in drawn.items()
            if "values" in self.sweep.parameters[name] and "probabilities" not in self.sweep.parameters[name]
        }
        quantiles = {
            name: quantile(self.sweep.parameters[name], min(value, 1 - 1e-12))
            for name, value in drawn.items()
            if name not in categories
        }
        point = {**self.sweep.constants(), **categories, **quantiles}
        return dict(sorted(point.items()))

    def should_stop(self, proposal: Proposal, values: Sequence[float]) -> bool:
        """Whether a run is to end early.

        Args:
            proposal: that is running.
            values: the sweep's metric at each epoch so far.
        """
        for epoch, value in enumerate(values[proposal.epochs :], start=proposal.epochs + 1):
            proposal.trial.report(value, epoch)
            proposal.epochs = epoch
            if proposal.trial.should_prune():
                return True
        return False

    def tell(self, proposal: Proposal, score: float | None, stopped: bool) -> None:
        """How a run ended.

        Args:
            proposal: that was run.
            score: the metric, or None if the run failed or was stopped.
            stopped: whether it was stopped early.
        """
        if score is not None:
            self.study.tell(proposal.trial, score)
        else:
            self.study.tell(proposal.trial, state=self._states.PRUNED if stopped else self._states.FAIL)


def _key(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
