# Supplementary Table 3: 0.95.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-183.py'
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=dict(score_thr=0.95))))
