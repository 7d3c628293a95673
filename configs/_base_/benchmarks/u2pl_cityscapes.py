# U2PL on Cityscapes; the first epoch trains on labeled images alone.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/u2pl.py']
model = dict(_delete_=True, segmentor=_base_.model, warmup_epochs=1, **_base_.method)
