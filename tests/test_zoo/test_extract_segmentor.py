"""What a plain mmseg is told of a data set whose images have several suffixes."""

from __future__ import annotations

from leaves import leaves_config, make_leaves

from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo.extract_segmentor import plain_config


def test_images_of_one_suffix_need_this_package_no_more(tmp_path, capsys):
    root = make_leaves(tmp_path / 'leaves')
    cfg = load_config(str(leaves_config(tmp_path / 'leaves.py', root)))
    plain = plain_config(cfg)
    assert plain.test_dataloader.dataset.img_suffix == '.jpg' and 'custom_imports' not in plain
    image = next((root / 'images/val').iterdir())
    image.rename(image.with_suffix('.JPG'))
    plain = plain_config(cfg)
    assert len(plain.test_dataloader.dataset.img_suffix) == 8
    assert plain.custom_imports == dict(imports=['mmseg_semi'])
    assert 'several values of img_suffix' in capsys.readouterr().out
