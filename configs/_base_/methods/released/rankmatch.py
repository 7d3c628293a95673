# RankMatch as released (CVPR 2024): UniMatch's program and its loss, which is halved, + 0.1 L_rank
# with the mean over the permutations, 64 agents, padding counted, 1e-10 in the rankings.
_base_ = './unimatch.py'
method = dict(
    heads=dict(
        rank=dict(
            type='AgentRankHead',
            tap='aspp',
            num_agents=64,
            top=4,
            reduction='mean',
            epsilon=1e-10,
            use_padding=True,
            loss_weight=0.1,
        ),
    ),
)
