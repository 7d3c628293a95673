# SGD, poly decay 0.9 every iteration, 30 passes over the unlabeled images; everything but the
# backbone learns ten times as fast. It is for 4 GPUs (--auto-scale-lr scales it).
_base_ = './sgd_cityscapes_240e.py'
head = dict(lr_mult=10.0)
optim_wrapper = dict(
    optimizer=dict(lr=4e-3),
    paramwise_cfg=dict(custom_keys=dict(decode_head=head, auxiliary_head=head, heads=head)),
)
train_cfg = dict(max_epochs=30, val_interval=1)
