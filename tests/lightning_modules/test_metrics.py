"""From block scores to a set's figures: against scikit-learn, by hand, in any order, on one rank and on two."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, recall_score, top_k_accuracy_score

from lightning_modules import metrics
from lightning_modules.metrics import BlockCountError, BlockMean, VideoMetric, block_scores, summarise

torch.set_num_threads(1)

V, C = 40, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_set(levels: int | None = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (V, C), of few levels where ties are wanted, and class ids (V,), every class present."""
    mean = torch.softmax(2 * torch.randn(V, C, generator=generator(seed)), dim=1)
    if levels:
        mean = (mean * levels).round() / levels
    return mean, torch.randint(C, (V,), generator=generator(seed + 1))


# Blocks


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("last_n", [1, 2, 5])
def test_block_scores_average_the_probabilities_of_the_last_steps(last_n, multi_label):
    logits = 3 * torch.randn(2, 5, C, generator=generator())
    x = logits.double().numpy()
    p = 1 / (1 + np.exp(-x)) if multi_label else np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    scores = block_scores(logits, multi_label, last_n)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, p[:, 5 - last_n :].mean(axis=1), rtol=1e-5)


def test_probabilities_are_averaged_and_not_scores():
    logits = torch.tensor([[[10.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])  # one sure step, two doubtful ones
    assert block_scores(logits, False, 3)[0, 0] == pytest.approx((1 + 2 / (1 + math.e)) / 3, abs=1e-4)


def test_more_last_steps_than_there_are_mean_all_steps():
    logits = torch.randn(2, 4, C, generator=generator())
    assert torch.equal(block_scores(logits, False, 30), block_scores(logits, False, 4))


def test_half_precision_scores_become_float():
    logits = torch.randn(2, 4, C, generator=generator()).bfloat16()
    assert torch.equal(block_scores(logits, False, 4), block_scores(logits.float(), False, 4))


# Figures


@pytest.mark.parametrize("levels", [None, 10, 3], ids=["no ties", "some ties", "many ties"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_average_precision_equals_scikit_learns(multi_label, levels):
    mean, target = random_set(levels)
    if multi_label:
        target = torch.randint(2, (V, C), generator=generator(2))
    hot = target.numpy() if multi_label else np.eye(C, dtype=int)[target.numpy()]
    expected = [average_precision_score(hot[:, c], mean[:, c].numpy()) for c in range(C)]
    np.testing.assert_allclose(metrics.average_precision(mean, target), expected, rtol=1e-5)
    assert summarise(mean, target)["mAP"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_average_precision_by_hand_is_not_interpolated():
    mean = torch.tensor([[0.9, 0.1], [0.8, 0.9], [0.7, 0.2], [0.6, 0.3]])
    target = torch.tensor([[1, 0], [0, 0], [0, 1], [1, 1]])
    expected = [(1 / 1 + 2 / 4) / 2, (1 / 2 + 2 / 3) / 2]  # interpolation would raise the second one's 1/2 to 2/3
    assert metrics.average_precision(mean, target).tolist() == pytest.approx(expected)


def test_average_precision_with_all_scores_equal_is_the_share_of_positives():
    target = torch.tensor([[1, 0], [0, 0], [0, 0], [0, 1], [1, 0]])
    assert metrics.average_precision(torch.full((5, 2), 0.5), target).tolist() == pytest.approx([2 / 5, 1 / 5])


def test_classes_without_a_positive_video_do_not_count():
    mean, _ = random_set()
    target = torch.randint(2, (V, C), generator=generator(2))
    target[:, 3] = 0
    precision = metrics.average_precision(mean, target)
    assert precision.isnan().tolist() == [c == 3 for c in range(C)]
    others = [average_precision_score(target[:, c].numpy(), mean[:, c].numpy()) for c in range(C) if c != 3]
    assert summarise(mean, target)["mAP"] == pytest.approx(np.mean(others), rel=1e-5)
    assert metrics.per_class(mean, target).isnan().sum() == 1


def test_accuracy_and_top_five_equal_scikit_learns():
    mean, target = random_set()
    figures = summarise(mean, target)
    assert figures["accuracy"] == pytest.approx(float((mean.argmax(dim=1) == target).double().mean()))
    assert 0 < figures["accuracy"] < figures["accuracy_top5"] < 1
    expected = top_k_accuracy_score(target.numpy(), mean.numpy(), k=5, labels=range(C))
    assert figures["accuracy_top5"] == pytest.approx(expected)


def test_top_five_of_three_classes_is_always_right():
    assert summarise(torch.eye(3), torch.tensor([1, 2, 0]))["accuracy_top5"] == 1


def test_figures_of_multi_label_sets_are_mean_average_precision_alone():
    mean, _ = random_set()
    assert set(summarise(mean, torch.randint(2, (V, C), generator=generator()))) == {"mAP"}
    votes, target = torch.ones(mean.shape, dtype=torch.int64), torch.zeros(V, dtype=torch.int64)
    assert set(summarise(mean, target)) == {"accuracy", "accuracy_top5", "mAP"}
    assert set(summarise(mean, target, votes)) == {"accuracy", "accuracy_vote", "accuracy_top5", "mAP"}


def test_of_labels_of_which_one_is_enough_accuracy_is_hit_at_1_and_at_5():
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3], [1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]])
    target = torch.zeros(3, 7)
    target[0, [0, 6]], target[1, [5, 0]], target[2, [5, 6]] = 0.5, 0.5, 0.5  # the largest, the second, the sixth and seventh
    votes = torch.tensor([[0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    figures = summarise(scores, target, votes)
    assert figures["accuracy"] == pytest.approx(1 / 3) and figures["accuracy_top5"] == pytest.approx(2 / 3)
    assert figures["accuracy_vote"] == pytest.approx(2 / 3)
    recalls = metrics.per_class(scores, target)
    assert recalls[[0, 5, 6]].tolist() == [0.5, 0, 0.5] and recalls[[1, 2, 3, 4]].isnan().all()


@pytest.mark.parametrize(
    ("votes", "winner"), [([0, 2, 2, 1], 1), ([3, 0, 0, 3], 0), ([1, 1, 1, 1], 0), ([0, 1, 2, 3], 3), ([0, 0, 2, 2], 2)]
)
def test_vote_ties_go_to_the_smallest_class(votes, winner):
    for true in range(4):
        figures = summarise(torch.eye(4)[:1], torch.tensor([true]), torch.tensor([votes]))
        assert figures["accuracy_vote"] == float(true == winner)


def test_mean_and_vote_may_disagree():
    metric = VideoMetric(torch.tensor([3]), 2)
    metric.update(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]), torch.tensor([0, 0, 0]))
    scores = metric.compute()
    figures = summarise(scores.mean, torch.tensor([0]), scores.votes)
    assert (figures["accuracy"], figures["accuracy_vote"]) == (1.0, 0.0)


def test_per_class_is_recall_or_average_precision():
    mean, target = random_set()
    expected = recall_score(target.numpy(), mean.argmax(dim=1).numpy(), average=None, labels=range(C))
    np.testing.assert_allclose(metrics.per_class(mean, target), expected)
    labels = torch.randint(2, (V, C), generator=generator(2))
    torch.testing.assert_close(metrics.per_class(mean, labels), metrics.average_precision(mean, labels))


def test_per_class_is_nan_for_a_class_without_a_video():
    recall = metrics.per_class(torch.eye(3), torch.tensor([0, 2, 2]))
    assert recall[0] == 1
    assert recall[1].isnan()
    assert recall[2] == 0.5


def test_confusion_matrix_has_the_true_classes_as_rows():
    mean, target = random_set()
    matrix = metrics.confusion_matrix(mean, target)
    np.testing.assert_array_equal(matrix, confusion_matrix(target.numpy(), mean.argmax(dim=1).numpy(), labels=range(C)))
    assert not torch.equal(matrix, matrix.T)
    assert metrics.confusion_matrix(torch.tensor([[0.1, 0.9]]), torch.tensor([0])).tolist() == [[0, 1], [0, 0]]


# Videos


def blocks(counts: list[int], classes: int = C, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of all blocks of some videos and the videos' numbers."""
    videos = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return torch.softmax(torch.randn(len(videos), classes, generator=generator(seed)), dim=1), videos


def collect(counts: list[int], scores: torch.Tensor, videos: torch.Tensor, batches: list[list[int]]) -> VideoMetric:
    metric = VideoMetric(torch.tensor(counts), scores.shape[1])
    for places in batches:
        add(metric, scores[places], videos[places])
    return metric


def add(metric: VideoMetric, scores: torch.Tensor, videos: torch.Tensor) -> None:
    """Blocks of several videos, a video at a time."""
    for video in videos.unique().tolist():
        metric.update(scores[videos == video], video)


COUNTS = [3, 1, 5, 2]
EVERY = list(range(11))


def test_video_scores_are_the_mean_over_the_videos_blocks_and_their_argmaxes():
    scores, videos = blocks(COUNTS)
    result = collect(COUNTS, scores, videos, [EVERY]).compute()
    assert result.mean.dtype == torch.float32
    for video, count in enumerate(COUNTS):
        own = scores[videos == video].double().numpy()
        np.testing.assert_allclose(result.mean[video], own.mean(axis=0), rtol=1e-6)
        assert result.votes[video].tolist() == np.bincount(own.argmax(axis=1), minlength=C).tolist()
        assert int(result.votes[video].sum()) == count


@pytest.mark.parametrize("seed", range(5))
def test_order_and_batching_of_updates_do_not_matter(seed):
    scores, videos = blocks(COUNTS)
    expected = collect(COUNTS, scores, videos, [EVERY]).compute()
    order = torch.randperm(11, generator=generator(seed)).tolist()
    result = collect(COUNTS, scores, videos, [order[:4], order[4:5], order[5:]]).compute()
    torch.testing.assert_close(result.mean, expected.mean, rtol=0, atol=1e-7)
    assert torch.equal(result.votes, expected.votes)


def test_many_scores_add_up_as_well_as_single_precision_can():
    metric = VideoMetric(torch.tensor([51_200]), 2)
    for _ in range(100):
        metric.update(torch.tensor([[0.9, 0.1]]).expand(512, 2), 0)
    np.testing.assert_allclose(metric.compute().mean, [[0.9, 0.1]], rtol=2e-6)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 9, 10], "1 videos .* number 2 on 4 instead of 5"),
        ([*EVERY, 3], "1 videos .* number 1 on 2 instead of 1"),
        ([0, 1, 2, *EVERY[4:], 10], "2 videos .* number 1 on 0 instead of 1"),
        ([], "4 videos .* number 0 on 0 instead of 3"),
    ],
    ids=["missing", "doubled", "one missing and one doubled", "nothing"],
)
def test_missing_and_doubled_blocks_are_errors(places, message):
    scores, videos = blocks(COUNTS)
    with pytest.raises(BlockCountError, match=message):
        collect(COUNTS, scores, videos, [places]).compute()


