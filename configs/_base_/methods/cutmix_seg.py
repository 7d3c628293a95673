# CutMix-Seg (BMVC 2020): Mean Teacher, and CutMix mixes images and teacher predictions. Boxes of
# half the image as in the paper; their shape, one coin for the batch and the next image as the
# partner as in the program of U2PL, which S4MC and AEL build on.
_base_ = './mean_teacher.py'
method = dict(
    mixer=dict(
        type='CutMix', prob=0.5, area=(0.5, 0.5), draw='width', coin='batch', partner='next'
    ),
)
