# SGD, poly decay 0.9 every iteration, 240 passes over the unlabeled images, one learning rate for
# backbone and heads. It is for 4 GPUs (--auto-scale-lr scales it).
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=5e-3, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)]
train_cfg = dict(type='SemiTrainLoop', max_epochs=240, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
