# Baseline: the labeled images alone, as many of them a step and as many steps as the
# semi-supervised runs.
_base_ = '../_base_/settings/camvid_efficientnet-lite0.py'
train_dataloader = dict(
    batch_size=4,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(unlabeled=None),
)
auto_scale_lr = dict(base_batch_size=4)
