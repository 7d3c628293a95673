"""The benchmark of very many files, with few."""

import re

from mmseg_semi.benchmarks import scale


def test_the_start_is_measured_with_few_files(monkeypatch, tmp_path, capsys):
    starts = []
    start_training = scale.start_training

    def start(*args):
        """The last of four is a training; the others cost as much and show nothing else."""
        starts.append(args)
        return start_training(*args) if len(starts) == 4 else 'not measured'

    monkeypatch.setattr(scale, 'start_training', start)
    options = ('--unlabeled', 12, '--labeled', 4, '--val', 2, '--lines', 1500, '--workers', 0)
    scale.main([*map(str, options), '--folder', str(tmp_path)])
    output = capsys.readouterr().out
    assert '100 unlabeled, 100 labeled images' in output and '12 unlabeled, 4 labeled' in output
    assert len({args for args in starts}) == 2  # two folders, each started twice
    found = re.findall(r'second start: (\d+) s \(\d+ s of CPU\).* (\d+) MiB with', output)
    assert len(found) == 1
    assert all(int(seconds) > 0 and 100 < int(peak) < 5000 for seconds, peak in found)
    assert re.search(r'list file of 1500 lines: \d+\.\d s for 1500 images; \d{3,4} MiB', output)
    assert list(tmp_path.iterdir()) == []


def test_the_check_is_measured_with_few_files(monkeypatch, tmp_path, capsys):
    runs = []
    run_check = scale.run_check

    def run(config, work, cache):
        """The last of four is a check."""
        runs.append(config)
        if len(runs) < 4:
            return 'not measured'
        files = [path for path in (config.parent / 'images').rglob('*.png')]
        assert len({path.stat().st_ino for path in files}) == len(files) == 18  # no links
        return run_check(config, work, cache)

    monkeypatch.setattr(scale, 'run_check', run)
    options = ('--check', '--unlabeled', 12, '--labeled', 4, '--val', 2, '--folder', tmp_path)
    scale.main([*map(str, options)])
    output = capsys.readouterr().out
    assert re.search(r'second check: \d+ s \(\d+ s of CPU\), \d+ MiB at most', output)
    assert 'list file' not in output and list(tmp_path.iterdir()) == []
