# Weighting on UniMatch with a transformer, SegFormer-B2, which starts from downloaded ImageNet
# weights, on Cityscapes: every pixel is selected.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../schedules/sgd_cityscapes_240e.py',
    '../methods/weighting.py',
]
segmentor = _base_.model
segmentor.type = 'SlidingEncoderDecoder'
segmentor.backbone.update(
    embed_dims=64,
    num_layers=[3, 4, 6, 3],
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
        'mit_b2_20220624-66e8bf70.pth',
    ),
)
segmentor.decode_head.in_channels = [64, 128, 320, 512]
segmentor.decode_head.loss_decode.avg_non_ignore = True
segmentor.test_cfg = dict(
    mode='slide',
    crop_size=(801, 801),
    stride=(534, 534),
    window_average='prob',
    window_border='cut',
)
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=segmentor, **method)
# SegFormer's own optimizer.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(
            pos_block=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
            decode_head=dict(lr_mult=10.0),
        )
    ),
)
# The leaf config says which boxes.
boxes = dict(type='LoadDetections', results='', images='', score_thr=0.95)
train_dataloader = dict(
    batch_size=4, dataset=dict(unlabeled=dict(strong=_base_.strong, detections=boxes))
)
