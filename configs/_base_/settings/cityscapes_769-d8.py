# Cityscapes, crop 769, output stride 8, OHEM, auxiliary head: 16 labeled and 16 unlabeled images on
# 8 GPUs, 200 epochs, learning rate 0.01, weight decay 5e-4, as U2PL has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    '../datasets/mixing_alone.py',
    '../models/deeplabv3plus_r101-d8_cityscapes.py',
    '../models/auxiliary_head.py',
    '../schedules/sgd_cityscapes_240e.py',
]
model = dict(
    auxiliary_head=dict(_base_.auxiliary_head, num_classes=19),
    test_cfg=dict(crop_size=(769, 769), stride=(512, 512)),
)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
train_cfg = dict(max_epochs=200)
auto_scale_lr = dict(base_batch_size=32)
crop = dict(crop_size=(769, 769))
train_dataloader = dict(batch_size=4, dataset=dict(geometry=dict(crop=crop)))
