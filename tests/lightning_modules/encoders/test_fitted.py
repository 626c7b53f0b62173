"""What is learned, as named arrays: each change of one has another fingerprint, and parts and options come back."""

from dataclasses import dataclass

import numpy as np

from lightning_modules.encoders.fitted import arrays_of_options, fingerprint, joined, options_of_arrays, part_of

ARRAYS = {"mean": np.arange(6, dtype=np.float32), "axes": np.ones((2, 3))}


def test_a_fingerprint_is_of_names_shapes_types_and_values():
    first = fingerprint(ARRAYS)
    assert len(first) == 64 and fingerprint(dict(reversed(ARRAYS.items()))) == first
    changed = ARRAYS["mean"].copy()
    changed[-1] = np.nextafter(changed[-1], np.float32(np.inf))
    others = [
        {**ARRAYS, "mean": changed},
        {**ARRAYS, "mean": ARRAYS["mean"].reshape(2, 3)},
        {**ARRAYS, "mean": ARRAYS["mean"].astype(np.float64)},
        {"means": ARRAYS["mean"], "axes": ARRAYS["axes"]},
        {"mean": ARRAYS["mean"]},
    ]
    assert len({first, *map(fingerprint, others)}) == 6


def test_a_fingerprint_does_not_depend_on_the_memory_layout():
    assert fingerprint({"axes": np.asfortranarray(np.arange(6.0).reshape(2, 3))}) == fingerprint(
        {"axes": np.arange(6.0).reshape(2, 3)}
    )


def test_parts_and_options_come_back():
    @dataclass(frozen=True)
    class Options:
        rate: float = 0.5
        sizes: tuple[int, ...] = (1, 2)
        name: str = "abs"

    arrays = joined(one=ARRAYS, two=arrays_of_options(Options()))
    assert set(arrays) == {"one.mean", "one.axes", "two.rate", "two.sizes", "two.name"}
    assert fingerprint(part_of(arrays, "one")) == fingerprint(ARRAYS)
    assert Options(**options_of_arrays(part_of(arrays, "two"))) == Options()
