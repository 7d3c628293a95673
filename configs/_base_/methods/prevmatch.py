# PrevMatch (WACV 2026): UniMatch, whose losses are taken a second time with labels of a few
# of the student's last weights: L = (L_x + L_std + lambda L_prev) / (2 + lambda), with L_std all of
# UniMatch's losses on unlabeled images. The weights are kept at equal distances, not whenever they
# are the best on the validation images (push='best'), as the paper has it.
_base_ = './unimatch.py'
guidance = dict(type='PreviousGuidance', size=8, most=3, threshold=0.9)
method = dict(heads=dict(guidance=guidance))
