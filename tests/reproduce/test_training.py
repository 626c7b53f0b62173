from reproduce.training import History


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
