import torch

from mmseg_semi.utils.safe_checkpoints import is_complete, latest_checkpoint


def save(folder, name):
    torch.save(dict(value=torch.arange(1000)), folder / name)
    return str(folder / name)


def test_a_cut_or_foreign_file_is_not_complete(tmp_path):
    path = save(tmp_path, 'iter_1.pth')
    assert is_complete(path)
    data = (tmp_path / 'iter_1.pth').read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / 'cut.pth').write_bytes(data[:length])
        assert not is_complete(tmp_path / 'cut.pth'), length
    assert not is_complete(tmp_path / 'missing.pth') and not is_complete(tmp_path)


def test_latest_is_the_named_one_or_else_the_largest_complete_number(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    older, newer = save(tmp_path, 'iter_9.pth'), save(tmp_path, 'iter_10.pth')
    save(tmp_path, 'best_mIoU_iter_30.pth')
    assert latest_checkpoint(tmp_path) == newer
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text(older)
    assert latest_checkpoint(tmp_path) == older
    # The folder was moved: the name counts.
    pointer.write_text('/somewhere/else/iter_9.pth')
    assert latest_checkpoint(tmp_path) == older
    for text in ('', str(tmp_path / 'iter_11.pth')):
        pointer.write_text(text)
        assert latest_checkpoint(tmp_path) == newer
    (tmp_path / 'iter_11.pth').write_bytes(b'PK')
    (tmp_path / 'iter_12.pth.part').write_bytes((tmp_path / 'iter_9.pth').read_bytes())
    assert latest_checkpoint(tmp_path) == newer
