# Views, dropout and teacher: FixMatch with an EMA teacher.
_base_ = '../unimatch_v2_dinov2-b_voc12-183.py'
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=dict(num_views=1))))
model = dict(streams=dict(strong=dict(views=1, perturbation=None)))
