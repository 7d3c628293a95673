# Supplementary Table 3: 0.90.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-92.py'
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=dict(score_thr=0.9))))
