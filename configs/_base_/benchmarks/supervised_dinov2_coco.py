# The labeled images alone, 32 of them on 4 GPUs: twice as many as in the semi-supervised runs, for
# as many iterations as UniMatch V2's program has; the leaf config says how many.
_base_ = '../settings/coco_518-dinov2.py'
train_dataloader = dict(
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(unlabeled=None),
)
