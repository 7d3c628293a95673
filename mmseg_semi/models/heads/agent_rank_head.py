"""RankMatch's inter-pixel rank consistency."""

from __future__ import annotations

from typing import Annotated, Optional

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Feature, Number, OneOf, Whole
from mmseg_semi.functional import (
    agent_correlation,
    gather_agents,
    rank_consistency,
    select_agents,
    to_grid,
)
from mmseg_semi.functional.agents import AGENT_STRATEGIES
from mmseg_semi.functional.ranking import CONSISTENCY_KINDS, MAX_RANKED
from mmseg_semi.structures import SemiStep, View

from .base_semi_head import BaseSemiHead

AGENT_SOURCES = ('view', 'weak')
REDUCTIONS = ('sum', 'mean')


@MODELS.register_module()
class AgentRankHead(BaseSemiHead):
    r"""Make strong views rank a few agent pixels as the weak view does.

    RankMatch's :math:`L_{rank}` (Mai et al., CVPR 2024), the mean over the strong views. Agents are
    chosen on the weak features and read off the strong features at the same pixels; each pixel's
    correlations with them give a distribution over the orders of its ``top`` agents, and the
    strong view's is pulled to the weak one's. The weak features are those of the network that
    makes the pseudo-label, without gradient; when a view is mixed, they are mixed with its box at
    full resolution. Padding does not count, and gives agents only to an image that has fewer other
    pixels than agents. The head has no parameters.

    Args:
        tap: The features: ``'aspp'`` (the paper), ``'encoder'``, ``'penultimate'`` or the path of
            a module of the segmentor.
        num_agents: N.
        top: Agents that are ranked at each pixel, at least 2; ``consistency='rank'`` alone uses it.
        strategy: How agents are chosen: ``'orthogonal'`` (the paper), ``'random'``, ``'top'`` (by
            cumulative self-correlation) or ``'all'`` pixels.
        consistency: ``'rank'``; ``'kl'``, ``'l2'`` or ``'ce'`` compare the correlations
            themselves (ablations).
        agents_from: ``'view'`` reads the strong view's agents off its own features, ``'weak'``
            takes the weak view's for both.
        reduction: ``'sum'`` over the permutations (the paper) or their ``'mean'`` (the authors'
            program, 24 times smaller for 4).
        epsilon: See ``functional.rank_consistency``; the authors' program has 1e-10.
        use_padding: Whether padding takes part: as agents, and in the mean (the authors' program).
        loss_weight: lambda.
        stream: Name of the stream of strong views.

    Raises:
        ValueError: An argument outside its values; in the first step, fewer pixels than agents.
    """

    def __init__(
        self,
        tap: Annotated[str, Feature()] = 'aspp',
        num_agents: Annotated[int, Whole(1)] = 128,
        top: Annotated[int, Whole(2, MAX_RANKED)] = 4,
        strategy: Annotated[str, OneOf(*AGENT_STRATEGIES)] = 'orthogonal',
        consistency: Annotated[str, OneOf(*CONSISTENCY_KINDS)] = 'rank',
        agents_from: Annotated[str, OneOf(*AGENT_SOURCES)] = 'view',
        reduction: Annotated[str, OneOf(*REDUCTIONS)] = 'sum',
        epsilon: Annotated[float, Number(0, 1)] = 0.0,
        use_padding: bool = False,
        loss_weight: Annotated[float, Number(0)] = 0.1,
        stream: str = 'strong',
    ) -> None:
        super().__init__()
        if consistency == 'rank' and num_agents < top:
            raise ValueError(
                f'AgentRankHead.num_agents must be a whole number >= top={top}, got {num_agents}'
            )
        self.stream = stream
        self.tap, self.taps = tap, (tap,)
        self.num_agents, self.top, self.strategy = num_agents, top, strategy
        self.consistency, self.agents_from = consistency, agents_from
        self.reduction, self.loss_weight = reduction, loss_weight
        self.epsilon, self.use_padding = epsilon, use_padding

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return ``dict(loss=...)``."""
        views = step.streams[self.stream]
        weak = torch.cat([self.weak_features(step, view) for view in views])
        strong = torch.cat([view.outputs.features[self.tap] for view in views])
        grid = tuple(weak.shape[-2:])
        valid = [to_grid(view.own_valid, grid) for view in views]
        if self.use_padding:
            valid = [torch.ones_like(one) for one in valid]
        index = self.choose(weak, torch.cat(valid))
        agents = gather_agents(weak, index)
        own = gather_agents(strong, index) if self.agents_from == 'view' else agents
        number = len(views)
        pairs = zip(
            agent_correlation(weak, agents).chunk(number),
            agent_correlation(strong, own).chunk(number),
            valid,
        )
        losses = [
            rank_consistency(
                log_weak,
                log_strong,
                self.top,
                self.consistency,
                self.reduction,
                one,
                self.epsilon,
            )
            for log_weak, log_strong, one in pairs
        ]
        return dict(loss=self.loss_weight * torch.stack(losses).mean())

    @torch.no_grad()
    def weak_features(self, step: SemiStep, view: View) -> Tensor:
        """Return the weak features (B, C, h, w) that belong to a view's pixels."""
        weak = step.teacher.features[self.tap].detach()
        partners = None if view.mix is None else view.mix.outputs
        others = None if partners is None else partners.features[self.tap]
        return view.mix_features(weak, step.teacher.align_corners, others)

    def choose(self, weak: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """Return the pixel indices (B, N) of the agents.

        Args:
            weak: Weak features (B, C, h, w).
            valid: Bool (B, h, w), False on padding. Defaults to all pixels.
        """
        pixels = weak.shape[-2] * weak.shape[-1]
        if self.strategy != 'all' and pixels < self.num_agents:
            raise ValueError(
                f"AgentRankHead: the features '{self.tap}' have {weak.shape[-2]} x "
                f'{weak.shape[-1]} = {pixels} pixels, fewer than num_agents={self.num_agents}: '
                'lower num_agents, or choose a finer tap or a larger crop'
            )
        start = self.draw_start(weak)
        return select_agents(weak, self.num_agents, start, self.strategy, valid=valid)

    def draw_start(self, weak: Tensor) -> Optional[Tensor]:
        """Choose the first agents int64 (B,) of features (B, C, h, w); None draws them evenly."""
        return None

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'tap={self.tap!r}, num_agents={self.num_agents}, top={self.top}, '
            f'strategy={self.strategy!r}, consistency={self.consistency!r}, '
            f'loss_weight={self.loss_weight}'
        )
