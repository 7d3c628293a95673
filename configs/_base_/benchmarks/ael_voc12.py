# AEL on VOC, with OHEM and an auxiliary head, 16 labeled and 16 unlabeled images on 8 GPUs; one
# class is pasted. The teacher predicts. The program divides the gradients by the number of GPUs
# twice: so its learning rate of 0.01 acts as an eighth of it, and its weight decay of 1e-4 as eight
# times as much.
_base_ = [
    '../settings/voc12_513-d8.py',
    '../datasets/mixing_alone.py',
    '../models/auxiliary_head.py',
    '../methods/ael.py',
]
segmentor, method = _base_.model, _base_.method
segmentor.decode_head.sampler = dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=100000)
segmentor.auxiliary_head = dict(_base_.auxiliary_head, num_classes=21)
method.labeled_mixer.num_classes = 1
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=segmentor, **method)
optim_wrapper = dict(optimizer=dict(lr=1.25e-3, weight_decay=8e-4))
train_dataloader = dict(batch_size=4, dataset=_base_.loader)
