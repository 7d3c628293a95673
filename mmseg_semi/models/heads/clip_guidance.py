"""SemiVL's guidance by CLIP as it was before training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number
from mmseg_semi.errors import hint
from mmseg_semi.functional import at_least_float32, weighted_cross_entropy
from mmseg_semi.models.backbones import CLIPVisionTransformer
from mmseg_semi.models.class_texts import read_texts
from mmseg_semi.models.component import last_head
from mmseg_semi.models.decode_heads import LanguageGuidedHead
from mmseg_semi.models.held_network import HeldNetwork
from mmseg_semi.structures import PseudoLabel, SemiStep

from .base_semi_head import BaseSemiHead

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


@MODELS.register_module()
class CLIPGuidance(HeldNetwork, BaseSemiHead):
    r"""Train unlabeled images with the labels of CLIP, which no training has changed.

    SemiVL (Hoyer et al., ECCV 2024). The encoder as a run begins, CLIP's, stays as it is beside the
    student's, in checkpoints too. A pixel of a weak image gets the class of the text that it is
    most alike, where the softmax of :math:`s` times the cosines with all texts of
    ``decode_head.text`` is at least ``threshold``; a class may have several texts. The label is
    mixed as each view is. The loss is the cross entropy of these pixels over the number of all
    pixels, times :math:`\lambda`, which falls linearly from ``peak`` to 0 over the run. Where
    refiners have set weights of pixels (``RankStatisticsWeight``), they weigh this loss too.

    Args:
        weights: Factor of each stream of unlabeled images by its name, of the mean over its views;
            None: 1/2 (the strong views' 1/4 + 1/4) and 1/2 of ``'strong'`` and ``'perturbed'``.
        threshold: Pixels with at least this probability train.
        scale: s.
        peak: Lambda at the start.

    Raises:
        ValueError: An argument outside its values; when the model is built, an encoder that is no
            ``CLIPVisionTransformer``, a decoder without texts, no such stream; when a run
            begins, a file of texts that does not fit.
    """

    hooks = (dict(type='CLIPGuidanceHook'),)
    texts: Tensor
    index: Tensor

    def __init__(
        self,
        weights: Optional[dict[str, float]] = None,
        threshold: Annotated[float, Number(0, 1)] = 0.9,
        scale: Annotated[float, Number(0, above=True)] = 100.0,
        peak: Annotated[float, Number(0)] = 0.1,
    ) -> None:
        super().__init__()
        self.weights = dict(strong=0.5, perturbed=0.5) if weights is None else dict(weights)
        self.threshold, self.scale, self.peak = threshold, scale, peak
        for name, weight in self.weights.items():
            Number(0).check(f'CLIPGuidance.weights[{name!r}]', weight)
        self._parts: tuple[Any, ...] = ()
        self._loaded = False

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._loaded |= any(name.startswith(prefix) for name in state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def attach(self, model: SemiSegmentor) -> None:
        """Copy the encoder, before it has its weights."""
        encoder, head = model.segmentor.backbone, last_head(model.segmentor)
        if not (
            isinstance(encoder, CLIPVisionTransformer) and isinstance(head, LanguageGuidedHead)
        ):
            raise ValueError(
                'CLIPGuidance labels with CLIPVisionTransformer and the texts of '
                f'LanguageGuidedHead, and model.segmentor has {type(encoder).__name__} and '
                f'{type(head).__name__}: build on _base_/models/clip-b16.py, or remove the head'
            )
        for name in self.weights:
            if name not in model.streams or model.streams[name].source == 'labeled':
                known = [n for n, one in model.streams.items() if one.source != 'labeled']
                raise ValueError(
                    f"CLIPGuidance.weights has '{name}', which is no stream of unlabeled images."
                    f'{hint(name, known)} There are: {", ".join(known)}'
                )
        network = copy.deepcopy(encoder)
        network.detail = None  # no part of what labels
        self.set_network(network)
        self._parts = (encoder, head)  # in a tuple, so that they are no submodules of this
        self.register_buffer('texts', head.text.clone(), persistent=False)
        self.register_buffer('index', torch.arange(len(head.text)), persistent=False)

    def load(self, resumed: bool) -> None:
        """Begin a run, or go on with one: take the encoder's weights as CLIP's, read the texts.

        Args:
            resumed: Whether the run is resumed; CLIP's weights are there then, as they are after
                ``load_from`` of a checkpoint that has them.

        Raises:
            FileNotFoundError: There is no file of the texts.
            ValueError: It does not fit.
        """
        encoder, head = self._parts
        if not (resumed or self._loaded):
            state = encoder.state_dict()
            self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})
        texts, index = head.text.detach().clone(), torch.arange(len(head.text))
        if head.text_file is not None:
            texts, index = read_texts('decode_head.text', head.text_file, *texts.shape)
        self.texts, self.index = texts.to(head.text), index.to(head.text.device)

    @torch.no_grad()
    def label(self, images: Tensor, valid: Tensor) -> PseudoLabel:
        """Return CLIP's label of weak images (B, 3, H, W), selected where it is sure."""
        image = at_least_float32(self.network(images)[-1])
        with torch.autocast(images.device.type, enabled=False):  # a hundredth is a whole logit
            cosine = torch.einsum('bchw,rc->brhw', image, self.texts.to(image.dtype))
            cosine = F.interpolate(cosine, images.shape[2:], mode='bilinear', align_corners=False)
            confidence, text = (self.scale * cosine).softmax(1).max(1)
        none: Any = None  # not of classes but of texts
        selected = valid & (confidence >= self.threshold)
        return PseudoLabel(none, none, self.index[text], confidence, valid, selected)

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return lambda times the weighted losses of the streams."""
        strength = self.peak * step.remaining(self.config_key)
        pseudo = self.label(step.weak_images, step.valid)
        step.log(f'{self.name}.weight', strength)
        step.log(f'{self.name}.selected', pseudo.used.sum() / step.valid.sum().clamp(min=1))
        losses = []
        for name, weight in self.weights.items():
            views = []
            for view in step.streams[name]:
                own = view.labeled_by(pseudo).pseudo
                given = (own.label, own.valid, own.selected, view.pseudo.weight)
                views.append(weighted_cross_entropy(view.outputs.logits, *given, 'all'))
            losses.append(weight * torch.stack(views).mean())
        return dict(loss=strength * torch.stack(losses).sum())
