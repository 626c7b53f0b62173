"""Hard attention: a step reads one location, drawn from l_t; REINFORCE gives the gradient of what was drawn.

``s_t ~ Cat(l_t)``, ``x_t = X_{t,s_t}``, and the cost is ``J = E_s[Σ_t CE_t]``, by Jensen an upper bound of ``-log E_s p(y|s)``.
An unbiased estimate of its gradient, exact over all K^T paths in the tests:

    ∇J = E[Σ_t ∇CE_t + Σ_t (R_t - b_t) ∇log l_{t,s_t}],  R_t = Σ_{τ≥t} CE_τ

R_t is the cost to go: what came before s_t does not depend on it, and would only add variance. The baseline b_t must not
have seen s_t either: affine in h_{t-1}, or a moving average. Affine in h_t, which has, it would bias the gradient.

With regions, s_t ~ Cat(p_t), p_{t,s} = Σ_{i∈s} l_{t,i}, draws a square of cells, and Eq. 5 is soft within it: a softmax over
parents times one over the children of each. Regions of one cell are hard attention, and one of all cells is soft attention.

Shapes: B blocks, T time steps, K locations, R regions, m cells of a region at most, D feature channels, H hidden size.

Source: Williams, Simple statistical gradient-following algorithms, 1992; Xu et al., Show, Attend and Tell, 2015, §4.1: moving
average, entropy bonus, and semi-sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_modules.attention import LocationAttention
from lightning_modules.frames import Frames, Glimpses, Output, Rows
from lightning_modules.measures import entropy
from lightning_modules.selective import SelectiveAttentionLSTM

DECAY = 0.9  # of the moving average; Show, Attend and Tell's code
BASELINES = ("state", "average", "none")


class HardAttentionLSTM(SelectiveAttentionLSTM):
    """Soft attention's network with one location a step in Eq. 5: ``x_t = X_{t,s_t}``; or with one region, softly.

    With ``Frames.draws`` u, s_t is where the running sum of l_t, or of p_t, passes u_t. Without them, s_t is the likeliest in
    evaluation; while training, the network is then soft attention, which semi-sampling needs. Its attention is l_t.

    Args:
        *args: of `SoftAttentionLSTM`.
        baseline: b_t: ``state`` (steps left times an affine map of h_{t-1}), ``average`` (of each step, moving), ``none``.
        steps: T, of the moving average.
        region: side of the regions in cells; those at the right and lower edges may be smaller.
        grid: rows and columns of the map; regions of several cells need it.
        **options: of `SoftAttentionLSTM`.

    Raises:
        ValueError: the baseline is unknown, or the regions' map is.
    """

    average: Tensor
    members: Tensor
    """(R, m) locations of each region."""
    inside: Tensor
    """(R, m) whether there is one: regions at the edges may have fewer."""

    def __init__(
        self,
        locations: int,
        *args: Any,
        baseline: str = "state",
        steps: int = 30,
        region: int = 1,
        grid: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(locations, *args, **options)
        if region > 1 and grid is None:
            raise ValueError(f"region={region}: needs grid=, the rows and columns of the map")
        members = regions_of(grid or (1, locations), region)
        self.register_buffer("members", members.clamp_min(0), persistent=False)
        self.register_buffer("inside", members >= 0, persistent=False)
        if baseline not in BASELINES:
            raise ValueError(f"baseline={baseline!r} is none of {', '.join(BASELINES)}")
        self.baseline = baseline
        if baseline == "state":
            self.cost_to_go = nn.Linear(self.lstm.hidden_size, 1)
            nn.init.zeros_(self.cost_to_go.weight)
            nn.init.zeros_(self.cost_to_go.bias)
        if baseline == "average":
            self.register_buffer("average", torch.zeros(steps))

    def start_from(self, soft: Mapping[str, Tensor]) -> None:
        """Take the weights of soft attention's ``state_dict``; the baseline stays as it is.

        Raises:
            RuntimeError: they are of another network.
        """
        own = {name: value for name, value in self.state_dict().items() if name.startswith(("cost_to_go.", "average"))}
        self.load_state_dict({**own, **soft})

    def per_frame(self, frames: Frames) -> tuple[Tensor | Rows, ...]:
        """As soft attention's, and the draws where there are some."""
        own = super().per_frame(frames)
        return own if frames.draws is None else (*own, frames.draws)

    def over_time(self, evidence: tuple[Tensor | Rows, ...], mean: Tensor | None) -> Output:
        """Logits (B, T, C), l (B, T, K), and what REINFORCE needs of the draws (B, T), where there are some."""
        own = 1 if isinstance(self.attention, LocationAttention) else 2
        draws = cast(Tensor, evidence[own]) if len(evidence) > own else None
        if draws is None and self.training:
            return super().over_time(evidence, mean)
        assert mean is not None

        regions = []
        least = torch.finfo(mean.dtype).tiny

        def choose(t: int, l_t: Tensor) -> tuple[Tensor, Tensor]:
            p_t = self.of_regions(l_t)  # (B, R)
            s = p_t.argmax(dim=-1) if draws is None else drawn(p_t.detach(), draws[:, t])  # (B,)
            regions.append(s)
            within = l_t.gather(-1, self.members[s]).clamp_min(least).log()  # (B, m)
            return self.members[s], within.masked_fill(~self.inside[s], -torch.inf).softmax(dim=-1)

        reading = self.read_over_time(evidence[:own], mean, choose)
        glimpses = None
        if draws is not None:
            chosen = self.of_regions(reading.softmax).gather(-1, torch.stack(regions, dim=1)[..., None])[..., 0]  # (B, T)
            glimpses = Glimpses(chosen.clamp_min(least).log(), self._baseline(reading.before.detach()))
        return Output(self.head(reading.hidden), reading.softmax, glimpses)

    def of_regions(self, l: Tensor) -> Tensor:  # noqa: E741 - the paper's letter
        """Sum attention over each region, (…, K) -> p (…, R)."""
        return (l[..., self.members] * self.inside).sum(dim=-1)

    def _baseline(self, before: Tensor) -> Tensor:
        """b (B, T) from h_{t-1} (B, T, H), which gets no gradient of it."""
        blocks, steps = before.shape[:2]
        if self.baseline == "state":
            left = torch.arange(steps, 0, -1, device=before.device, dtype=before.dtype)
            return left * self.cost_to_go(before)[..., 0]
        if self.baseline == "average":
            return self.average.to(before.dtype).expand(blocks, -1).clone()
        return before.new_zeros(blocks, steps)

    def follow(self, costs: Tensor) -> None:
        """Move the average, if it is one, towards the mean cost to go of some blocks' steps (B, T)."""
        if self.baseline == "average":
            self.average.lerp_(to_go(costs.detach()).mean(dim=0).to(self.average.dtype), 1 - DECAY)


