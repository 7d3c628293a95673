"""What a plain mmseg is told of images of several suffixes and of many channels."""

from __future__ import annotations

import pytest
from leaves import leaves_config, make_leaves

from mmseg_semi.structures import ChannelStatistics, write_statistics
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


def config_of_channels(tmp_path, channels):
    root = make_leaves(tmp_path / 'leaves')
    cfg = load_config(str(leaves_config(tmp_path / 'leaves.py', root)), dict(in_channels=channels))
    return cfg, str(root / 'channels.json')


@pytest.mark.parametrize(('channels', 'dtype'), [(4, 'uint8'), (3, 'uint16')])
def test_the_numbers_of_the_channels_are_written_into_the_config(tmp_path, channels, dtype):
    cfg, path = config_of_channels(tmp_path, channels)
    columns = dict(
        mean=[0.5, 1.5, 2.5, 3.5], std=[1.0, 2.0, 4.0, 8.0], min=[0.0] * 4, max=[9.0] * 4
    )
    columns = {name: values[:channels] for name, values in columns.items()}
    write_statistics(path, ChannelStatistics(channels, dtype, images=1, files='', **columns))
    plain = plain_config(cfg)
    preprocessor = plain.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std) == (columns['mean'], columns['std'])
    assert preprocessor.type == 'SegDataPreProcessor' and 'statistics' not in preprocessor
    loading = plain.test_dataloader.dataset.pipeline[0]
    assert loading == dict(type='LoadChannels', in_channels=channels)
    assert plain.custom_imports == dict(imports=['mmseg_semi'])
    plain.dump(str(tmp_path / 'plain.py'))


def test_photographs_are_loaded_by_mmseg(tmp_path):
    cfg, _ = config_of_channels(tmp_path, 3)
    plain = plain_config(cfg)
    assert plain.test_dataloader.dataset.pipeline[0] == dict(type='LoadImageFromFile')
    assert plain.model.data_preprocessor.mean == pytest.approx([123.675, 116.28, 103.53])
    assert 'in_channels' not in plain.model.data_preprocessor and 'custom_imports' not in plain