def test_reset_forgets_the_scores_and_keeps_the_counts():
    scores, videos = blocks(COUNTS)
    metric = collect(COUNTS, 1 - scores, videos, [EVERY])
    metric.reset()
    with pytest.raises(BlockCountError):
        metric.compute()
    add(metric, scores, videos)
    expected = collect(COUNTS, scores, videos, [EVERY]).compute()
    assert torch.equal(metric.compute().mean, expected.mean)


def join(metric: VideoMetric, other: VideoMetric) -> VideoMetric:
    """Make ``metric`` believe in a process group whose other rank holds ``other``."""
    states = [other.score_sum, other.votes, other.seen]

    def gather(tensor: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        (theirs,) = [state for state in states if (state.dtype, state.shape) == (tensor.dtype, tensor.shape)]
        return [tensor, theirs]

    metric.dist_sync_fn = gather
    metric.distributed_available_fn = lambda: True
    return metric


@pytest.mark.parametrize(
    "first", [[0, 1, 2, 4, 5, 6, 7, 8], [3], EVERY, [0, 2, 4, 6, 8, 10]], ids=["by video", "one", "all", "within videos"]
)
def test_two_ranks_give_what_one_gives(first):
    scores, videos = blocks(COUNTS)
    second = [place for place in EVERY if place not in first]
    expected = collect(COUNTS, scores, videos, [EVERY]).compute()
    for mine, theirs in [(first, second), (second, first)]:
        metric = join(collect(COUNTS, scores, videos, [mine]), collect(COUNTS, scores, videos, [theirs]))
        result = metric.compute()
        torch.testing.assert_close(result.mean, expected.mean, rtol=0, atol=1e-7)
        assert torch.equal(result.votes, expected.votes)
        assert metric.seen.sum() == len(mine)  # afterwards each rank has its own blocks again


def test_a_block_scored_on_both_ranks_is_an_error():
    scores, videos = blocks(COUNTS)
    metric = join(collect(COUNTS, scores, videos, [EVERY]), collect(COUNTS, scores, videos, [[10]]))
    with pytest.raises(BlockCountError, match="number 3 on 3 instead of 2"):
        metric.compute()


def test_states_stay_out_of_checkpoints():
    assert VideoMetric(torch.tensor(COUNTS), C).state_dict() == {}


def test_an_epochs_mean_counts_blocks_by_weight_and_keeps_nan_without_touching_what_it_is_given():
    mean = BlockMean()
    mean.update(torch.tensor([1.0, 5.0, 100.0]), torch.tensor([1.0, 1.0, 0.0]))
    mean.update(torch.tensor([3.0]), torch.tensor([2.0]))
    assert mean.compute() == torch.tensor(3.0)
    losses = torch.tensor([1.0, float("nan")])
    mean.update(losses, torch.ones(2))
    assert mean.compute().isnan() and losses.tolist()[0] == 1.0 and losses[1].isnan()
    mean.reset()
    mean.update(torch.tensor([7.0]), torch.ones(1))
    assert mean.compute() == torch.tensor(7.0)
