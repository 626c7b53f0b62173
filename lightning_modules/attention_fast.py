"""The fast form of ``attention.py``'s loop: the attention LSTM over time, forward and backward, by hand.

The 30 steps of three layers are 90 cell updates that depend on each other through h_{t-1} → l_t → x_t → h_t. Left to
automatic differentiation, each of them allocates a dozen tensors and adds to the whole weight gradient. Here

* a layer's gates, and its x_t and h_{t-1}, are one matrix product, with weights packed once for all steps;
* gates, states and inputs live in buffers made once for all steps;
* the gradient of a layer's weights is one product over all steps, after the loop;
* features stay where they lie, in half precision; a step's are fetched and converted when the step needs them;
* a cell on a GPU, whose time goes into launching kernels, is one kernel (``fused_cell.py``).

The tests hold it equal to ``SoftAttentionLSTM.equations``, forward and backward.

Shapes: B blocks, T time steps, K locations, D feature channels, H hidden size, L LSTM layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lightning_modules.frames import Rows
from lightning_modules.fused_cell import fused_cell, fused_cell_backward, fuses

Product = Callable[[Tensor], Tensor]


class Layer(NamedTuple):
    """One LSTM layer: gates = ``M (x_t, h_{t-1}) + b`` (Eq. 1), in the order input, forget, output, candidate; or torch's.

    Args:
        weight: M (4H, inputs + H).
        bias: (4H,).
        mask: (T, B, inputs) dropout mask of x_t, or None.
    """

    weight: Tensor
    bias: Tensor
    mask: Tensor | None


def pack_layers(lstm: nn.LSTM, masks: list[Tensor | None], precision: torch.dtype) -> list[Layer]:
    """Join every layer's matrices, with torch's gates i, f, g, o in the order i, f, o, g; left as they are for a fused cell.

    Args:
        lstm: as ``build_lstm`` makes it; its second biases are 0.
        masks: of each layer.
        precision: of the products.
    """
    layers = []
    for number, mask in enumerate(masks):
        matrices = (getattr(lstm, f"weight_{kind}_l{number}") for kind in ("ih", "hh"))
        weight, bias = torch.cat(tuple(matrices), dim=1).to(precision), getattr(lstm, f"bias_ih_l{number}")
        if fuses(weight.device.type):
            layers.append(Layer(weight, bias, mask))
            continue
        i, f, g, o = weight.chunk(4)  # (H, inputs + H) each: three sigmoids, then the tanh
        bias_i, bias_f, bias_g, bias_o = bias.chunk(4)
        layers.append(Layer(torch.cat([i, f, o, g]), torch.cat([bias_i, bias_f, bias_o, bias_g]), mask))
    return layers


def attend_over_time(
    X: Tensor | Rows,
    h_0: Tensor,
    c_0: Tensor,
    layers: list[Layer],
    location: Tensor | None = None,
    content: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute Eqs. 1-5 for all steps of some blocks, with either attention.

    Args:
        X: (B, T, K, D), any float precision, any strides; or by reference.
        h_0, c_0: (L, B, H).
        layers: of the LSTM; the weights' precision is that of the products.
        location: W (K, H) of ``l_t = softmax(W h_{t-1})`` (Eq. 4).
        content: g(X) (B, T, K, D), W_d (D, H) and u (D,) of ``l_t = softmax_i(u · tanh(g(X_{t,i}) + W_d h_{t-1}))``.

    Returns:
        h of the top layer (B, T, H), l (B, T, K).
    """
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers]
    masks = [layer.mask for layer in layers]
    g, W_d, u = (None, None, None) if content is None else content
    cubes, rows = X if isinstance(X, Rows) else (X, None)
    with torch.autocast(cubes.device.type, enabled=False):
        h, attention = _Recurrence.apply(  # type: ignore[misc]
            torch.is_grad_enabled(), rows, cubes, h_0, c_0, location, g, W_d, u, masks, *weights, *biases
        )
    return h.transpose(0, 1), attention.transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """``attend_over_time`` in time-major order; states and gates in the precision of h_0, products in the weights'."""

    @staticmethod
    def forward(ctx: Any, training, rows, X, h_0, c_0, W, g, W_d, u, masks, *parameters):
        """Returns h (T, B, H) and l (T, B, K)."""
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], parameters[layers:]
        B, T = X.shape[:2] if rows is None else rows.shape
        H = h_0.shape[2]
        keep = T if training else 2  # steps whose buffers are kept: without a backward pass only this and the next
        fused = fuses(h_0.device.type)
        buffers = _buffers(h_0, c_0, weights, keep, fused)
        zeros = h_0.new_zeros(B, 4 * H) if fused else None
        products = [product(weight, T) for weight in weights]
        times_W_d = None if W_d is None else product(W_d, T)
        hidden = h_0.new_empty(T, B, H, dtype=weights[0].dtype)
        attention = h_0.new_empty(T, B, X.shape[-2])
        fetch = _Fetch(X, rows, h_0)
        h = h_0[-1].to(hidden.dtype)
        for t in range(T):
            now, following = t % keep, (t + 1) % keep
            X_t = fetch(t)
            if W is not None:
                e = F.linear(h, W).to(attention.dtype)  # (B, K)
            else:
                assert times_W_d is not None
                a = (g[:, t] + times_W_d(h)[:, None, :]).tanh_()  # (B, K, D)
                e = torch.matmul(a, u).to(attention.dtype)  # (B, K)
            torch.softmax(e, dim=1, out=attention[t])  # Eq. 4
            x = torch.bmm(attention[t][:, None], X_t)[:, 0]  # Eq. 5: (B, D)
            for layer in range(layers):
                z, gates = buffers.inputs[layer][now], buffers.gates[layer][now]
                before, after = (buffers.cells[layer][step % (keep + 1)] for step in (t, t + 1))
                width = z.shape[1] - H
                if masks[layer] is None:
                    z[:, :width] = x  # (B, inputs + H)
                else:
                    torch.mul(x, masks[layer][t], out=z[:, :width])
                if zeros is not None:
                    x, cell, found = fused_cell(products[layer](z).to(h_0.dtype), zeros, before, biases[layer], zeros[0])
                    buffers.cells[layer][(t + 1) % (keep + 1)], buffers.gates[layer][now] = cell, found
                    if t + 1 < T:
                        buffers.inputs[layer][following][:, width:] = x
                    continue
                torch.add(products[layer](z), biases[layer], out=gates)  # Eq. 1: (B, 4H)
                gates[:, : 3 * H].sigmoid_()
                gates[:, 3 * H :].tanh_()
                i, f, o, candidate = gates.chunk(4, dim=1)  # (B, H) each
                torch.mul(f, before, out=after).addcmul_(i, candidate)  # Eq. 2
                x = torch.tanh(after).mul_(o)  # Eq. 3
                if t + 1 < T:
                    buffers.inputs[layer][following][:, width:] = x
            hidden[t] = x
            h = hidden[t]
        if training:
            ctx.masks, ctx.layers, ctx.fused = masks, layers, fused
            ctx.save_for_backward(
                rows,
                X,
                h_0,
                W,
                g,
                W_d,
                u,
                hidden,
                attention,
                *weights,
                *buffers.inputs,
                *(step for of_layer in (*buffers.gates, *buffers.cells) for step in (of_layer if fused else [of_layer])),
            )
        return hidden, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden, d_attention):
        """Gradients of every input but the masks; that of X only where it is asked for."""
        rows, X, h_0, W, g, W_d, u, hidden, attention, *rest = ctx.saved_tensors
        layers, masks = ctx.layers, ctx.masks
        B, T = X.shape[:2] if rows is None else rows.shape
        weights, inputs, states = rest[:layers], rest[layers : 2 * layers], rest[2 * layers :]
        if ctx.fused:  # a tensor for each step
            gates = [states[layer * T : (layer + 1) * T] for layer in range(layers)]
            cells = [states[layers * T + layer * (T + 1) :][: T + 1] for layer in range(layers)]
        else:
            gates, cells = states[:layers], states[layers:]
        H = h_0.shape[2]
        products = [product(weight.t(), T) for weight in weights]
        d_gates = [z.new_empty(T, B, 4 * H) for z in inputs]  # in the products' precision
        d_e = torch.empty_like(attention)  # (T, B, K), of the scores before the softmax
        d_h, d_c = (list(torch.zeros_like(h_0)) for _ in range(2))  # (B, H) of each layer's states between two steps
        fetch = _Fetch(X, rows, h_0)
        d_X = h_0.new_empty(X.shape) if ctx.needs_input_grad[2] else None
        d_g = None if g is None else torch.empty_like(g, memory_format=torch.contiguous_format)
        d_s = None if g is None else g.new_empty(T, B, g.shape[-1])  # of W_d h_{t-1}
        d_u = None if u is None else torch.zeros_like(u)
        for t in reversed(range(T)):
            d_x = d_hidden[t].to(h_0.dtype)
            for layer in reversed(range(layers)):
                if ctx.fused:
                    before, after = cells[layer][t], cells[layer][t + 1]
                    d_gates[layer][t], d_c[layer] = fused_cell_backward(
                        d_h[layer] + d_x, d_c[layer], before, after, gates[layer][t]
                    )
                    d_z = products[layer](d_gates[layer][t])  # (B, inputs + H)
                    width = d_z.shape[1] - H
                    d_x, d_h[layer] = d_z[:, :width], d_z[:, width:]
                    d_x = d_x.to(h_0.dtype) if masks[layer] is None else d_x * masks[layer][t]
                    continue
                d_out = d_h[layer].add_(d_x)  # of h_t
                i, f, o, candidate = gates[layer][t].chunk(4, dim=1)
                tanh_c = torch.tanh(cells[layer][t + 1])
                d_cell = d_c[layer].add_(d_out * o * (1 - tanh_c * tanh_c))  # of c_t
                d_i, d_f, d_o, d_candidate = d_gates[layer][t].chunk(4, dim=1)
                d_i.copy_(d_cell * candidate * (i - i * i))
                d_f.copy_(d_cell * cells[layer][t] * (f - f * f))
                d_o.copy_(d_out * tanh_c * (o - o * o))
                d_candidate.copy_(d_cell * i * (1 - candidate * candidate))
                d_cell.mul_(f)  # of c_{t-1}
                d_z = products[layer](d_gates[layer][t])  # (B, inputs + H)
                width = d_z.shape[1] - H
                d_h[layer].copy_(d_z[:, width:])
                d_x = d_z[:, :width].to(h_0.dtype)
                if masks[layer] is not None:
                    d_x = d_x * masks[layer][t]
            if d_X is not None:
                torch.mul(attention[t][:, :, None], d_x[:, None], out=d_X[:, t])
            X_t = fetch(t)
            d_l = torch.bmm(d_x[:, None], X_t.transpose(1, 2))[:, 0]  # (B, K)
            if d_attention is not None:
                d_l = d_l + d_attention[t]
            l_t = attention[t]
            weighted = l_t * d_l
            torch.sub(weighted, l_t * weighted.sum(dim=1, keepdim=True), out=d_e[t])
            d_h[-1] = d_h[-1].to(h_0.dtype)
            if W is not None:
                d_h[-1] += d_e[t].to(W.dtype) @ W
            else:
                assert g is not None and W_d is not None and u is not None
                assert d_g is not None and d_s is not None and d_u is not None
                h = hidden[t - 1] if t else h_0[-1].to(hidden.dtype)
                a = (g[:, t] + F.linear(h, W_d)[:, None, :]).tanh_()  # (B, K, D)
                d_u += d_e[t].to(a.dtype).flatten() @ a.flatten(0, 1)
                slope = a.square_().neg_().add_(1).mul_(u)  # of e by g, (B, K, D)
                torch.mul(slope, d_e[t].to(a.dtype)[:, :, None], out=d_g[:, t])
                d_s[t] = d_g[:, t].sum(dim=1)
                d_h[-1] += d_s[t] @ W_d
        trained = ctx.needs_input_grad[-2 * layers : -layers]
        d_weights = [
            d.flatten(0, 1).t() @ z.flatten(0, 1) if wanted else None
            for d, z, wanted in zip(d_gates, inputs, trained, strict=True)
        ]
        d_biases = [d.sum(dim=(0, 1), dtype=h_0.dtype) for d in d_gates]
        before = torch.cat([h_0[-1:].to(hidden.dtype), hidden[:-1]]).flatten(0, 1)  # h_{t-1}, (T · B, H)
        d_W = None if W is None else d_e.flatten(0, 1).to(before.dtype).t() @ before  # (K, H)
        d_W_d = None if d_s is None else d_s.flatten(0, 1).t() @ before  # (D, H)
        d_X = None if d_X is None else d_X.to(X.dtype)
        d_h, d_c = (torch.stack([state.to(h_0.dtype) for state in states]) for states in (d_h, d_c))
        return (None, None, d_X, d_h, d_c, d_W, d_g, d_W_d, d_u, None, *d_weights, *d_biases)


