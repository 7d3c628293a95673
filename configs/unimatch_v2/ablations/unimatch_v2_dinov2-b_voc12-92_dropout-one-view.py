# Views, dropout and teacher: one view with dropout.
_base_ = '../unimatch_v2_dinov2-b_voc12-92.py'
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=dict(num_views=1))))
model = dict(streams=dict(strong=dict(views=1, perturbation=dict(complementary=False))))
