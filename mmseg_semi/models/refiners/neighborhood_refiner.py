"""S4MC's refinement of probabilities by their neighborhood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import OneOf, Whole, check_number
from mmseg_semi.files import read_json
from mmseg_semi.functional import refine_neighborhood
from mmseg_semi.functional.neighborhood import JOINT_RULES, JOINT_SCALES
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

JOINT_KEYS = ('per_class', 'overall', 'conditional')
REFINED = ('classes', 'confidence')
LABELS = ('refined', 'raw')


@MODELS.register_module()
class NeighborhoodRefiner(BaseRefiner):
    r"""Raise each class's probability by the neighbor that supports it most.

    S4MC (Kimhi et al., TMLR 2024): :math:`\tilde p_c(x) = p_c(x) + \beta [p_c(n) - J]`; see
    ``functional.refine_neighborhood``. The label is the argmax of the refined scores, which need
    not sum to 1; the papers' programs differ in ``label`` and ``on``.

    Args:
        window: Side of the window in pixels: 3, 5 or 7 in the paper.
        neighbors: Neighbors that are united with the pixel, one after the other.
        criterion: ``'max'``, ``'min'``, ``'random'`` or ``'two_max'``.
        joint: E of the joint probability: None for independent pixels, a number, one for each
            class, or the JSON file that ``tools/analysis_tools/neighbor_agreement.py`` writes.
        joint_key: Which of the file's tables: ``'per_class'``, ``'overall'`` or, for
            ``joint_scale='probability'``, ``'conditional'``.
        joint_scale: ``'one'``, or ``'probability'`` for E times the pixel's own probability.
        joint_rule: ``'max'``: the joint probability is the larger of that and the independent one;
            ``'alone'``: it is that.
        beta: ``'distance'``, or a constant in [0, 1]; the authors' program has exp(-1/2) and
            ``connectivity=4``.
        connectivity: 8 or 4.
        on: ``'classes'``: each class's probability is refined; ``'confidence'``: only the map of
            the largest probability of each pixel, by its largest neighbor of whatever class, and
            the label stays (the program of S4MC on FixMatch).
        label: ``'refined'``: the argmax of the refined scores; ``'raw'``: it stays, and the
            refinement only changes which pixels are selected (the program on CutMix-Seg).
        use_padding: Whether padding is refined and supports classes as other pixels do (the
            programs); else it is outside the image.

    Raises:
        ValueError: An argument outside its values; when the model is built, a table of another
            number of classes.
        FileNotFoundError: There is no such JSON file.
    """

    stage = 'probability'

    def __init__(
        self,
        window: Annotated[int, Whole(3)] = 3,
        neighbors: Annotated[int, Whole(1)] = 1,
        criterion: str = 'max',
        joint: Union[None, float, Sequence[float], str] = None,
        joint_key: Annotated[str, OneOf(*JOINT_KEYS)] = 'per_class',
        beta: Union[str, float] = 'distance',
        connectivity: Annotated[int, OneOf(4, 8)] = 8,
        joint_scale: Annotated[str, OneOf(*JOINT_SCALES)] = 'one',
        joint_rule: Annotated[str, OneOf(*JOINT_RULES)] = 'max',
        on: Annotated[str, OneOf(*REFINED)] = 'classes',
        label: Annotated[str, OneOf(*LABELS)] = 'refined',
        use_padding: bool = False,
    ) -> None:
        super().__init__()
        self.on, self.label, self.use_padding = on, label, use_padding
        if joint is None and (joint_scale, joint_rule) != ('one', 'max'):
            raise ValueError(
                f'NeighborhoodRefiner.joint_scale={joint_scale!r} and joint_rule={joint_rule!r} '
                'say how E is used, but joint is None: give joint, or remove them'
            )
        if window % 2 == 0:
            raise ValueError(f'NeighborhoodRefiner.window must be odd, got {window}')
        if beta != 'distance':
            check_number("NeighborhoodRefiner.beta, if not 'distance',", beta, 0, 1)
        self.options: dict[str, Any] = dict(
            window=window,
            neighbors=neighbors,
            criterion=criterion,
            beta=beta,
            connectivity=connectivity,
            joint_scale=joint_scale,
            joint_rule=joint_rule,
        )
        name = 'NeighborhoodRefiner.joint'
        table: Any = joint
        if isinstance(joint, str):
            name, table = f'{name} ({joint}: {joint_key})', _read_joint(joint, joint_key)
        self.joint: Optional[float] = None
        if hasattr(table, 'tolist'):
            table = table.tolist()  # an array or a tensor
        if isinstance(table, (list, tuple)):
            for value in table:
                check_number(name, value, 0, 1)
            self.register_buffer('joint_table', torch.tensor(table).double(), persistent=False)
        elif table is not None or isinstance(joint, str):
            check_number(name, table, 0, 1)
            self.joint = float(table)
        # Refines one pixel now, so that a wrong argument is refused when the model is built.
        try:
            refine_neighborhood(torch.ones(1, 1, 1, 1), joint=self.joint, **self.options)
        except ValueError as error:
            raise ValueError(f'NeighborhoodRefiner: {error}') from error

    def attach(self, model: SemiSegmentor) -> None:
        """Compare the table with the number of classes."""
        table = getattr(self, 'joint_table', None)
        if table is not None and self.on == 'confidence':
            raise ValueError(
                f'NeighborhoodRefiner.joint has {len(table)} entries, but on={self.on!r} refines '
                'one map, whatever the class: give one number, or None'
            )
        if table is not None and len(table) != model.out_channels:
            raise ValueError(
                f'NeighborhoodRefiner.joint has {len(table)} entries, but the segmentor has '
                f'{model.out_channels} classes: make it anew from '
                'masks of these classes'
            )

    def refine(self, prob: Tensor) -> Tensor:
        """Return the refined scores of maps of probabilities (B, K, H, W)."""
        joint = getattr(self, 'joint_table', self.joint)
        return refine_neighborhood(prob, joint=joint, **self.options)

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Change ``prob``, ``label`` and ``confidence``, as far as the arguments say."""
        prob = pseudo.prob if self.on == 'classes' else pseudo.confidence[:, None]
        if not self.use_padding:
            prob = prob * pseudo.valid[:, None]
        prob = self.refine(prob)
        confidence, label = prob.max(dim=1)
        if self.on == 'confidence':
            return pseudo.update(confidence=confidence)
        if self.label == 'raw':
            return pseudo.update(prob=prob, confidence=confidence)
        return pseudo.update(prob=prob, label=label, confidence=confidence)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        own = {name: getattr(self, name) for name in ('on', 'label', 'use_padding')}
        return ', '.join(f'{name}={value!r}' for name, value in {**self.options, **own}.items())


def _read_joint(path: str, key: str) -> Any:
    remedy = 'Write it with tools/analysis_tools/neighbor_agreement.py.'
    content = read_json(path, remedy, 'NeighborhoodRefiner.joint')
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"NeighborhoodRefiner.joint: {path} has no entry '{key}'. {remedy}")
    return content[key]
