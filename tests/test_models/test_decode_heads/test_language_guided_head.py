"""The decoder of SemiVL by its description, and the file of its texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_semi.models import LanguageGuidedHead
from mmseg_semi.models.class_texts import read_texts

TINY = dict(in_channels=(10, 12, 6), channels=32, heads=2, widths=(32, 16), skip_channels=(8, 4))


def small(classes=3, seed=0, **given):
    """A head whose layers are all random, and so are its texts."""
    torch.manual_seed(seed)
    head = LanguageGuidedHead(**{**TINY, 'num_classes': classes, **given})
    for one in head.parameters():
        torch.nn.init.normal_(one, std=0.2)
    return head.eval()


def maps_of(height, width, images=2):
    torch.manual_seed(1)
    maps = [torch.randn(images, channels, height, width) for channels in TINY['in_channels']]
    return [*maps[:2], F.normalize(maps[2])]


@torch.no_grad()
def test_the_formula():
    head, (first, second, image) = small(), maps_of(8, 6)

    def unit(x, layer, dilation=1):
        conv, norm, _ = layer
        x = F.conv2d(
            x, conv.weight, padding=dilation * (conv.weight.shape[-1] // 2), dilation=dilation
        )
        assert norm.num_channels == 16 * norm.num_groups
        groups = x.reshape(len(x), norm.num_groups, -1)
        mean, std = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True) + 1e-5
        x = ((groups - mean) / std.sqrt()).reshape(x.shape)
        return F.relu(x * norm.weight[:, None, None] + norm.bias[:, None, None])

    def wide(x, size):
        return F.interpolate(x, size, mode='bilinear', align_corners=False)

    decoded = []  # each class alone, up to the attention
    for k in range(3):
        cosine = (image * head.text[k][:, None, None]).sum(1, keepdim=True)
        x = F.conv2d(cosine, head.embed.weight, head.embed.bias, padding=3)
        parts = [unit(x, one, d) for one, d in zip(head.aspp.branches, (1, 6, 12, 18))]
        parts.append(unit(x.mean((2, 3), keepdim=True), head.aspp.pool).expand_as(x))
        decoded.append(x + unit(torch.cat(parts, 1), head.aspp.join))
    x = torch.stack(decoded, 1)  # (B, K, D, h, w)
    places = torch.stack([x[..., :4, :4], x[..., 4:, :4]]).mean((-2, -1))  # (place, B, K, D)
    partial = torch.stack([x[..., :4, 4:], x[..., 4:, 4:]]).mean((-2, -1))
    places = torch.stack([places, partial])  # column, row
    text = head.text @ head.text_proj.weight.T + head.text_proj.bias
    for layer in head.attention:
        normed = F.layer_norm(places, (32,), layer.norm1.weight, layer.norm1.bias)
        named = torch.cat([normed, text.expand_as(places)], -1)
        query, key, value = layer.query(named), layer.key(named), layer.value(normed)
        mixed = []
        for part in (slice(0, 16), slice(16, 32)):
            scores = query[..., part] @ key[..., part].transpose(-1, -2) / math.sqrt(16)
            mixed.append(scores.softmax(-1) @ value[..., part])
        places = places + layer.proj(torch.cat(mixed, -1))
        places = places + layer.mlp(
            F.layer_norm(places, (32,), layer.norm2.weight, layer.norm2.bias)
        )
    decoded = []
    for k in range(3):
        found = places[:, :, :, k].permute(2, 3, 1, 0)  # (B, D, row, column)
        y = x[:, k] + wide(found, (8, 6))
        for up, skip, size in zip(head.ups, (second, first), ((16, 12), (32, 24))):
            y = F.conv_transpose2d(y, up.up.weight, up.up.bias, 2)
            skip = wide(F.conv2d(skip, up.skip.weight, up.skip.bias), size)
            y = unit(unit(torch.cat([y, skip], 1), up.convs[0]), up.convs[1])
        decoded.append(F.conv2d(y, head.classifier.weight, head.classifier.bias, padding=1))
    found = head([first, second, image])
    assert found.shape == (2, 3, 32, 24) and found.std() > 0.01
    torch.testing.assert_close(found, torch.cat(decoded, 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_decoder_for_all_classes():
    """No parameter knows how many there are, nor in which order they come."""
    few, many = small(3), small(5)
    assert [one.shape for one in few.parameters()] == [one.shape for one in many.parameters()]
    maps, order = maps_of(4, 4), [2, 0, 1]
    logits = few(maps)
    few.text.copy_(few.text[order].clone())
    torch.testing.assert_close(few(maps), logits[:, order])


@torch.no_grad()
def test_classes_attend_to_each_other():
    head, maps = small(), maps_of(4, 4)
    logits = head(maps)
    head.text[2] = F.normalize(torch.randn(6), dim=0)
    assert not torch.allclose(head(maps)[:, :2], logits[:, :2])
    head.attention = head.attention[:0]
    alone = head(maps)
    head.text[2] = F.normalize(torch.randn(6), dim=0)
    torch.testing.assert_close(head(maps)[:, :2], alone[:, :2])


def test_every_weight_is_trained():
    head = small().train()
    head(maps_of(5, 5)).square().sum().backward()
    assert all(one.grad is not None for one in head.parameters())


def write_npy(path):
    table = 3 * np.eye(3, 6, dtype=np.float32)
    np.save(path / 'texts.npy', table)
    return str(path / 'texts.npy')


def write_pair(path, classes=(0, 1, 1, 2)):
    content = dict(embeddings=torch.eye(4, 6), classes=torch.tensor(classes))
    torch.save(content, path / 'texts.pt')
    return str(path / 'texts.pt')


def test_the_texts_of_a_file(tmp_path):
    """Of several texts a class has the mean, of length 1; checkpoints keep it."""
    head = LanguageGuidedHead(num_classes=3, text=write_npy(tmp_path), **TINY)
    head.init_weights()
    torch.testing.assert_close(head.text, torch.eye(3, 6))
    head = LanguageGuidedHead(num_classes=3, text=write_pair(tmp_path), **TINY)
    head.init_weights()
    wanted = torch.zeros(3, 6)
    wanted[0, 0] = wanted[2, 3] = 1
    wanted[1, 1] = wanted[1, 2] = math.sqrt(0.5)
    torch.testing.assert_close(head.text, wanted)
    other = LanguageGuidedHead(num_classes=3, text='no file', **TINY)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.text, wanted)


def test_files_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    key = 'decode_head.text'
    with pytest.raises(FileNotFoundError, match=f'{key}: there is no file none.pt: correct'):
        LanguageGuidedHead(num_classes=3, text='none.pt', **TINY).init_weights()
    table = write_npy(tmp_path)
    with pytest.raises(ValueError, match=f'{key}: .*npy has texts of 3 classes.* has 4: write it'):
        read_texts(key, table, 4, 6)
    with pytest.raises(ValueError, match=rf'{key}: .*npy are \(3, 6\).* and 5 channels a text'):
        read_texts(key, table, 3, 5)
    with pytest.raises(ValueError, match=r'has texts of 2 classes, and the model has 3'):
        read_texts(key, write_pair(tmp_path, (0, 0, 2, 2)), 3, 6)
    torch.save({'other': 1}, tmp_path / 'other.pt')
    np.save(tmp_path / 'pickled.npy', np.array([{}]))
    (tmp_path / 'text.pt').write_text('cat, dog')
    for name in ('other.pt', 'pickled.npy', 'text.pt'):
        with pytest.raises(ValueError, match=f'{key}: .*{name} holds no embeddings of texts'):
            read_texts(key, str(tmp_path / name), 3, 6)


def test_with_clips_encoder_in_a_segmentor():
    init_default_scope('mmseg')
    encoder = dict(type='CLIPVisionTransformer', channels=16, depth=2, heads=2, embed_dim=6)
    cfg = dict(
        type='PatchEncoderDecoder',
        backbone=dict(encoder, out_indices=(0, 1)),
        decode_head=dict(TINY, type='LanguageGuidedHead', in_channels=(16, 16, 6), num_classes=3),
        test_cfg=dict(mode='whole'),
    )
    model = MODELS.build(ConfigDict(cfg)).eval()
    model.init_weights()
    with torch.no_grad():
        logits = model.encode_decode(torch.randn(1, 3, 40, 30), [dict(img_shape=(40, 30))])
    assert logits.shape == (1, 3, 40, 30)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(in_channels=(10, 6)), 'in_channels must be a list of 3 values'),
        (dict(widths=(32,)), 'widths must be a list of 2 values'),
        (dict(heads=3), 'channels=32 must be a multiple of heads=3'),
        (dict(heads=0), 'heads must be a whole number >= 1'),
    ],
)
def test_arguments_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        small(**given)
