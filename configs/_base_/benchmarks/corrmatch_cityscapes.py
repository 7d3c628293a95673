# CorrMatch on Cityscapes: every pixel is selected (threshold 0, fixed), so that shapes take the
# class that is most frequent in them.
_base_ = ['../settings/cityscapes_801-d8.py', '../methods/corrmatch.py']
method = _base_.method
method.refiners.select = dict(type='ConfidenceThreshold', threshold=0.0)
model = dict(_delete_=True, segmentor=_base_.model, **method)
