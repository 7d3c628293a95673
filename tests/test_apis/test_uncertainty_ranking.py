"""Which images are worth a label next."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from mmseg.apis import MMSegInferencer
from saved_models import saved_model

from mmseg_semi.apis import predict
from mmseg_semi.apis.predicting import Band
from mmseg_semi.apis.ranking import Tally, ranked
from mmseg_semi.errors import DataError


def test_margins_and_disagreement_are_means_over_all_pixels():
    prob = torch.tensor([[0.5, 0.9], [0.3, 0.05], [0.2, 0.05]]).T[None]
    logits = prob.permute(2, 0, 1).log()  # one row of two pixels
    tally = Tally()
    labels = torch.tensor([[0, 0]])
    tally.add(Band(labels, logits, torch.tensor([[0, 1]]), torch.tensor([1.0, 2.0])))
    tally.add(Band(labels, logits, labels, torch.tensor([3.0, 2.0])))
    scores = tally.scores()
    assert scores['uncertainty'] == pytest.approx(((1 - 0.2) + (1 - 0.85)) / 2, abs=1e-6)
    assert scores['disagreement'] == 0.25
    assert scores['features'] == [2.0, 2.0]


def test_a_sigmoid_has_the_margin_of_its_two_classes():
    tally = Tally()
    tally.add(Band(torch.ones(1, 1), torch.full((1, 1, 1), 0.7), None, torch.zeros(1)))
    assert tally.scores()['uncertainty'] == pytest.approx(0.6)


def test_of_images_that_look_alike_the_second_comes_late():
    scores = {
        name: dict(uncertainty=worth, disagreement=0.1, features=features)
        for name, worth, features in (
            ('a', 0.8, [1.0, 0.0]),
            ('a again', 0.79, [1.0, 0.0]),
            ('b', 0.3, [0.0, 1.0]),
            ('sure', 0.0, [0.0, 1.1]),
        )
    }
    rows = ranked(scores)
    assert [row['image'] for row in rows] == ['a', 'b', 'sure', 'a again']
    assert [row['rank'] for row in rows] == [1, 2, 3, 4]
    assert rows[0]['score'] == pytest.approx(0.9) and rows[0]['coverage'] == 1
    assert rows[1]['coverage'] > 0.9 and rows[3]['score'] == pytest.approx(0, abs=1e-6)


def test_after_the_chosen_ones_images_follow_by_their_score(monkeypatch):
    monkeypatch.setattr('mmseg_semi.apis.ranking.CHOSEN', 1)
    rng = np.random.default_rng(0)
    scores = {
        str(i): dict(uncertainty=0.1 * i, disagreement=0.0, features=rng.random(3).tolist())
        for i in range(6)
    }
    rows = ranked(scores)
    assert rows[0]['image'] == '5' and len(rows) == 6
    later = [row['score'] for row in rows[1:]]
    assert later == sorted(later, reverse=True)


def test_the_command_writes_the_list(tmp_path, capsys):
    run = saved_model(tmp_path)
    images = tmp_path / 'leaves/images/val'
    (images / 'v9.jpg').write_bytes((images / 'v0.jpg').read_bytes())
    words = [str(run), str(images), '--out', str(tmp_path / 'out')]
    predict.main(words)  # without scores, so that all are predicted again
    for batch in ('3', '1'):
        predict.main([*words, '--rank-by', 'uncertainty', '--batch', batch])
    assert '0 images predicted; 4 were finished before' in capsys.readouterr().out
    with open(tmp_path / 'out/ranking.csv', newline='') as file:
        rows = {row['image']: row for row in csv.DictReader(file)}
    assert rows.keys() == {str(images / f'v{i}.jpg') for i in (0, 1, 2, 9)}
    last = max(rows.values(), key=lambda row: int(row['rank']))
    assert last['image'][-6:] in ('v0.jpg', 'v9.jpg') and float(last['coverage']) < 1e-4
    mmseg = MMSegInferencer(str(run.parent / 'config.py'), str(run), device='cpu')
    path = str(images / 'v1.jpg')
    prob = mmseg(path, return_datasamples=True).seg_logits.data.softmax(0).sort(0).values
    row = rows[path]
    assert float(row['uncertainty']) == pytest.approx(
        float((1 - prob[2] + prob[1]).mean()), abs=1e-4
    )
    assert 0 < float(row['disagreement']) < 1
    # The same numbers from tiles.
    tiles = [*words[:3], str(tmp_path / 'tiles'), '--rank-by', 'uncertainty', '--tile', '64']
    predict.main([*tiles, '--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(200,150)'])
    assert (tmp_path / 'tiles/ranking.csv').is_file()
    (tmp_path / 'out/ranking.csv').write_text('mine')
    with pytest.raises(DataError, match='changed since: ranking.csv'):
        predict.main([*words, '--rank-by', 'uncertainty'])
