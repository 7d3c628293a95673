# The labeled images alone, 8 of them on 4 GPUs, as many iterations as the semi-supervised runs of
# cityscapes: the leaf config says how many.
_base_ = '../settings/cityscapes_801-d16.py'
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=_base_.train_dataloader.dataset.labeled,
)
auto_scale_lr = dict(base_batch_size=8)
