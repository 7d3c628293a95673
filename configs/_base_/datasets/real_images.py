# What the small sets of real images share (docs/real_images.md): 4 labeled and 4 unlabeled crops of
# 128 x 128 pixels a step, loaded without worker processes, for a CPU. The converters write the
# lists of labeled and unlabeled images; a config names one: splits/<number of labels>.
_base_ = './semi.py'
part = dict(type='BaseSegDataset', img_suffix='.png', seg_map_suffix='.png')
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        labeled=dict(
            part, data_prefix=dict(img_path='images/train', seg_map_path='annotations/train')
        ),
        unlabeled=dict(data_prefix=dict(img_path='images/train')),
        geometry=dict(
            resize=dict(ratio_range=(0.75, 1.5)),
            crop=dict(crop_size=(128, 128)),
        ),
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(part, data_prefix=dict(img_path='images/val', seg_map_path='annotations/val')),
)
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(part, data_prefix=dict(img_path='images/test', seg_map_path='annotations/test')),
)
