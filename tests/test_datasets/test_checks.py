import builtins

import pytest

from mmseg_semi.datasets import DataError, check_overlap, find_copies


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [str(tmp_path / name) for name in contents]

    return write


def test_copies_links_and_the_same_path(files, tmp_path):
    a, b, c = files(a=b'one', b=b'two', c=b'three')
    x, y = files(x=b'one', y=b'TWO')
    link = tmp_path / 'link'
    link.symlink_to(c)
    found = find_copies([a, b, c, str(tmp_path / 'none')], [x, y, str(link)])
    assert found == {a: x, c: str(link)}
    assert find_copies([a], [a]) == {a: a}
    assert find_copies([a], []) == {} == find_copies([], [a])


def test_files_that_agree_in_size_and_middle_only(files):
    middle = b'm' * 50000
    a, b, c = files(a=b'1' + middle + b'1', b=b'2' + middle + b'1', c=b'1' + middle + b'1')
    assert find_copies([a], [b]) == {}
    assert find_copies([a], [b, c]) == {a: c}


def test_only_other_files_of_equal_size_are_read(files, tmp_path, monkeypatch):
    a, b, c = files(a=b'12', b=b'123', c=b'1234')
    link = tmp_path / 'link'
    link.symlink_to(b)
    monkeypatch.setattr(builtins, 'open', lambda *a, **k: pytest.fail('a file was read'))
    assert find_copies([a, b], [c]) == {}
    assert find_copies([a, b], [c, str(link)]) == {b: str(link)}


def test_heldout_images_are_refused_and_labeled_ones_counted(files):
    u = files(**{f'u{i}': b'image %d' % i for i in range(9)})
    labeled = files(l0=b'image 0', l1=b'image 8')
    assert check_overlap(u, labeled, []) == 2
    assert check_overlap(u, [], files(v=b'other image')) == 0
    held = files(**{f'v{i}': b'image %d' % i for i in range(7)})
    with pytest.raises(
        DataError, match=r'7 of 9 images are validation .*u0 \(= .*v0\).*and 2 more'
    ):
        check_overlap(u, labeled, held)
    with pytest.raises(DataError, match=r'1 of 9 images are .*: \S*u3\. Take them out'):
        check_overlap(u, labeled, [u[3]])
