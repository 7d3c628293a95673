"""Backbones of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Optional, Union

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Each, Whole, checked
from mmseg_semi.errors import name_some

#: Names of weights in transformers 4 and 5, of the same layers; checkpoints have the latter.
RENAMED = (
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
)
#: Normalizations of a backbone's maps, which weights of the plain network do not have.
ADDED = 'hidden_states_norms.'
#: Weights that no map depends on, so that several GPUs need no ``find_unused_parameters``.
UNUSED = ('mask_token', 'swin.layernorm.weight', 'swin.layernorm.bias')
INSTALL = "install it with: pip install -e '.[hf]'"


def _transformers() -> Any:
    """Import transformers, which takes seconds.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModuleNotFoundError(
            f'HFBackbone needs transformers, which cannot be imported ({error}): {INSTALL}'
        ) from error
    return transformers


@MODELS.register_module()
class HFBackbone(BaseModule):
    """Any ``AutoBackbone`` of transformers: DINOv2, DINOv3, Swin, ConvNeXt V2 and others.

    The images are those of the weights' mean and deviation, which ``data_preprocessor`` says. The
    channels of the maps are in ``channels``. For UniMatch V2's numbers take ``DINOv2``, since
    transformers interpolates position embeddings for other sizes than the weights' in another way.

    Args:
        model: A local folder with ``config.json``, a name on the Hugging Face hub, or the settings
            of a network without weights, such as ``dict(model_type='dinov2', hidden_size=384)``.
        out_indices: Stages that maps come from, as transformers counts: 0 is the patches before the
            first block, so that DINOv2-B's blocks 2, 5, 8, 11 of UniMatch V2 are (3, 6, 9, 12).
            None: four at equal distances, the last one among them.
        pretrained: Whether training starts from the weights of ``model``; a checkpoint replaces
            them.
        frozen: Whether no weight is trained, no gradient kept and the mode always eval.
        with_cp: Whether activations are computed again in the backward pass: less memory, more
            time.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: There is no such model, it is no backbone, or the stages are not its; in the
            forward pass, images whose sides are no multiples of ``patch_size``.
    """

    @checked
    def __init__(
        self,
        model: Union[str, Mapping[str, Any]],
        out_indices: Annotated[Optional[Sequence[int]], Each(Whole(0))] = None,
        pretrained: bool = True,
        frozen: bool = False,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.source = model if isinstance(model, str) else ''
        self.pretrained, self.frozen = pretrained and bool(self.source), frozen
        config = _read_config(model)
        stages = len(getattr(config, 'stage_names', ()))
        if out_indices is None and stages > 4:
            out_indices = [(stages - 1) * part // 4 for part in (1, 2, 3, 4)]
        if stages and (not out_indices or max(out_indices) >= stages):
            raise ValueError(
                f'HFBackbone.out_indices must name stages from 0 to {stages - 1} of {model!r}, got '
                f'{out_indices!r}: set it, such as to ({stages - 1},) for the last one'
            )
        config.out_indices = list(out_indices or ())
        self.network = _build(config, model)
        self.channels = tuple(self.network.channels)
        self.patch_size = _stride(config)
        self._register_state_dict_hook(_save_renamed)
        for name, value in self.network.named_parameters():
            if name.endswith(UNUSED):
                value.requires_grad_(False)
        layers = getattr(getattr(self.network, 'encoder', None), 'layer', None)
        if isinstance(layers, torch.nn.ModuleList) and len(layers) == stages - 1:
            # Stage n is what layer n - 1 gives; nothing reads the layers after the last stage.
            layers[max(config.out_indices) :].requires_grad_(False)
        if with_cp:
            _checkpoint(self.network, config.model_type)
        if frozen:
            self.requires_grad_(False).eval()

    @staticmethod
    def patch_of(backbone: Mapping[str, Any]) -> int:
        """What the sides of images must be multiples of, for a config of this class."""
        return _stride(_read_config(backbone['model']))

    def init_weights(self) -> None:
        """Take the weights of the folder or the hub, unless the network starts from scratch."""
        if not self.pretrained:
            return
        try:
            found, report = type(self.network).from_pretrained(
                self.source,
                config=self.network.config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:  # of the hub, of the file, of torch or safetensors
            raise ValueError(_unreachable(self.source, 'weights', error)) from error
        sized = [one if isinstance(one, str) else one[0] for one in report['mismatched_keys']]
        wrong = [one for one in report['missing_keys'] if ADDED not in one]
        wrong = [one for one in (*sized, *sorted(wrong)) if not one.endswith(UNUSED)]
        if wrong:
            raise ValueError(
                f'HFBackbone.model={self.source!r}: its weights are of another network than its '
                f'config.json says, {len(wrong)} tensors are missing or have other sizes '
                f'({name_some(wrong, 3)}): give the folder as it was downloaded, or '
                'pretrained=False to start from scratch'
            )
        self.network.load_state_dict(found.state_dict())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, C, H, W) into maps (B, D, h, w)."""
        height, width = x.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'HFBackbone ({self.network.config.model_type}) takes images whose sides are '
                f'multiples of {self.patch_size}, got {height} x {width}: crop to such a size in '
                "training, and give the segmentor type='PatchEncoderDecoder', which resizes images "
                'of any size for predictions'
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return tuple(self.network(x).feature_maps)

    def train(self, mode: bool = True) -> HFBackbone:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode and not self.frozen)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take weights with the names of another version of transformers."""
        own = [name for name, _ in (*self.named_parameters(), *self.named_buffers())]
        names = {prefix + _newest(name): prefix + name for name in own}
        for name in [one for one in state_dict if one.startswith(prefix)]:
            state_dict[names.get(_newest(name), name)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _newest(name: str) -> str:
    """The name of a weight in transformers 5."""
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name


def _save_renamed(_module: Any, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Let checkpoints be the same with every version of transformers."""
    for name in [one for one in state if one.startswith(prefix)]:
        state[_newest(name)] = state.pop(name)


def _read_config(model: Union[str, Mapping[str, Any]]) -> Any:
    """Settings of a network of transformers."""
    auto = _transformers().AutoConfig
    if isinstance(model, str):
        try:
            return auto.from_pretrained(model)
        except Exception as error:  # of the hub, or of the file
            raise ValueError(_unreachable(model, 'settings', error)) from error
    settings = {key: _plain(value) for key, value in model.items()}
    kind = settings.pop('model_type', None)
    try:
        return auto.for_model(kind, **settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'HFBackbone.model: transformers has no model_type {kind!r} with these settings '
            f'({_first_line(error)}): give one that it knows, such as dinov2'
        ) from error


def _build(config: Any, model: Any) -> Any:
    try:
        return _transformers().AutoBackbone.from_config(config)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f'HFBackbone.model: transformers cannot make a backbone of {model!r} '
            f'({_first_line(error)}): give a model that it has one for, such as dinov2, '
            'dinov3_vit, swin or convnextv2'
        ) from error


def _checkpoint(network: Any, kind: str) -> None:
    try:
        network.gradient_checkpointing_enable(dict(use_reentrant=False))
    except ValueError as error:
        raise ValueError(
            f'HFBackbone.with_cp=True: {kind} of transformers computes nothing again '
            f'({_first_line(error)}): set with_cp=False'
        ) from error


def _stride(config: Any) -> int:
    """What the sides of images must be multiples of: the patch, times 2 for each further stage."""
    depths = getattr(config, 'depths', None)
    patch = int(getattr(config, 'patch_size', 4))  # 4: of ConvNeXt, whose settings may not say it
    return patch * (2 ** (len(depths) - 1) if depths else 1)


def _plain(value: Any) -> Any:
    """Lists in place of the tuples of a config, which transformers does not take everywhere."""
    return list(value) if isinstance(value, tuple) else value


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.:')
    return line if len(line) <= 160 else f'{line[:160]} and so on'


def _unreachable(source: str, what: str, error: BaseException) -> str:
    return (
        f'HFBackbone.model={source!r}: transformers cannot read its {what} ({_first_line(error)}): '
        'give a local folder with config.json and model.safetensors, or a name on the hub that can '
        'be reached (without HF_HUB_OFFLINE)'
    )
