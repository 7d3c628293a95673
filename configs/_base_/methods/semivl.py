# SemiVL (ECCV 2024): UniMatch with CLIP's encoder and a decoder of pixels times texts. CLIP as it
# was labels the weak views besides: L = 1/2 (L_x + L_std) + lambda (1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp)
# with CLIP's labels in the last term; lambda falls linearly from 0.1 to 0.
_base_ = './unimatch.py'
guidance = dict(type='CLIPGuidance', threshold=0.9, peak=0.1)
method = dict(heads=dict(guidance=guidance))
