"""NumPy transcription of the paper's equations in float64, written from the paper and the protocol, not from the torch code.

One block at a time, one step at a time: X (T, K, D) -> logits (T, C), attention (T, K). The paper's order everywhere:
gates i, f, o, g, and M acts on (h_{t-1}; x_t) stacked in this order (Eq. 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Affine = tuple[Array, Array]


@dataclass
class Location:
    """Eq. 4: W (K, H)."""

    W: Array


@dataclass
class Content:
    """Released attention: W_c (D, D), b (D), extra layers, W_d (D, H), u (D), c."""

    W_c: Array
    b: Array
    extra: list[Affine]
    W_d: Array
    u: Array
    c: Array


@dataclass
class Recurrent:
    """All parameters of a recurrent network; every list has one entry a layer."""

    look: Location | Content | str
    """Attention, or the pooling that stands in for it: 'mean' or 'max'."""
    M: list[Affine]
    """(4H, H + inputs), (4H,), rows i, f, o, g."""
    init_h: list[Affine]
    init_c: list[Affine]
    head: tuple[Affine, Affine]


class Result(NamedTuple):
    logits: Array
    attention: Array | None
    hidden: Array


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def softmax(a: Array) -> Array:
    e = np.exp(a - a.max())
    return e / e.sum()


def location_softmax(W: Array, h: Array) -> Array:
    """Eq. 4."""
    scores = np.exp([W[i] @ h for i in range(len(W))])
    return scores / scores.sum()


def content_softmax(p: Content, X_t: Array, h: Array) -> Array:
    """e_i = u·tanh(g(X_{t,i}) + W_d h) + c; tanh after all extra layers but the last, none between W_c and W_1."""
    e = []
    for X_ti in X_t:
        a = p.W_c @ X_ti + p.b
        for n, (W, b) in enumerate(p.extra):
            a = W @ a + b
            if n != len(p.extra) - 1:
                a = np.tanh(a)
        e.append(float(p.u @ np.tanh(a + p.W_d @ h) + p.c))
    return softmax(np.array(e))


def look(how: Location | Content | str, X_t: Array, h: Array) -> tuple[Array, Array | None]:
    """x_t and l_t: Eq. 5, or pooling over locations."""
    if how == "mean":
        return sum(X_t) / len(X_t), None
    if how == "max":
        return np.max(X_t, axis=0), None
    l_t = location_softmax(how.W, h) if isinstance(how, Location) else content_softmax(how, X_t, h)
    return sum(l_ti * X_ti for l_ti, X_ti in zip(l_t, X_t, strict=True)), l_t


def lstm_step(M: Affine, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Eqs. 1-3."""
    d = len(h)
    m = M[0] @ np.concatenate([h, x]) + M[1]
    i, f, o, g = sigmoid(m[:d]), sigmoid(m[d : 2 * d]), sigmoid(m[2 * d : 3 * d]), np.tanh(m[3 * d :])
    c = f * c + i * g
    return o * np.tanh(c), c


def forward(p: Recurrent, X: Array, masks: list[Array] | None = None, head_masks: tuple[Array, Array] | None = None) -> Result:
    """Eqs. 1-6, with given dropout masks: (T, inputs) for each LSTM layer's input, two of (T, H) for the head."""
    mean = X.mean(axis=1).mean(axis=0)
    h = [np.tanh(U @ mean + b) for U, b in p.init_h]  # Eq. 6
    c = [np.tanh(U @ mean + b) for U, b in p.init_c]
    logits, attention, hidden = [], [], []
    for t, X_t in enumerate(X):
        x, l_t = look(p.look, X_t, h[-1])
        for layer, M in enumerate(p.M):
            h[layer], c[layer] = lstm_step(M, x if masks is None else masks[layer][t] * x, h[layer], c[layer])
            x = h[layer]
        (W_1, b_1), (W_2, b_2) = p.head
        first, second = (1, 1) if head_masks is None else (mask[t] for mask in head_masks)
        logits.append(W_2 @ (second * np.tanh(W_1 @ (first * x) + b_1)) + b_2)
        attention.append(l_t)
        hidden.append(x)
    return Result(np.array(logits), None if attention[0] is None else np.array(attention), np.array(hidden))


