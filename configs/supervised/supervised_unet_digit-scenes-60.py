# Baseline: the plain segmentor on the labeled images alone, as many of them an iteration and as
# many iterations as the semi-supervised runs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
]
train_dataloader = dict(
    batch_size=8,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(unlabeled=None),
)
auto_scale_lr = dict(base_batch_size=8)
