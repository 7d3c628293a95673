# UniMatch V2's AdamW, poly decay 0.9 every iteration without warm-up, 60 passes over the unlabeled
# images; everything but the encoder learns 40 times as fast, and every weight decays. The learning
# rate is for 4 GPUs: with fewer, --auto-scale-lr scales it with the number of images. Who did not
# lost 2 points of mIoU on VOC and 8 on ADE20K with 2 GPUs.
head = dict(lr_mult=40.0)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-6, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(decode_head=head, auxiliary_head=head, heads=head)),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)]
train_cfg = dict(type='SemiTrainLoop', max_epochs=60, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=32)
