"""The benchmarks of single methods, on tiny sizes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from tool_runs import load_tool

from mmseg_semi.benchmarks import frameworks, measuring
from mmseg_semi.functional import (
    box_agreement,
    correlation_map,
    propagate_regions,
    quantile_threshold,
    rank_log_prob,
    rank_statistics_overlap,
    refine_neighborhood,
    select_agents,
)

tool = load_tool('benchmarks/corrmatch.py')
rankmatch = load_tool('benchmarks/rankmatch.py')
s4mc = load_tool('benchmarks/s4mc.py')
weighting = load_tool('benchmarks/weighting.py')


@pytest.fixture(autouse=True)
def global_settings():
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture
def thin(monkeypatch):
    """Build networks of few channels."""
    load_segmentor = measuring.load_segmentor

    def load_thin():
        segmentor = load_segmentor()
        assert segmentor.backbone.depth == 50
        segmentor.backbone.update(stem_channels=8, base_channels=8)
        segmentor.decode_head.update(in_channels=256, channels=16, c1_in_channels=32, c1_channels=8)
        return segmentor

    monkeypatch.setattr(measuring, 'load_segmentor', load_thin)


@pytest.fixture
def forked_peaks(server, monkeypatch):
    """Let the tools measure peaks in forks of a process that has imported them."""

    def check_output(command, text, cwd):
        python, *script_and_options = command
        assert python == sys.executable and text
        return server.run(*script_and_options, cwd=cwd).output

    monkeypatch.setattr(measuring, 'subprocess', SimpleNamespace(check_output=check_output))


def table_of(tool, tmp_path, capsys, *sizes):
    """Run all benchmarks of a tool once; return the cells of the table, row by row."""
    out = tmp_path / 'table.md'
    counts = ['--crop', 33, '--repeats', 1, '--step-repeats', 1]
    tool.main([str(one) for one in (*sizes, *counts, '--out', out)])
    text = out.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert f'torch {torch.__version__}' in text
    table = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ')]
    rows = table[2:]
    assert {cells[6] for cells in rows} <= {'PASS', 'above target', 'below target', '-'}
    assert all((cells[5] == '-') == (cells[6] == '-') for cells in rows)
    return rows


def names_and_targets(rows):
    return [(cells[0].strip('`'), cells[5]) for cells in rows]


# ----------------------------------------------------------------------------------- CorrMatch


def test_the_table_of_corrmatch(thin, forked_peaks, tmp_path, capsys):
    rows = table_of(tool, tmp_path, capsys, '--size', 40, '--shapes', 6, '--grid', 24)
    assert names_and_targets(rows) == [
        ('regions', '>= 5x'),
        ('sampling', '-'),
        ('sampling', '<= 3'),
        ('pixels', '<= 1.5'),
        ('pixels', '<= 0.1'),
        ('step', '<= 15 %'),
        ('step', '-'),
        ('step', '-'),
    ]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--only', 'region'], "invalid choice: 'region'"),
        (['--batch', '1'], '--batch must be at least 2, got 1'),
        (['--step-repeats', '0'], '--step-repeats must be at least 1, got 0'),
        (['--threads', '0'], '--threads must be at least 1, got 0'),
        (['--out', str(measuring.REPO)], 'is a folder: name a file in it, such as table.md'),
    ],
)
def test_wrong_options_are_refused(capsys, options, message):
    with pytest.raises(SystemExit) as error:
        tool.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_peak_is_what_a_fresh_process_prints_last(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'import sys\n'
        f'wanted = "--peak-of ours --size=5 --device=cpu --threads={torch.get_num_threads()}"\n'
        'assert "torch" not in sys.modules and sys.argv[1:] == wanted.split(), sys.argv\n'
        'print("a line before")\n'
        'print(7)\n'
    )
    assert measuring.peak_in_own_process(str(script), 'ours', 'cpu', size=5) == 7


def test_a_stopped_benchmark_leaves_what_it_has_finished(tmp_path):
    out = tmp_path / 'table.md'
    row = measuring.Row('first', 'time', '1 s', '2 s', '2.0x faster')

    def stopped(_):
        raise KeyboardInterrupt

    benchmarks = dict(first=lambda _: measuring.Report([row], ['a note']), second=stopped)
    with pytest.raises(KeyboardInterrupt):
        measuring.tabulate(SimpleNamespace(device='cpu', out=str(out)), benchmarks)
    assert out.read_text().endswith(
        '| `first` | time | 1 s | 2 s | 2.0x faster | - | - |\n\n- a note\n'
    )


def test_results_follow_from_the_numbers():
    tool = measuring
    assert [tool.at_least(value, 5) for value in (4.9, 5, 6)] == ['below target', 'PASS', 'PASS']
    assert [tool.at_most(value, 5) for value in (4, 5, 5.1)] == ['PASS', 'PASS', 'above target']
    assert tool.at_most(float('nan'), 5) != 'PASS'
    assert tool.median_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 1.0]) == 3.0


@pytest.mark.parametrize('threshold', [0.0, 0.5, 0.85])
@pytest.mark.parametrize('seed', range(4))
def test_the_reference_of_regions_is_the_library_bit_by_bit(seed, threshold):
    label, selected, shapes = tool.region_inputs(24, 12, batch=2, seed=seed)
    found = propagate_regions(label, selected, shapes, threshold, tool.CLASSES)
    wanted = tool.reference_regions(label, selected, shapes, threshold)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


def test_about_half_of_the_shapes_of_regions_pass():
    label, selected, shapes = tool.region_inputs(128, 32)
    assert label.shape == selected.shape == (4, 128, 128)
    assert shapes.shape == (4, 32, 128, 128)
    assert tool.passing(selected, shapes, tool.REGION_THRESHOLD) == pytest.approx(0.5, abs=0.05)
    wanted = tool.reference_regions(label, selected, shapes, tool.REGION_THRESHOLD)
    assert not torch.equal(wanted[0], label) and wanted[1].sum() > selected.sum()


def test_the_reference_of_pixels_is_the_library():
    inputs = tool.pixel_inputs(7, 'cpu')
    assert tool.check_pixels(inputs) <= 1e-5
    logits, w1, w2, _ = inputs
    wanted = logits.flatten(2) @ correlation_map(w1, w2)
    torch.testing.assert_close(tool.reference_pixels(logits, w1, w2), wanted.view_as(logits))


def test_a_difference_stops_the_tool(monkeypatch):
    monkeypatch.setattr(tool, 'reference_pixels', lambda logits, w1, w2: logits + 0 * (w1 + w2))
    with pytest.raises(AssertionError, match='propagate_pixels and the reference differ'):
        tool.main(['--only', 'pixels', '--grid', '5'])
    monkeypatch.setattr(tool, 'reference_regions', lambda label, *_: (label, label > 0))
    with pytest.raises(AssertionError, match='propagate_regions and the reference differ'):
        tool.main(['--only', 'regions', '--size', '24', '--shapes', '4'])


# ----------------------------------------------------------------------------------- RankMatch


def test_the_table_of_rankmatch(thin, forked_peaks, tmp_path, capsys):
    sizes = ['--grid', 40, '--channels', 6, '--agents', 24]
    rows = table_of(rankmatch, tmp_path, capsys, *sizes)
    assert names_and_targets(rows) == [
        ('agents', '>= 10x'),
        ('rank', '-'),
        ('rank', '<= 0.2'),
        ('rank', '-'),
        ('rank', '-'),
        ('step', '<= 15 %'),
        ('step', '-'),
    ]
    # The plain way holds the gradient of what it expands: 24 permutations, 2 images, float32.
    plain = float(rows[2][3].split()[0])
    assert plain >= 24 * 2 * 24 * 40**2 * 4 / 2**20
    assert float(rows[2][2].split()[0]) < plain / 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--agents', '3'], '--agents must be at least 4, got 3'),
        (['--agents', '10', '--grid', '3'], '--agents must be at most the 9 pixels, got 10'),
        (['--peak-of', 'plain'], "invalid choice: 'plain'"),
    ],
)
def test_wrong_options_of_rankmatch_are_refused(capsys, options, message):
    with pytest.raises(SystemExit) as error:
        rankmatch.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_the_reference_of_agents_is_the_library():
    features, start = rankmatch.agent_inputs(9, 5)
    exact = features.double()
    wanted = select_agents(exact, 20, start)
    assert torch.equal(rankmatch.reference_agents(exact, 20, start), wanted)
    assert 0 < rankmatch.check_agents(features, 20, start) <= 1


@pytest.mark.parametrize('side', ['reference_rank', 'lean_reference_rank'])
def test_the_references_of_rank_are_the_library(side):
    inputs = rankmatch.rank_inputs(6, 7, 'cpu')
    assert rankmatch.check_rank(inputs) <= 1e-5
    weak, strong = (one.double() for one in inputs)
    indices = weak.topk(4, dim=1).indices
    probability = rank_log_prob(weak, indices).exp()
    difference = rank_log_prob(weak, indices) - rank_log_prob(strong, indices)
    wanted = (probability * difference).sum(1).mean()
    torch.testing.assert_close(getattr(rankmatch, side)(weak, strong), wanted)


def test_the_head_of_rankmatch_is_split_into_its_parts():
    calls = []

    class Head(torch.nn.Module):
        tap, stream = 'aspp', 'strong'

        def forward(self, step):
            from mmseg_semi.models.heads import agent_rank_head as module

            weak, strong = step.weak, step.streams['strong'][0].outputs.features['aspp']
            index = module.select_agents(weak, 4)
            agents = module.gather_agents(strong, index)
            calls.append(strong.requires_grad)
            logs = [module.agent_correlation(one, agents) for one in (weak, strong)]
            return dict(loss=module.rank_consistency(*logs))

    from mmseg_semi.structures import SegOutputs

    features = torch.randn(2, 5, 3, 3)
    outputs = SegOutputs([features], (3, 3), True, features=dict(aspp=features))
    view = type('View', (), dict(outputs=outputs))()
    step = type('Step', (), dict(streams=dict(strong=[view]), weak=features))()
    added = rankmatch.AddedHead(step, Head())
    added.run()
    parts = added.time_parts('cpu')
    assert calls == [True, True]
    assert list(parts) == [*rankmatch.HEAD_PARTS.values(), 'rest of the forward pass', 'backward']
    assert parts.pop('mixing of weak features') == 0
    assert all(seconds > 0 for seconds in parts.values())


def test_a_difference_stops_the_tool_of_rankmatch(monkeypatch):
    few = ['--grid', '5', '--agents', '6', '--channels', '4']
    lean = rankmatch.lean_reference_rank
    monkeypatch.setattr(rankmatch, 'reference_agents', lambda features, num, start: start[:, None])
    with pytest.raises(AssertionError, match='select_agents and the reference differ'):
        rankmatch.main(['--only', 'agents', *few])
    for wrong in (  # a wrong value, and a wrong gradient alone
        lambda weak, strong, top: 2 * lean(weak, strong),
        lambda weak, strong, top: lean(weak, strong) + (strong - strong.detach()).mean(),
    ):
        monkeypatch.setattr(rankmatch, 'lean_reference_rank', wrong)
        with pytest.raises(AssertionError, match='rank_consistency and the reference differ'):
            rankmatch.main(['--only', 'rank', *few])


# ---------------------------------------------------------------------------------------- S4MC


def test_the_table_of_s4mc(thin, forked_peaks, tmp_path, capsys):
    rows = table_of(s4mc, tmp_path, capsys, '--size', 16, '--values', 500)
    names = ['refine', 'refine', 'quantile', 'step', 'step']
    assert names_and_targets(rows) == list(zip(names, ['-', '-', '-', '<= 10 %', '-']))


def test_wrong_options_of_s4mc_are_refused(capsys):
    with pytest.raises(SystemExit) as error:
        s4mc.main(['--values', '1'])
    assert error.value.code == 2
    assert '--values must be at least 2, got 1' in capsys.readouterr().err


def test_the_references_of_s4mc_are_the_library():
    prob = s4mc.refine_inputs(9, 'cpu', batch=2)
    torch.testing.assert_close(prob.sum(1), torch.ones(2, 9, 9))
    wanted = refine_neighborhood(prob)
    torch.testing.assert_close(s4mc.reference_refine(prob), wanted)
    torch.testing.assert_close(refine_neighborhood(prob), wanted)
    assert s4mc.check_refine(prob) <= 1e-6
    score, valid = s4mc.quantile_inputs(400, 'cpu')
    assert valid.any() and not valid.all()
    wanted = quantile_threshold(score, valid, s4mc.SHARE)
    torch.testing.assert_close(s4mc.reference_quantile(score, valid), wanted)
    assert s4mc.check_quantile(score, valid) <= 1e-6


def test_a_difference_stops_the_tool_of_s4mc(monkeypatch):
    monkeypatch.setattr(s4mc, 'reference_refine', lambda prob: prob)
    with pytest.raises(AssertionError, match='refine_neighborhood and the reference differ'):
        s4mc.main(['--only', 'refine', '--size', '8'])
    monkeypatch.setattr(s4mc, 'reference_quantile', lambda score, valid: score[valid].mean())
    with pytest.raises(AssertionError, match='quantile_threshold and the reference differ'):
        s4mc.main(['--only', 'quantile', '--values', '50'])


# ----------------------------------------------------------------------------------- Weighting


def test_the_table_of_weighting(thin, tmp_path, capsys):
    sizes = ['--size', 40, '--grid', 11, '--channels', 8]
    rows = table_of(weighting, tmp_path, capsys, *sizes)
    assert names_and_targets(rows) == [
        ('overlap', '>= 30x'),
        ('bank', '-'),
        ('boxes', '-'),
        ('boxes', '-'),
        ('step', '<= 15 %'),
        ('step', '-'),
    ]
    # 21 classes: 3 bytes of bits, or 21 bools.
    assert [cell.split('(')[1] for cell in rows[3][2:4]] == ['3 B a pixel)', '21 B a pixel)']
    assert rows[3][4] == '0.143'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--channels', '4'], '--channels must be at least 5, got 4'),
        (['--grid', '9', '--size', '8'], '--grid must be at most --size, which is 8, got 9'),
        (['--only', 'box'], "invalid choice: 'box'"),
    ],
)
def test_wrong_options_of_weighting_are_refused(capsys, options, message):
    with pytest.raises(SystemExit) as error:
        weighting.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_the_references_of_weighting_are_the_library():
    inputs = weighting.overlap_inputs(7, 16, 9, 'cpu', batch=2)
    weighting.check_overlap(inputs)
    wanted = weighting.reference_overlap(*inputs, weighting.TOP, exact=True)
    assert torch.equal(rank_statistics_overlap(*inputs, weighting.TOP), wanted)
    assert len(wanted.unique()) > 2
    features, label, state = weighting.bank_inputs(11, 6, 'cpu')
    weighting.check_bank(features, label, state)
    counts = label[label < weighting.CLASSES].bincount(minlength=weighting.CLASSES)
    assert counts.min() < weighting.PUSHED < counts.max()
    label, packed, planes = weighting.box_inputs(12, 'cpu')
    weighting.check_boxes(label, packed, planes)
    agreed = box_agreement(label, packed)
    assert torch.equal(weighting.reference_agreement(label, planes), agreed)
    assert agreed.any() and not agreed.all()


def test_the_step_of_weighting_works_with_boxes_and_fills_the_bank(thin, monkeypatch):
    steps = []

    def turns(given, added, repeats, device):
        steps.extend(given)
        bank = given[0].model.refiners['weight'].bank
        before = bank.features.clone()
        given[0].prepare()
        given[0]()
        assert not torch.equal(bank.features, before)
        parts = added()
        assert all(seconds > 0 for seconds in parts.values())
        return [2.0], [1.0], [parts]

    monkeypatch.setattr(weighting, 'step_turns', turns)
    report = weighting.benchmark_step(weighting.parse_args(['--crop', '33']))
    model, plain = (one.model for one in steps)
    assert sorted(model.refiners) == ['agreement', 'select', 'weight']
    assert list(plain.refiners) == ['select'] and steps[1].data['inputs']['maps'] == {}
    assert steps[0].data['inputs']['maps']['detections'].shape == (2, 3, 33, 33)
    own, other = (dict(one.segmentor.named_parameters()) for one in (model, plain))
    assert all(torch.equal(own[name], other[name]) for name in other)
    assert ' 0% reliable' not in report.notes[0] and ' 0 classes' not in report.notes[0]


def test_a_difference_stops_the_tool_of_weighting(monkeypatch):
    few = ['--size', '12', '--grid', '5', '--channels', '6']
    wrong = [
        ('overlap', 'rank_statistics_overlap', 'reference_overlap', lambda *a, **_: a[1] * 0),
        ('bank', 'push_queues', 'reference_push', lambda queues, items: queues),
        ('bank', 'sample_per_class', 'reference_sample', lambda label, num: [label[:0]] * 21),
        ('boxes', 'box_agreement', 'reference_agreement', lambda label, planes: label < 9),
    ]
    for benchmark, name, reference, other in wrong:
        with monkeypatch.context() as patch:
            patch.setattr(weighting, reference, other)
            with pytest.raises(AssertionError, match=f'{name} and the reference differ'):
                weighting.main(['--only', benchmark, *few])


# ---------------------------------------------------------------------------------- Frameworks

# Images per labeled image, as the methods describe their steps: through the encoder with and
# without gradient, and decoded besides.
PASSES = dict(
    supervised=(1, 0, 0),
    fixmatch=(3, 0, 0),  # labeled, weak and strong; the student is its own teacher
    unimatch=(4, 0, 2),  # a second strong view and perturbed features, labeled ones too
    mean_teacher=(2, 1, 0),  # labeled and strong; weak by the teacher
    cutmix_seg=(2, 1, 0),
    augseg=(2, 1, 0),
    ael=(2, 2, 0),  # the teacher labels labeled images too
    u2pl=(2, 2, 0),  # the teacher sees labeled images too
    corrmatch=(3, 0, 2),
    rankmatch=(4, 0, 2),
    s4mc=(2, 1, 0),
    s4mc_fixmatch=(2, 1, 0),
    prevmatch=(4, 1, 2),  # UniMatch's; weak by an earlier network
    weighting=(4, 0, 2),  # UniMatch's
)


def framework_rows(text):
    table = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ')]
    return {cells[0].strip('`'): cells[1:] for cells in table[2:]}


def test_the_table_of_frameworks(tmp_path, capsys):
    out = tmp_path / 'table.md'
    sizes = ['--batch', '2', '--repeats', '1', '--warm-up', '1']
    frameworks.main([*sizes, '--out', str(out)])
    text = out.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert [path.name for path in tmp_path.iterdir()] == ['table.md']
    rows = framework_rows(text)
    assert list(rows) == list(frameworks.FRAMEWORKS) == list(PASSES)
    share = float(text.split(' of that, its measured share')[0].split()[-1].rstrip('%')) / 100
    assert 0 < share < 1
    for name, (grad, no_grad, decoder) in PASSES.items():
        assert [float(cell) for cell in rows[name][1:4]] == [grad, no_grad, decoder], name
        expected = grad + no_grad / 3 + share * decoder
        assert float(rows[name][4]) == pytest.approx(expected, abs=0.01)
        assert float(rows[name][6]) > 0
    assert rows['supervised'][4] == rows['supervised'][6] == '1.00'
    assert rows['u2pl'][0] == 'student 4, teacher 2 + 2'
    assert rows['unimatch'][0] == 'student 4 + 4, decoder 4'


def test_frameworks_on_another_network(thin, capsys):
    options = ['--network', 'deeplabv3plus_r50', '--crop', '33', '--batch', '2', '--repeats', '1']
    frameworks.main([*options, '--warm-up', '1', '--frameworks', 's4mc', 'unimatch'])
    rows = framework_rows(capsys.readouterr().out)
    assert list(rows) == ['supervised', 'unimatch', 's4mc']
    for name, cells in rows.items():
        assert [float(cell) for cell in cells[1:4]] == list(PASSES[name])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--batch', '1'], '--batch must be at least 2, got 1'),
        (['--crop', '40'], '--crop must be a multiple of 16 for unet, got 40'),
        (['--crop', '16'], '--crop must be at least 32, got 16'),
        (['--frameworks', 'fixmatsch'], "invalid choice: 'fixmatsch'"),
        (['--frameworks', 'supervised'], '--frameworks needs one beside supervised'),
        (['--out', 'no/such/folder/table.md'], 'its folder does not exist'),
    ],
)
def test_wrong_options_of_frameworks_are_refused(capsys, options, message):
    with pytest.raises(SystemExit) as error:
        frameworks.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_passes_are_counted_by_hand():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torch.nn.Conv2d(3, 4, 1)
            self.decode_head = torch.nn.Conv2d(4, 2, 1)

    student, teacher = Network(), Network().requires_grad_(False)

    def run():
        maps = student.backbone(torch.ones(5, 3, 2, 2))
        student.decode_head.forward(maps)  # without the module's hooks
        student.decode_head(maps[:3])
        teacher.decode_head(teacher.backbone(torch.ones(4, 3, 2, 2)))
        with torch.no_grad():
            student.decode_head(student.backbone(torch.ones(2, 3, 2, 2)))

    passes = frameworks.count_passes(run, student, teacher)
    assert (passes.encoder_images(True), passes.encoder_images(False)) == (5, 4 + 2)
    assert (passes.decoder_only(True), passes.decoder_only(False)) == (3, 0)
    assert passes.in_words() == 'student 5 + 2, teacher 4, decoder 3'
    assert passes.work(0.5) == 3 * (5 + 0.5 * 3) + 6
    assert not any('forward' in vars(one) for one in student.modules())


def test_the_passes_in_the_docs_are_those_of_a_step():
    page = (measuring.REPO / 'docs' / 'benchmarks.md').read_text()
    table = page.split('\n## Frameworks\n')[1].split('\n## ')[0]
    rows = [line.split(' | ') for line in table.splitlines() if line.startswith('| ')]
    documented = {name.removeprefix('| '): passes for name, passes, *_ in rows}
    steps = {
        name: frameworks.Step(frameworks.load_config(name, 'unet', 64), 'cpu')
        for name in frameworks.FRAMEWORKS
    }
    data = frameworks.make_data(steps['fixmatch'].model, 8, 64)
    for name, step in steps.items():
        step.set_data(data)
        passes = frameworks.count_passes(step, step.student, step.teacher)
        assert passes.in_words() == documented[name], name


def test_a_step_does_the_work_of_the_hooks():
    def step_of(name):
        step = frameworks.Step(frameworks.load_config(name, 'unet', 64), 'cpu')
        step.set_data(frameworks.make_data(step.model, 2, 64))
        return step

    step = step_of('u2pl')
    weight, before = (
        dict(one.named_parameters())['decode_head.conv_seg.bias']
        for one in (step.student, step.teacher)
    )
    weight.data += 1
    old, moved = before.clone(), weight.detach().clone()
    step()
    assert torch.equal(weight, moved)  # the learning rate is 0
    torch.testing.assert_close(before, 0.99 * old + 0.01 * moved)
    assert step.model.heads['contrast'].bank.counts.sum() > 0

    step = step_of('corrmatch')
    before = step.model.refiners['select'].value.clone()
    step()
    assert step.model.refiners['select'].value != before

    step = step_of('ael')
    step.model.mixer.min_share = 0.0
    step()
    assert step.model.heads['class_confidence'].values.max() > 0
    bank = step.model.mixer.bank
    assert len(bank) == frameworks.BANK_SIZE and bank[:2].any() and not bank[2:].any()
