# AEL on Cityscapes: U2PL's setting with weight decay 1e-4, and every pixel is selected. The teacher
# predicts.
_base_ = ['../settings/cityscapes_769-d8.py', '../methods/ael.py']
method = _base_.method
method.refiners.select.threshold = 0.0
# The program's shares; road, sidewalk, building, vegetation and sky are not pasted.
method.mixer.update(min_component=0.005, min_share=0.01)
method.labeled_mixer.ignore_classes = (0, 1, 2, 8, 10)
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=_base_.model, **method)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
train_dataloader = dict(dataset=_base_.loader)
