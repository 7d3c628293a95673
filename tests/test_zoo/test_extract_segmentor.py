"""What a plain mmseg is told, and that it runs: own data, several suffixes, many channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from leaves import CLASSES, leaves_config, make_leaves
from mmseg.apis import inference_model, init_model
from PIL import Image
from saved_models import PALETTE, saved_model, several_classes
from tool_runs import CONFIGS

from mmseg_semi.apis import predict
from mmseg_semi.structures import ChannelStatistics, write_statistics
from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo.extract_segmentor import main, plain_config


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


def same_labels(config, checkpoint, image, labels):
    """mmseg's inference of an extracted model, without an import of ours in its config."""
    model = init_model(str(config), str(checkpoint), 'cpu')
    assert type(model).__name__ == 'EncoderDecoder'
    found = inference_model(model, str(image)).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(found, labels)
    assert len(np.unique(labels)) > 1
    return model


@pytest.mark.parametrize('which', ['student', 'teacher'])
def test_an_extracted_model_of_own_data_runs_with_mmseg_alone(tmp_path, which):
    run = saved_model(tmp_path)
    image, out = tmp_path / 'leaves/images/val/v0.jpg', tmp_path / f'plain_{which}.pth'
    main([str(run), '--out', str(out), '--which', which])
    text = out.with_suffix('.py').read_text()
    assert 'mmseg_semi' not in text and 'Semi' not in text and 'CheckAnnotations' not in text
    predict.main([str(run), str(image), '--out', str(tmp_path / 'a'), '--predict-with', which])
    labels = np.array(Image.open(tmp_path / 'a/labels/v0.png'))
    model = same_labels(out.with_suffix('.py'), out, image, labels)
    assert tuple(model.dataset_meta['classes']) == CLASSES
    # predict takes the plain model, too, and so does a second extraction.
    predict.main([str(out), str(image), '--out', str(tmp_path / 'b')])
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'b/labels/v0.png')), labels)
    with pytest.raises(SystemExit, match="no 'teacher..' weights: it was trained without"):
        main([str(out), '--out', str(tmp_path / 'c.pth'), '--which', 'teacher'])


@pytest.mark.parametrize(
    ('network', 'methods'),
    [
        *((one, 12) for one in ('unet', 'deeplabv3plus_r50', 'efficientnet-lite0')),
        *((one, 2) for one in ('segformer_mit-b0', 'upernet_swin-t', 'upernet_convnext-t')),
    ],
)
def test_every_custom_config_is_extracted_to_one_that_runs(tmp_path, network, methods):
    root = make_leaves(tmp_path / 'leaves')
    bases = sorted(CONFIGS.glob(f'*/*_{network}_custom.py'))
    assert len(bases) >= methods
    plain = {}
    for base in bases:
        path = tmp_path / f'{base.stem}.py'
        path.write_text(
            f'_base_ = {str(base)!r}\ndata_root = {str(root)!r}\nclasses = {CLASSES!r}\n'
            'scale = (64, 64)\n'
        )
        plain[base.stem] = plain_config(load_config(str(path)))
    first = plain[f'supervised_{network}_custom']
    for name, cfg in plain.items():
        assert cfg.to_dict() == first.to_dict(), name
    config, checkpoint = tmp_path / 'plain.py', tmp_path / 'plain.pth'
    first.dump(str(config))
    torch.manual_seed(0)
    model = init_model(str(config), device='cpu')
    image = root / 'images/val/v0.jpg'
    several_classes(model)
    logits = inference_model(model, str(image)).seg_logits.data
    model.decode_head.conv_seg.bias.data -= logits.mean(dim=(1, 2))  # on this image, too
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    predict.main([str(checkpoint), str(image), '--out', str(tmp_path / 'out')])
    labels = np.array(Image.open(tmp_path / 'out/labels/v0.png'))
    same_labels(config, checkpoint, image, labels)


def test_what_plain_mmseg_leaves_is_extracted(tmp_path):
    run = saved_model(tmp_path)
    config = run.parent / 'config.py'
    config.write_text(config.read_text() + "\ndataset_type = 'LeafDataset'\n")
    main([str(run), '--out', str(tmp_path / 'plain.pth')])
    assert (tmp_path / 'plain.pth').is_file() and (tmp_path / 'plain.py').is_file()
    assert not list(tmp_path.glob('*.part'))
