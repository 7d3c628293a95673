# The labeled images alone, 8 of them on 4 GPUs, as many iterations as the semi-supervised runs of
# cityscapes: the leaf config says how many.
_base_ = '../settings/cityscapes_801-d16.py'
train_dataloader = dict(
    batch_size=2,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(unlabeled=None),
)
auto_scale_lr = dict(base_batch_size=8)
