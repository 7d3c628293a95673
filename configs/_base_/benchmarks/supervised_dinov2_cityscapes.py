# The labeled images alone, 16 of them on 4 GPUs: twice as many as in the semi-supervised runs, for
# as many iterations as UniMatch V2's program has; the leaf config says how many.
_base_ = '../settings/cityscapes_798-dinov2.py'
train_dataloader = dict(
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(unlabeled=None),
)
