import pytest

from datamodules.videos import DataError
from reproduce.systems.trainer import Clock, History


def epochs(path, stage="holdout"):
    history = History(path)
    for epoch, score in enumerate([0.5, 0.75, 0.75, 0.25]):
        history.add({"stage": stage, "epoch": epoch, "val/accuracy": score, "train/loss": 1 / (3 + epoch)})
    return history


def test_the_best_epoch_is_the_earliest_of_equals(tmp_path):
    assert epochs(tmp_path / "history.csv").best("holdout", "val/accuracy")["epoch"] == 1


def test_figures_read_back_to_the_last_bit(tmp_path):
    written = epochs(tmp_path / "history.csv")
    assert History(tmp_path / "history.csv").rows("holdout") == written.rows("holdout")


def test_resuming_forgets_what_the_checkpoint_has_not_seen(tmp_path):
    epochs(tmp_path / "history.csv")
    history = History(tmp_path / "history.csv")
    assert [row["epoch"] for row in history.resume("holdout", 2)] == [0, 1]
    history.add({"stage": "holdout", "epoch": 2, "train/loss": 9.0})
    assert [row["train/loss"] for row in History(tmp_path / "history.csv").rows("holdout")][2:] == [9.0]


def test_stages_do_not_disturb_each_other(tmp_path):
    history = epochs(tmp_path / "history.csv")
    history.add({"stage": "retrain", "epoch": 0, "train/loss": 1.0})
    assert len(history.resume("retrain", 0)) == 0 and len(history.rows("holdout")) == 4


@pytest.mark.counts("damaged run folders")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stage,epoch,train/loss\nholdout,0,1.5\nholdout,1\n", "line 3: damaged (not as many values"),
        ("stage,epoch,train/loss\nholdout,0,1.5,7\n", "line 2: damaged (not as many values"),
        ("stage,epoch,train/loss\nholdout,first,1.5\n", "line 2: damaged (no stage, or no number of an epoch"),
        ("epoch,train/loss\n0,1.5\n", "line 2: damaged (no stage"),
        ("stage,epoch,train/loss\nholdout,0,low\n", "line 2: damaged (train/loss is 'low'"),
        ('stage,epoch,train/loss\nholdout,0,"1.5\n', "damaged"),
        ("stage,epoch,val/accuracy\nholdout,0,0.5\n", "line 2: damaged (no train/loss)"),
        ("\x00\x01\x02", "line 1: holds a zero byte"),
        (b"stage,epoch,train/loss\nh\xf6ldout,0,1.5\n", "line 2: not UTF-8"),
    ],
)
def test_a_damaged_history_is_an_error_that_names_the_line(tmp_path, text, says):
    (tmp_path / "history.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        History(tmp_path / "history.csv")
    assert says in str(error.value) and str(tmp_path) in str(error.value) and "remove" in str(error.value)


@pytest.mark.counts("damaged run folders")
def test_a_history_that_lacks_epochs_of_the_checkpoint_is_refused(tmp_path):
    """The best epoch may be among them; one that was not saved yet is only repeated."""
    history = epochs(tmp_path / "history.csv")
    with pytest.raises(DataError, match=r"\[0, 1, 2, 3\] of holdout, its checkpoint 5"):
        history.resume("holdout", 5)


@pytest.mark.counts("damaged run folders")
def test_an_epoch_without_the_figure_that_chooses_is_refused_by_name(tmp_path):
    history = epochs(tmp_path / "history.csv")
    assert history.best("holdout", "val/accuracy")["epoch"] == 1  # the earliest of equals
    with pytest.raises(DataError, match="epoch 0 of holdout has no val/mAP"):
        history.best("holdout", "val/mAP")


def test_seconds_count_all_calls_and_none_twice():
    clock = Clock()
    clock.carry(100.0)  # the first stage's last checkpoint
    clock.carry(150.0)  # the second stage's counts the first one's too
    assert 150 <= clock.seconds() < 151
