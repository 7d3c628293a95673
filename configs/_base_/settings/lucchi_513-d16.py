# Lucchi, crop 513, output stride 16: 8 labeled and 8 unlabeled images on 4 GPUs. Crop and schedule
# are ours.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/lucchi.py',
    '../models/deeplabv3plus_r101-d16.py',
    '../schedules/sgd_voc12_80e.py',
]
model = dict(decode_head=dict(num_classes=2))
train_cfg = dict(max_epochs=400, val_interval=20)
auto_scale_lr = dict(base_batch_size=16)
train_dataloader = dict(batch_size=4)
