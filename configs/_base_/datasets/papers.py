# The pipeline of the papers' programs (UniMatch's, and of what runs on it), which work on Pillow
# images: antialiased resizing, black padding to the crop before flip and photometry, Pillow's hue
# and blur.
_base_ = './semi.py'
train_dataloader = dict(
    dataset=dict(
        unlabeled=dict(
            strong=dict(transforms=dict(color=dict(backend='pillow'), blur=dict(backend='pillow')))
        ),
        geometry=dict(
            resize=dict(backend='pillow'),
            crop=dict(type='RandomPaddedCrop', pad_color=(0, 0, 0)),
        ),
    )
)
