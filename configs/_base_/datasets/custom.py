# Your own images. The folders, relative to data_root (each data_prefix can be changed):
#   images/labeled    annotations/labeled    the few labeled images and their masks
#   images/unlabeled                         many images, nested folders allowed, no masks
#   images/val        annotations/val        for validation and test
# A mask is a single-channel PNG of class numbers 0..K-1, 255 where nobody knows; mask and image
# have the same name without suffix.
# A config of one's own sets these variables at its top, and all that depends on them follows; the
# values here are those that it leaves out (mmseg_semi/utils/user_variables.py).
_base_ = './semi.py'
user_variables = dict(
    data_root='data/custom',
    # Lists of mmseg-semi split, such as 'splits/50-seed0': all images are in images then, and all
    # masks in annotations.
    split=None,
    # Names in the order of the numbers in the masks; those of data_root/classes.json where it is.
    classes=('background', 'object'),
    crop_size=(320, 320),  # height and width of training crops
    scale=(1280, 320),  # width and height that images are fitted into; None: as they are
    # Given, even as 3, images of 8, 16 and 32 bits with this number of channels are read, and their
    # mean and deviation are those that mmseg-semi check has written to data_root/channels.json.
    in_channels=3,
    # What the encoder starts from: a file, an address, or a name such as 'mit_b0' (utils/
    # encoder_weights.py); None: from scratch; 'default': what the base of the network says.
    weights='default',
    iterations=20000,
    start=0.1,  # share of the iterations that train on labels alone
    batch_size=4,  # labeled images of a step on each GPU; as many unlabeled ones beside them
    workers=4,  # processes that load images, at most one a core; 0: the training does
    # Rare classes: half of the labeled crops lie around a pixel of a class drawn at random, all
    # classes alike, and the loss of the labeled images has class weights.
    balance=False,
    learning_rate=None,  # None: the network's own
    # Keeps the checkpoint of the best validation beside the last one. After the training the labels
    # alone are trained as long, and their best checkpoint is taken if it is better. The last lines
    # of the log name it.
    guard=True,
)
guarded = True  # what guard says
_data_root = user_variables['data_root']
_metainfo = dict(classes=user_variables['classes'])
part = dict(
    type='BaseSegDataset',
    data_root=_data_root,
    metainfo=_metainfo,
    img_suffix=('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.npy'),
    seg_map_suffix='.png',
)
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            part, data_prefix=dict(img_path='images/labeled', seg_map_path='annotations/labeled')
        ),
        unlabeled=dict(data_root=_data_root, data_prefix=dict(img_path='images/unlabeled')),
        geometry=dict(
            resize=dict(
                _delete_=True,
                type='RandomResize',
                scale=user_variables['scale'],
                ratio_range=(0.5, 2.0),
                keep_ratio=True,
            ),
            crop=dict(crop_size=user_variables['crop_size']),
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        part,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=user_variables['scale'], keep_ratio=True),
            # The truth is loaded after resizing: predictions are compared at the image's own size.
            dict(type='LoadAnnotations'),
            dict(type='CheckAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
)
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=user_variables['scale'], keep_ratio=True),
                dict(type='Resize', scale=(1920, 480), keep_ratio=True),
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
