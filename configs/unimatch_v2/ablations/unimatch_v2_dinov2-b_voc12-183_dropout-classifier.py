# Views, dropout and teacher: dropout before the classifier.
_base_ = '../unimatch_v2_dinov2-b_voc12-183.py'
model = dict(streams=dict(strong=dict(perturbation=dict(place='classifier'))))
