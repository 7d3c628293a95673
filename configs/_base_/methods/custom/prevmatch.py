# For own images, of which few are labeled: as UniMatch there (custom/unimatch.py), with guidance.
_base_ = './unimatch.py'
guidance = dict(type='PreviousGuidance', size=8, most=3, threshold=0.9, ramp_by='iteration')
method = dict(heads=dict(guidance=guidance))
