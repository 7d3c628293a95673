# RankMatch (CVPR 2024): L = L_sup + L_reg + 0.1 L_rank (Sec. 3.1), the sum over the permutations
# (Eq. 8), with UniMatch's L_reg = 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp; L_rank is the mean over both
# strong views.
_base_ = './unimatch.py'
method = dict(
    supervised_weight=1.0,
    losses=dict(strong=dict(loss_weight=0.5), perturbed=dict(loss_weight=0.5)),
    heads=dict(
        rank=dict(type='AgentRankHead', tap='aspp', num_agents=128, top=4, loss_weight=0.1),
    ),
)
