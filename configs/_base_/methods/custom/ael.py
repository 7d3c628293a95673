# Images are resized from one scale here, not from their own size: pasted ones like all others.
_base_ = '../ael.py'
method = dict(labeled_mixer=dict(scale=None), teacher=dict(from_start=True))
