"""The benchmark of very many files, with few."""

import re

from tool_runs import TOOLS


def test_the_start_is_measured_with_few_files(server, tmp_path):
    options = ('--unlabeled', 12, '--labeled', 4, '--val', 2, '--lines', 1500, '--workers', 0)
    output = server.run(TOOLS / 'benchmarks/scale.py', *options, '--folder', tmp_path).output
    assert '12 unlabeled, 4 labeled images' in output
    starts = re.findall(
        r'(?:first|second) start: (\d+) s \(\d+ s of CPU\).* (\d+) MiB with', output
    )
    assert len(starts) == 4
    assert all(int(seconds) > 0 and 100 < int(peak) < 5000 for seconds, peak in starts)
    assert re.search(r'list file of 1500 lines: \d+\.\d s for 1500 images; \d{3,4} MiB', output)
    assert list(tmp_path.iterdir()) == []