class _Buffers(NamedTuple):
    """What the backward pass needs of every step, one of each a layer; of a fused cell's results, a list over steps."""

    inputs: list[Tensor]  # (T, B, inputs + H): x_t after dropout, h_{t-1}
    gates: list[Any]  # (T, B, 4H) after their nonlinearities
    cells: list[Any]  # (T + 1, B, H), c_0 first


def _buffers(h_0: Tensor, c_0: Tensor, weights: tuple[Tensor, ...], steps: int, fused: bool) -> _Buffers:
    (layers, B, H), T = h_0.shape, steps
    made = _Buffers(
        [h_0.new_empty(T, B, weight.shape[1], dtype=weight.dtype) for weight in weights],
        [[h_0] * T if fused else h_0.new_empty(T, B, 4 * H) for _ in weights],
        [[h_0] * (T + 1) if fused else h_0.new_empty(T + 1, B, H) for _ in weights],
    )
    for layer in range(layers):
        made.inputs[layer][0, :, -H:] = h_0[layer]
        made.cells[layer][0] = c_0[layer]
    return made


class _Fetch:
    """The cubes X_t (B, K, D) of a step, in h_0's precision: a view, or in memory that the next step takes again."""

    def __init__(self, X: Tensor, rows: Tensor | None, h_0: Tensor) -> None:
        self.X, self.rows = X, None if rows is None else rows.t().contiguous()  # (T, B)
        shape = (h_0.shape[1], *X.shape[-2:])
        self.found = None if rows is None else X.new_empty(shape)
        self.X_t = None if rows is None and X.dtype == h_0.dtype else h_0.new_empty(shape)

    def __call__(self, t: int) -> Tensor:
        if self.X_t is None:
            return self.X[:, t]
        if self.rows is None or self.found is None:
            return self.X_t.copy_(self.X[:, t])
        return self.X_t.copy_(torch.index_select(self.X, 0, self.rows[t], out=self.found))


def product(weight: Tensor, uses: int) -> Product:
    """Make ``x -> x Wᵀ`` for a weight (n, m) that is used many times.

    On the CPU, oneDNN multiplies the few rows of a step about twice as fast once it has the weight in its own layout.
    """
    on = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    if weight.device.type != "cpu" or uses < 2 or not on or not packs(weight.dtype):
        return lambda x: F.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


@cache
def packs(dtype: torch.dtype) -> bool:
    """Try whether this torch, on this CPU, has oneDNN's layout for weights of a precision.

    The operators are private to torch: another release may lack them, or call them differently.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    one = torch.ones(1, 1, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(one, None)
        torch.ops.mkldnn._linear_pointwise(one, packed, None, "none", [], "")
        return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError, TypeError):  # absent; refused by this CPU; another signature
        return False
