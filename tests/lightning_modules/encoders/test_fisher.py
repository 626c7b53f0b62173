"""Fisher vectors against scikit-image, a float64 loop and hand-made cases; encoders against scikit-learn's fits."""

import gzip
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from scipy.stats import norm
from skimage.feature import fisher_vector
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from lightning_modules.encoders.fisher import ROWS, Encoder, fit_encoder, improved
from lightning_modules.encoders.fitted import fingerprint

REFERENCE = SHARED / "data/idt_reference/person01_boxing_d1.gz"
COMPONENTS, DIMENSIONS = 5, 4


def plain(components: int = COMPONENTS, dimensions: int = DIMENSIONS, seed: int = 0) -> Encoder:
    """An encoder that projects nothing, of a drawn mixture."""
    random = np.random.default_rng(seed)
    return Encoder(
        mean=np.zeros(dimensions),
        axes=np.eye(dimensions),
        weights=random.dirichlet(np.full(components, 5.0)),
        means=2 * random.normal(size=(components, dimensions)),
        variances=random.uniform(0.3, 2, (components, dimensions)),
    )


def mixture_of(encoder: Encoder) -> GaussianMixture:
    """The same mixture as scikit-learn has it."""
    mixture = GaussianMixture(len(encoder.weights), covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = encoder.weights, encoder.means, encoder.variances
    mixture.precisions_cholesky_ = encoder.variances**-0.5
    return mixture


def draw(encoder: Encoder, number: int, seed: int = 1) -> np.ndarray:
    """Descriptors of the mixture itself."""
    random = np.random.default_rng(seed)
    which = random.choice(len(encoder.weights), number, p=encoder.weights)
    return encoder.means[which] + np.sqrt(encoder.variances[which]) * random.normal(size=(number, len(encoder.axes)))


def by_loops(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    """The gradients from the definition, in float64: G_σ,k as the mean of q ((x - μ)²/σ² - 1)."""
    x = (x.astype(np.float64) - encoder.mean) @ encoder.axes.T
    densities = np.stack(
        [
            np.log(weight) + norm.logpdf(x, mean, np.sqrt(variance)).sum(axis=1)
            for weight, mean, variance in zip(encoder.weights, encoder.means, encoder.variances, strict=True)
        ],
        axis=1,
    )
    q = np.exp(densities - densities.max(axis=1, keepdims=True))
    q /= q.sum(axis=1, keepdims=True)
    of_means, of_deviations = [], []
    for k, weight in enumerate(encoder.weights):
        z = (x - encoder.means[k]) / np.sqrt(encoder.variances[k])
        of_means.append((q[:, k, None] * z).mean(axis=0) / np.sqrt(weight))
        of_deviations.append((q[:, k, None] * (z**2 - 1)).mean(axis=0) / np.sqrt(2 * weight))
    return np.concatenate([*of_means, *of_deviations])


def vector(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    return encoder.gradients(encoder.sums(x))


def close(one: np.ndarray, other: np.ndarray, share: float = 5e-5) -> bool:
    return bool(np.linalg.norm(one - other) <= share * np.linalg.norm(other))


def test_the_vector_of_one_gaussian_by_hand():
    encoder = Encoder(np.zeros(1), np.eye(1), np.ones(1), np.zeros((1, 1)), np.ones((1, 1)))
    sums = encoder.sums(np.array([[0.0], [2.0]]))
    assert sums.tolist() == [[2, 2, 4]]
    assert encoder.gradients(sums) == pytest.approx([1, 2 / (2 * np.sqrt(2))], rel=1e-6)
    assert encoder.gradients(sums, n=4) == pytest.approx([0.5, 0.5 / np.sqrt(2)], rel=1e-6)


@pytest.mark.parametrize("number", [1, 7, 300])
def test_it_is_scikit_images_but_for_weight_gradients_and_a_sign(number):
    encoder = plain()
    x = draw(encoder, number) + 0.3
    theirs = fisher_vector(x, mixture_of(encoder))
    half = COMPONENTS * DIMENSIONS
    expected = np.concatenate([theirs[COMPONENTS : COMPONENTS + half], -theirs[COMPONENTS + half :]])
    assert close(by_loops(encoder, x), expected, 1e-12)
    assert close(vector(encoder, x), expected)


@pytest.mark.parametrize("number", [1, ROWS, 3 * ROWS + 5])
def test_blocks_of_rows_in_float32_give_what_a_loop_in_float64_gives(number):
    encoder = plain()
    x = draw(encoder, number).astype(np.float32) + 0.1
    sums = encoder.sums(x)
    assert sums.shape == (COMPONENTS, 1 + 2 * DIMENSIONS) and sums.dtype == np.float64
    assert sums[:, 0].sum() == pytest.approx(number, rel=1e-5)
    assert encoder.gradients(sums).dtype == np.float32
    assert close(vector(encoder, x), by_loops(encoder, x), 2e-4)  # many descriptors' mean is small beside each of them
    assert improved(vector(encoder, x)) @ improved(by_loops(encoder, x)) > 1 - 1e-6


def test_posteriors_are_those_of_the_mixture():
    encoder = plain()
    x = draw(encoder, 50)
    given = encoder.posteriors(encoder.project(x))
    assert given.dtype == np.float32
    assert given.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert given == pytest.approx(mixture_of(encoder).predict_proba(x), abs=1e-5)


def test_posteriors_of_a_descriptor_far_from_all_gaussians_are_no_nan():
    encoder = plain()
    given = encoder.posteriors(np.full((1, DIMENSIONS), 1e4, dtype=np.float32))
    assert given.sum() == pytest.approx(1) and given.max() == pytest.approx(1)


@pytest.mark.parametrize("number", [2_000, 50_000])
def test_descriptors_of_the_mixture_itself_have_a_vector_that_vanishes_as_one_over_the_root_of_n(number):
    """E n‖G‖² is 2Kd where Gaussians are far apart, and less where they overlap."""
    encoder = plain()
    share = (
        number * float(np.sum(vector(encoder, draw(encoder, number)).astype(np.float64) ** 2)) / (2 * COMPONENTS * DIMENSIONS)
    )
    assert 0.3 < share < 1.5


@given(st.lists(st.integers(0, 60), max_size=4), st.randoms(use_true_random=False))
@budget(max_examples=30)
def test_sums_add_up_over_any_partition_and_order(cuts, random):
    encoder = plain()
    x = draw(encoder, 60).astype(np.float32)
    order = list(range(60))
    random.shuffle(order)
    parts = np.split(x[order], sorted(cuts))
    assert sum(encoder.sums(part) for part in parts) == pytest.approx(encoder.sums(x), rel=1e-4, abs=1e-4)


def test_repeating_every_descriptor_changes_nothing():
    encoder = plain()
    x = draw(encoder, 40)
    assert close(vector(encoder, np.repeat(x, 3, axis=0)), vector(encoder, x))


def test_no_descriptor_is_a_zero_vector():
    encoder = plain()
    sums = encoder.sums(np.empty((0, DIMENSIONS), dtype=np.float16))
    assert sums.shape == (COMPONENTS, 1 + 2 * DIMENSIONS) and not sums.any()
    given = improved(encoder.gradients(sums))
    assert given.shape == (2 * COMPONENTS * DIMENSIONS,) and given.dtype == np.float32 and not given.any()


def test_improvement_roots_and_normalises_and_leaves_zero():
    assert improved(np.array([[9.0, -16.0, 0.0], [0.0, 0.0, 0.0]])) == pytest.approx(
        np.array([[0.6, -0.8, 0.0], [0.0, 0.0, 0.0]]), abs=1e-7
    )
    encoder = plain()
    assert np.linalg.norm(improved(vector(encoder, draw(encoder, 9)))) == pytest.approx(1, abs=1e-6)


def test_descriptors_of_half_precision_lose_nothing_that_counts():
    encoder = plain()
    x = draw(encoder, 500) + 0.1
    assert improved(vector(encoder, x.astype(np.float16))) @ improved(by_loops(encoder, x)) > 0.9999


def test_memory_does_not_grow_with_the_descriptors():
    encoder = plain(components=64, dimensions=8)
    peaks = []
    for blocks in (2, 30):
        x = np.zeros((blocks * ROWS, 8), dtype=np.float32)
        tracemalloc.start()
        encoder.sums(x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 8e6


@pytest.mark.counts("bad descriptors")
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((3, 5)), r"descriptors of shape \(3, 5\) for an encoder of \(n, 4\)"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.array([[0.0, 0, 0, np.nan]]), "hold NaN"),
        (np.array([[0.0, 0, 0, np.inf]]), "hold NaN, infinity"),
        (np.array([[0.0, 0, 0, 1e30]]), "too large to square"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_bad_descriptors_are_refused(x, said):
    with pytest.raises(ValueError, match=said):
        plain().sums(x)


def samples(number: int = 400, seed: int = 3) -> np.ndarray:
    """Descriptors of three kinds in 8 numbers, of falling spread."""
    random = np.random.default_rng(seed)
    kinds = 3 * random.normal(size=(3, 8))
    return (kinds[random.integers(0, 3, number)] + random.normal(size=(number, 8))) * np.linspace(2, 0.2, 8) + 5


@pytest.mark.parametrize("whiten", [False, True])
def test_fits_are_scikit_learns(whiten):
    x = samples()
    encoder = fit_encoder(x, components=3, dimensions=4, seed=2, whiten=whiten)
    projected = PCA(4, svd_solver="full", whiten=whiten).fit_transform(x)
    assert encoder.project(x) == pytest.approx(projected, abs=1e-4)
    mixture = GaussianMixture(3, covariance_type="diag", init_params="k-means++", random_state=2).fit(projected)
    assert encoder.weights == pytest.approx(mixture.weights_, abs=1e-6)
    assert encoder.means == pytest.approx(mixture.means_, abs=1e-6)
    assert encoder.variances == pytest.approx(mixture.covariances_, abs=1e-6)


def test_an_encoder_is_a_function_of_samples_and_seed():
    first, again, other = (fit_encoder(samples(), components=6, dimensions=4, seed=seed) for seed in (0, 0, 1))
    assert fingerprint(first.arrays()) == fingerprint(again.arrays()) != fingerprint(other.arrays())
    assert fingerprint(fit_encoder(samples(seed=4), components=6, dimensions=4, seed=0).arrays()) != fingerprint(first.arrays())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        np.full((20, 6), 3.0),
        np.repeat(samples(2)[:, :6], 10, axis=0),
        samples(20)[:, :2] @ np.ones((2, 6)),
        np.zeros((5, 6)),
    ],
    ids=["one value", "two values", "a line", "zeros"],
)
def test_samples_that_hardly_vary_make_an_encoder_of_finite_vectors(x, whiten):
    encoder = fit_encoder(x, components=5, dimensions=5, seed=0, whiten=whiten)
    assert all(np.isfinite(array).all() for array in encoder.arrays().values()) and (encoder.variances > 0).all()
    assert np.abs(encoder.project(x)).max() < 100  # rounding is not blown up
    for some in (x, x[:1], x + 1):
        assert np.linalg.norm(improved(vector(encoder, some))) == pytest.approx(1, abs=1e-5)


@pytest.mark.counts("bad samples")
@pytest.mark.parametrize(
    ("number", "components", "dimensions", "said"),
    [
        (4, 5, 2, "4 samples for 5 Gaussians in 2 dimensions: give at least as many samples, or ask for fewer"),
        (4, 2, 6, "4 samples for 2 Gaussians in 6 dimensions"),
        (0, 1, 1, "0 samples"),
        (40, 2, 9, r"9 dimensions of samples of shape \(40, 8\)"),
        (40, 2, 0, "0 dimensions"),
    ],
)
def test_too_few_samples_are_refused(number, components, dimensions, said):
    with pytest.raises(ValueError, match=said):
        fit_encoder(samples(40)[:number], components, dimensions, seed=0)


@pytest.mark.counts("bad samples")
def test_samples_that_are_not_finite_are_refused():
    x = samples()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit_encoder(x, components=3, dimensions=4, seed=0)


def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"an encoder of descriptors needs scikit-learn .*pip install -e '\.\[systems\]'"):
        fit_encoder(samples(), components=3, dimensions=4, seed=0)


def test_arrays_come_back_from_a_file(tmp_path):
    encoder = fit_encoder(samples(), components=3, dimensions=4, seed=0)
    np.savez(tmp_path / "encoder.npz", **encoder.arrays())
    with np.load(tmp_path / "encoder.npz") as arrays:
        again = Encoder.from_arrays(arrays)
    assert fingerprint(again.arrays()) == fingerprint(encoder.arrays())
    assert np.array_equal(vector(again, samples()), vector(encoder, samples()))


def test_other_arrays_are_refused(count):
    arrays = plain().arrays()
    count("bad arrays of an encoder", 3)
    with pytest.raises(ValueError, match=r"has the arrays mean, axes, .*; given are axes, mean"):
        Encoder.from_arrays({name: arrays[name] for name in ("mean", "axes")})
    with pytest.raises(ValueError, match=r"make no encoder together: .*weights \(3,\).*; expected are"):
        Encoder.from_arrays({**arrays, "weights": arrays["weights"][:3]})
    with pytest.raises(ValueError, match=r"make no encoder together: .*means \(20,\)"):
        Encoder.from_arrays({**arrays, "means": arrays["means"].ravel()})


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs the reference output of the authors' trajectories")
@pytest.mark.parametrize(("first", "last"), [(10, 40), (40, 136), (136, 244), (244, 340), (340, 436)])
def test_float32_is_enough_for_real_descriptors(first, last):
    with gzip.open(REFERENCE, "rt") as lines:
        x = np.loadtxt(lines)[:, first:last]
    encoder = fit_encoder(x, components=32, dimensions=(last - first) // 2, seed=0)
    some = x[:300].astype(np.float32)
    assert close(vector(encoder, some), by_loops(encoder, some))
    assert improved(vector(encoder, some)) @ improved(by_loops(encoder, some)) > 1 - 1e-6
