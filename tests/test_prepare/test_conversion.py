"""Lists of names, and what they may name."""

from __future__ import annotations

import pytest

from mmseg_semi.prepare.conversion import read_names


@pytest.mark.parametrize('name', ['../../x', '/x', 'a/../../x'])
def test_names_that_lead_out_of_the_folder_are_refused(name, tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text(f'a\n{name}\n')
    with pytest.raises(SystemExit, match='1 names lead out of the folder of the data set, the fir'):
        read_names(path)


def test_lists_of_any_text_form_are_read(tmp_path):
    path = tmp_path / 'list.txt'
    for data in (b'\xef\xbb\xbfa\r\nb.c/d\r\n', '# all\n\na\nb.c/d'.encode('utf-16')):
        path.write_bytes(data)
        assert read_names(path) == ['a', 'b.c/d']
