"""Embeddings of names by a tiny CLIP that is made here."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.models.class_texts import read_texts
from mmseg_semi.zoo import clip_text as tool


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """A folder of a random text transformer and a tokenizer of single letters."""
    transformers = pytest.importorskip('transformers')
    folder = tmp_path_factory.mktemp('clip')
    letters = 'abcdefghijklmnopqrstuvwxyz.'
    words = [*letters, *(f'{one}</w>' for one in letters), '<|startoftext|>', '<|endoftext|>']
    (folder / 'vocab.json').write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cfg = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=6,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    torch.manual_seed(0)
    network = transformers.CLIPTextModelWithProjection(cfg)
    for one in network.parameters():
        torch.nn.init.normal_(one, std=0.5)
    network.save_pretrained(folder)
    return str(folder), network.eval(), tokenizer


def names_file(tmp_path, text):
    (tmp_path / 'names.txt').write_text(text)
    return str(tmp_path / 'names.txt')


@torch.no_grad()
def test_a_name_has_the_mean_of_its_sentences(clip, tmp_path, capsys):
    folder, network, tokenizer = clip
    names, out = names_file(tmp_path, 'sky, wall\ncat\n'), str(tmp_path / 'out.pt')
    tool.main([folder, names, out, '--templates', 'a {}.', 'one {} more'])
    assert '3 texts of 2 classes, 6 channels' in capsys.readouterr().out
    embeddings, classes = read_texts('text', out, 2, 6)
    assert classes.tolist() == [0, 0, 1]
    for found, name in zip(embeddings, ('sky', 'wall', 'cat')):
        total = 0
        for sentence in (f'a {name}.', f'one {name} more'):
            ids = tokenizer([sentence], return_tensors='pt').input_ids
            text = network(input_ids=ids).text_embeds[0]
            total = total + text / text.norm()
        torch.testing.assert_close(found, F.normalize(total, dim=0))
    assert (embeddings[0] - embeddings[2]).abs().max() > 0.01, 'names differ'


def test_what_cannot_be_is_one_sentence(clip, tmp_path, monkeypatch, capsys):
    folder, out = clip[0], str(tmp_path / 'out.pt')
    for text, message in (('cat\n\ndog', 'line 2: has no name'), ('', 'is empty; write')):
        with pytest.raises(SystemExit, match=message):
            tool.main([folder, names_file(tmp_path, text), out])
    names = names_file(tmp_path, 'cat\ndog')
    with pytest.raises(SystemExit, match='nowhere: CLIP cannot be loaded .*; give a folder'):
        tool.main([str(tmp_path / 'nowhere'), names, out])
    for given, message in (
        ([folder, names, 'out.bin'], 'OUT.pt must end in .pt, got out.bin'),
        ([folder, names, out, '--templates', 'a photo'], 'write {} once for the name'),
    ):
        with pytest.raises(SystemExit):
            tool.main(given)
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(SystemExit, match='transformers is not installed; install it with pip'):
        tool.main([folder, names, out])
    assert not (tmp_path / 'out.pt').exists()