def softmax_regression(affine: Affine, X: Array) -> Array:
    """Class scores (T, C) from the flattened cube of each frame, location by location, channel by channel."""
    return np.array([affine[0] @ np.concatenate(list(X_t)) + affine[1] for X_t in X])


# Loss, Eq. 7


def cross_entropy(logits: Array, y: int | Array) -> float:
    """-Σ_t Σ_c y_c log ŷ_{t,c}; for a vector y of zeros and ones the binary one, summed over classes and steps."""
    total = 0.0
    for scores in logits:
        if np.ndim(y) == 0:
            total -= np.log(softmax(scores)[y])
        else:
            p = sigmoid(scores)
            total -= np.sum(y * np.log(p) + (1 - y) * np.log(1 - p))
    return total


def penalty(attention: Array, reduction: str) -> float:
    """mean_i or Σ_i of (1 - Σ_t l_{t,i})²."""
    squares = [(1 - sum(attention[t, i] for t in range(len(attention)))) ** 2 for i in range(attention.shape[1])]
    return {"mean": sum(squares) / len(squares), "sum": sum(squares)}[reduction]


def loss(
    logits: Iterable[Array],
    attention: Iterable[Array | None],
    targets: Iterable[int | Array],
    theta: Iterable[Array],
    attention_penalty: float,
    penalty_reduction: str,
    weight_decay: float,
    batch_reduction: str,
) -> float:
    """Eq. 7 of a batch: blocks averaged or summed, γ Σ θ² once."""
    blocks = [
        cross_entropy(scores, y) + (0.0 if gaze is None else attention_penalty * penalty(gaze, penalty_reduction))
        for scores, gaze, y in zip(logits, attention, targets, strict=True)
    ]
    total = sum(blocks) if batch_reduction == "sum" else sum(blocks) / len(blocks)
    return total + weight_decay * sum(float(np.sum(values**2)) for values in theta)


# Taking over the parameters of the torch networks by name


def paper_order(arrays: Mapping[str, Array], pooling: str | None = None) -> Recurrent:
    """Parameters of a torch network, as arrays by torch's names, in the paper's form (torch orders gates i, f, g, o)."""

    def affine(name: str) -> Affine:
        return arrays[f"{name}.weight"], arrays[f"{name}.bias"]

    def gates(values: Array) -> Array:
        i, f, g, o = np.split(values, 4)
        return np.concatenate([i, f, o, g])

    def count(pattern: str) -> range:
        number = 0
        while pattern.format(number) in arrays:
            number += 1
        return range(number)

    layers = count("lstm.weight_ih_l{}")
    how: Location | Content | str
    if "attention.locations.weight" in arrays:
        how = Location(arrays["attention.locations.weight"])
    elif "attention.score.weight" in arrays:
        extra = [affine(f"attention.extra.{n}") for n in count("attention.extra.{}.weight")]
        u, c = arrays["attention.score.weight"][0], arrays["attention.score.bias"][0]
        how = Content(*affine("attention.content"), extra, arrays["attention.state.weight"], u, c)
    else:
        assert pooling is not None
        how = pooling
    M = [
        (
            gates(np.concatenate([arrays[f"lstm.weight_hh_l{n}"], arrays[f"lstm.weight_ih_l{n}"]], axis=1)),
            gates(arrays[f"lstm.bias_ih_l{n}"]),
        )
        for n in layers
    ]
    return Recurrent(
        how,
        M,
        [affine(f"initial_state.hidden.{n}") for n in layers],
        [affine(f"initial_state.cell.{n}") for n in layers],
        (affine("head.hidden"), affine("head.classes")),
    )
