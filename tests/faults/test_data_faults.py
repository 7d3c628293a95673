"""Faults of data that stop the real training tool before its first iteration."""

import shutil


def test_broken_files_of_all_parts_stop_the_run_at_once(train, digit_root, tmp_path):
    root = tmp_path / 'scenes'
    shutil.copytree(digit_root, root)
    broken = [
        next(iter(sorted((root / folder).glob('*.png'))))
        for folder in ('images/labeled', 'images/unlabeled', 'annotations/val')
    ]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    output = train(data_root=root, code=1).output
    for path in broken:
        assert f'{path} (the file ends too early' in output
    assert 'Iter(train)' not in output
