# The labeled images with the colors and the blur of the strong views: what the augmentation alone,
# without unlabeled images, is worth.
_base_ = './supervised_efficientnet-lite0_camvid-12.py'
train_dataloader = dict(
    dataset=dict(
        geometry=dict(
            order=('resize', 'crop', 'flip', 'color', 'gray', 'blur'),
            color=dict(
                type='RandomColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25
            ),
            gray=dict(type='RandomGray', prob=0.2),
            blur=dict(type='RandomGaussianBlur', sigma=(0.1, 2.0), prob=0.5),
        )
    )
)
