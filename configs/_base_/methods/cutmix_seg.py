# CutMix-Seg (BMVC 2020): Mean Teacher, and CutMix mixes images and teacher predictions.
_base_ = './mean_teacher.py'
method = dict(mixer=dict(type='CutMix', prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3)))
