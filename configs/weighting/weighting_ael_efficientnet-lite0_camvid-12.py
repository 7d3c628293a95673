_base_ = ['../ael/ael_efficientnet-lite0_camvid-12.py', '../_base_/methods/weighting_parts.py']
model = dict(**_base_.parts)
files = f'{_base_.data_root}/detection/12/unlabeled'
boxes = dict(_base_.boxes, results=f'{files}.bbox.json', images=f'{files}.json', score_thr=0.9)
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=boxes)))
