"""S4MC's refinement of the probabilities."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmseg_semi.functional import refine_neighborhood
from mmseg_semi.models.refiners import NeighborhoodRefiner

from ..helpers import noise, run_step
from ..s4mc import CONTEXT, S4MC, at, margin, pseudo_of, third_of_ten


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(window=5, neighbors=2),
        dict(criterion='two_max', connectivity=4, beta=0.6),
        dict(criterion='min', joint=0.2),
    ],
)
def test_refiner_changes_scores_label_and_confidence_and_nothing_else(options):
    valid = torch.ones(2, 7, 9, dtype=torch.bool)
    valid[1, :, 6:] = False
    before = pseudo_of(noise(2, 4, 7, 9, scale=2.0), valid)
    after = NeighborhoodRefiner(**options)(before, None, at(before))
    # Padding is outside the image, where every probability is zero.
    expected = refine_neighborhood(before.prob * valid[:, None], **options)
    assert torch.equal(after.prob, expected)
    unaware = refine_neighborhood(before.prob, **options)
    assert not torch.equal(expected[1, :, :, 5], unaware[1, :, :, 5])
    assert torch.equal(after.confidence, expected.amax(1))
    assert torch.equal(after.label, expected.argmax(1))
    assert not torch.equal(after.prob, before.prob)
    assert torch.equal(before.prob, before.logits.softmax(1)), 'the raw pseudo-label stays'
    for name in ('logits', 'valid', 'selected'):
        assert getattr(after, name) is getattr(before, name)
    if not options:
        assert not torch.equal(after.label, before.label)


@pytest.mark.parametrize('order', [('context', 'select'), ('select', 'context')])
def test_refiner_comes_before_the_selection_whatever_the_config_says(build, batch, order):
    model = third_of_ten(build(refiners={name: S4MC[name] for name in order}))
    assert list(model.refiners) == ['context', 'select']
    step, _ = run_step(model, batch())
    refined = refine_neighborhood(step.raw_pseudo.prob)
    gamma = np.quantile(margin(step.raw_pseudo.prob).double().numpy(), 0.4 * 0.8)
    assert torch.equal(step.pseudo.prob, refined)
    assert torch.equal(step.pseudo.selected, margin(refined) > float(gamma))
    assert 0.01 < step.pseudo.selected.float().mean() < 0.99


def json_table(folder, **content):
    path = folder / 'agreement.json'
    path.write_text(json.dumps(content))
    return str(path)


def test_joint_is_a_number_a_list_or_a_file(tmp_path):
    pseudo = pseudo_of(noise(1, 3, 6, 6, scale=2.0))
    table = [0.5, 0.125, 0.25]
    path = json_table(tmp_path, classes=['a', 'b', 'c'], per_class=table, overall=0.875)
    cases = [
        (dict(), None),
        (dict(joint=0.25), 0.25),
        (dict(joint=table), torch.tensor(table)),
        (dict(joint=tuple(table)), torch.tensor(table)),
        (dict(joint=path), torch.tensor(table)),
        (dict(joint=path, joint_key='overall'), 0.875),
    ]
    results = []
    for arguments, joint in cases:
        refiner = NeighborhoodRefiner(**arguments)
        results.append(refiner.refine(pseudo.prob))
        assert torch.equal(results[-1], refine_neighborhood(pseudo.prob, joint=joint))
        assert not refiner.state_dict(), 'the table comes from the config'
    distinct = [results[i] for i in (0, 1, 2, 5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :])


def test_table_moves_with_the_model(build):
    model = build(refiners=dict(context=dict(CONTEXT, joint=[0.1, 0.2, 0.3])))
    assert model.double().refiners['context'].joint_table.dtype == torch.float64
    assert not any('joint' in name for name in model.state_dict())


def test_a_table_of_other_classes_is_refused_when_the_model_is_built(build, tmp_path):
    path = json_table(tmp_path, per_class=[0.1, 0.2, 0.3, 0.4], overall=0.5)
    for joint in ([0.5, 0.5], path):
        entries = 4 if joint is path else 2
        message = rf'model\.refiners\.context: .*joint has {entries} entries.*3 classes'
        with pytest.raises(ValueError, match=message):
            build(refiners=dict(context=dict(CONTEXT, joint=joint)))
    build(refiners=dict(context=dict(CONTEXT, joint=path, joint_key='overall')))


@pytest.mark.parametrize(
    'text, key, message',
    [
        ('{"per_class": [0.5', 'per_class', r'agreement.json is no JSON file'),
        ('\x00\x01', 'per_class', r'agreement.json is no JSON file'),
        ('[0.5, 0.5, 0.5]', 'per_class', r"no entry 'per_class'.*neighbor_agreement\.py"),
        ('{"overall": 0.5}', 'per_class', r"no entry 'per_class'.*neighbor_agreement\.py"),
        ('{"per_class": [0.5]}', 'overall', r"no entry 'overall'.*neighbor_agreement\.py"),
        (
            '{"per_class": [0.5, 1.5, 0.5]}',
            'per_class',
            r'joint.* number in \[0, 1\].*1\.5',
        ),
        (
            '{"per_class": [0.5, NaN, 0.5]}',
            'per_class',
            r'joint.* number in \[0, 1\].*nan',
        ),
        ('{"per_class": null}', 'per_class', r'joint \(.*per_class\) must be a number .*None'),
        ('{"per_class": [[0.5]]}', 'per_class', r'joint .* must be a number .*\[0.5\]'),
        ('{"overall": true}', 'overall', r'joint .* must be a number .*True'),
        ('{"overall": -0.5}', 'overall', r'joint.* must be a number in \[0, 1\], got -0\.5'),
    ],
)
def test_wrong_files_are_refused_with_a_reason(build, tmp_path, text, key, message):
    path = tmp_path / 'agreement.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'model\.refiners\.context: .*{message}'):
        build(refiners=dict(context=dict(CONTEXT, joint=str(path), joint_key=key)))


def test_a_missing_file_is_refused_with_the_tool_that_writes_it(build, tmp_path):
    missing = str(tmp_path / 'no.json')
    with pytest.raises(FileNotFoundError, match=r'no\.json.*neighbor_agreement\.py'):
        build(refiners=dict(context=dict(CONTEXT, joint=missing)))
    with pytest.raises(FileNotFoundError):
        NeighborhoodRefiner(joint=str(tmp_path))


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(joint=1.5), r'joint must be a number in \[0, 1\]'),
        (dict(joint=[0.5, -0.1, 0.5]), r'joint must be a number in \[0, 1\]'),
        (dict(joint_key='classes'), 'joint_key must be one of'),
        (dict(window=4), 'window must be odd'),
        (dict(neighbors=9), r'neighbors must be in \[1, 8\]'),
        (dict(neighbors=5, connectivity=4), r'neighbors must be in \[1, 4\]'),
        (dict(criterion='mean'), 'criterion must be one of'),
        (dict(beta=1.5), 'beta, if not .* must be a number'),
        (dict(connectivity=6), r'connectivity must be one of \(4, 8\)'),
    ],
)
def test_wrong_refiner_arguments_are_refused_when_the_model_is_built(build, wrong, message):
    with pytest.raises(ValueError, match=rf'context: NeighborhoodRefiner[.:].*{message}'):
        build(refiners=dict(context={**CONTEXT, **wrong}))


def test_the_raw_label_can_stay():
    before = pseudo_of(noise(1, 4, 7, 9, scale=2.0))
    refined = NeighborhoodRefiner()(before, None, at(before))
    raw = NeighborhoodRefiner(label='raw')(before, None, at(before))
    assert raw.label is before.label and not torch.equal(raw.label, refined.label)
    assert torch.equal(raw.prob, refined.prob) and torch.equal(raw.confidence, refined.confidence)


def test_only_the_confidence_can_be_refined():
    """Of the middle pixel .6, of class 0, by its neighbor .8, of class 1."""
    prob = torch.tensor([[0.5, 0.6, 0.2]], dtype=torch.float64)
    before = pseudo_of(torch.stack([prob, 1 - prob])[None].log())
    refiner = NeighborhoodRefiner(on='confidence', connectivity=4, beta=0.5)
    after = refiner(before, None, at(before))
    assert after.label is before.label and after.prob is before.prob
    wanted = [0.5 + 0.5 * 0.6 * 0.5, 0.6 + 0.5 * 0.8 * 0.4, 0.8 + 0.5 * 0.6 * 0.2]
    assert after.confidence.flatten().tolist() == pytest.approx(wanted)


def test_padding_can_support_as_other_pixels_do():
    valid = torch.ones(1, 7, 9, dtype=torch.bool)
    valid[:, :, 6:] = False
    before = pseudo_of(noise(1, 4, 7, 9, scale=2.0), valid)
    after = NeighborhoodRefiner(use_padding=True)(before, None, at(before))
    assert torch.equal(after.prob, refine_neighborhood(before.prob))


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(joint_scale='probability'), 'joint is None: give joint'),
        (dict(joint_rule='alone'), 'joint is None: give joint'),
        (dict(joint=[0.5] * 3, on='confidence'), "on='confidence' refines one map"),
    ],
)
def test_a_joint_probability_that_cannot_be_used_is_refused(build, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.refiners\.context: .*{message}'):
        build(refiners=dict(S4MC, context={**CONTEXT, **wrong}))
