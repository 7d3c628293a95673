# U2PL on VOC; the first epoch trains on labeled images alone.
_base_ = ['../settings/voc12_513-d8_3+3.py', '../methods/u2pl.py']
model = dict(_delete_=True, segmentor=_base_.model, warmup_epochs=1, **_base_.method)