def regions_of(grid: tuple[int, int], side: int) -> Tensor:
    """Cut a map into squares: (R, m) their locations, row by row; -1 where one at an edge has fewer than others."""
    numbers = torch.arange(grid[0] * grid[1]).view(grid)
    parts = [part.flatten() for band in numbers.split(side) for part in band.split(side, dim=1)]
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


def drawn(l_t: Tensor, draws: Tensor) -> Tensor:
    """Draw a location of each block: l_t (B, K) and uniform numbers (B,) from 0 to 1 -> (B,), where Σ_{j≤i} l_{t,j} passes."""
    summed = l_t.cumsum(dim=-1)
    total = summed[:, -1]
    below = torch.minimum(draws.to(l_t.dtype) * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding gives 1
    return (summed <= below[:, None]).sum(dim=-1)


def to_go(costs: Tensor) -> Tensor:
    """Sum the costs (B, T) from each step on: ``R_t = Σ_{τ≥t} CE_τ``."""
    return costs.flip(-1).cumsum(dim=-1).flip(-1)


@dataclass(frozen=True)
class Reinforce:
    """What is minimised besides Eq. 7: ``w Σ_t (R_t - b_t) log l_{t,s_t} + Σ_t (R_t - b_t)² - λ_H Σ_t H(l_t)``.

    R_t has no gradient; b_t has it in the second term alone, which reaches nothing but the baseline's own parameters.

    Args:
        weight: w; with 1, the gradient of J is unbiased.
    """

    weight: float = 1.0

    def __call__(self, costs: Tensor, attention: Tensor, glimpses: Glimpses, entropy_weight: float = 0.0) -> Tensor:
        """Compute it for each block.

        Args:
            costs: CE (B, T), see ``objective.step_costs``.
            attention: l (B, T, K).
            glimpses: of the same blocks.
            entropy_weight: λ_H.

        Returns:
            (B,).
        """
        ahead = to_go(costs.detach()) - glimpses.baseline.to(costs.dtype)  # R_t - b_t: (B, T)
        score = (ahead.detach() * glimpses.log_chosen.to(costs.dtype)).sum(dim=1)
        return self.weight * score + (ahead**2).sum(dim=1) - entropy_weight * entropy(attention.to(costs.dtype)).sum(dim=1)
