# DINOv2-S and the decoder of UniMatch V2.
_base_ = './dinov2-b_dpt.py'
model = dict(**_base_.dinov2_s)
