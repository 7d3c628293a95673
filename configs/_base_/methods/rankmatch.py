# RankMatch (CVPR 2024): UniMatch and L = L_UniMatch + 0.1 L_rank, the mean over both strong views.
# The authors' program averages over the 24 permutations (reduction='mean'); the paper sums.
_base_ = './unimatch.py'
method = dict(
    heads=dict(
        rank=dict(type='AgentRankHead', tap='aspp', num_agents=128, top=4, loss_weight=0.1),
    ),
)
