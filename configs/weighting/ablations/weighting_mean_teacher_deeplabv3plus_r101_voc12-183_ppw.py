# Table 3: PPW.
_base_ = '../weighting_mean_teacher_deeplabv3plus_r101_voc12-183.py'
model = dict(refiners=dict(agreement=None))
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=None)))
