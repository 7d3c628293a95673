"""The public data sets: where their files lie, how images are called, which splits are published.

A split of a data set is a folder ``<data_root>/<split_dir>/<name>`` with ``labeled.txt`` and
``unlabeled.txt``, one image name a line: the path below the image folder, without suffix.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from mmseg_semi.errors import DataError

PARTITIONS = ('cps', 'u2pl')


@dataclass(frozen=True)
class PublishedSplit:
    """A published partition of the training images.

    Attributes:
        name: Our name of it, the name of its folder.
        labeled: How many images are labeled.
        partition: Which of several partitions of equal sizes it belongs to: 'cps' (the lists that
            UniMatch distributes), 'u2pl', or None where there is one only.
        unimatch: Name of its folder in lists with an image and its mask in each line.
        u2pl: Name of its folder in lists with an image in each line.
        aliases: Further folder names that could mean it.
    """

    name: str
    labeled: int
    partition: str | None = None
    unimatch: str = ''
    u2pl: str = ''
    aliases: tuple[str, ...] = ()

    def may_be(self, folder: str) -> bool:
        """Whether a folder of this name could hold the split."""
        return folder in (self.name, self.unimatch, self.u2pl, *self.aliases)


@dataclass(frozen=True)
class BenchmarkLayout:
    """Where the files of a data set lie, and what is known about them.

    All folders and files are relative to ``data_root``, ``dataclasses.replace`` changes what
    another copy of the data has differently.

    Attributes:
        name: Name of the data set in tools and configs.
        data_root: Its usual place.
        img_dir: Folder of the training images.
        seg_map_dir: Folder of their masks.
        img_suffix: What follows the name in an image file.
        seg_map_suffix: What follows the name in a mask file.
        num_classes: Classes of the masks, 255 (ignored) not counted; None: unknown.
        reduce_zero_label: Whether 0 in a mask is ignored and the classes are counted from 1.
        split_dir: Folder of the folders of splits.
        name_pattern: Regular expression that a whole image name matches.
        example: An image name, for messages.
        num_train: Number of training images; None: as many as there are.
        train_list: List file of the training images, '' when they are all of ``img_dir``.
        train_list_tool: The tool that writes ``train_list``.
        val_list: List file of the validation images, '' when they are all of ``val_img_dir``.
        val_img_dir: Folder of the validation images, '' when there are none.
        names_are_unique: Whether no validation image has the name of a training image.
        published: The published splits.
    """

    name: str
    data_root: str
    img_dir: str
    seg_map_dir: str
    img_suffix: str
    seg_map_suffix: str
    num_classes: int | None = None
    reduce_zero_label: bool = False
    split_dir: str = 'semi'
    name_pattern: str = '.+'
    example: str = ''
    num_train: int | None = None
    train_list: str = ''
    train_list_tool: str = ''
    val_list: str = ''
    val_img_dir: str = ''
    names_are_unique: bool = True
    published: tuple[PublishedSplit, ...] = ()

    @property
    def root_variable(self) -> str:
        """The environment variable that says where the data are, as in the configs."""
        return f'{self.name.upper()}_ROOT'

    def default_root(self) -> str:
        """Where the data are: what the environment says, else their usual place."""
        return os.environ.get(self.root_variable) or self.data_root

    def find_published(
        self, folder: str, style: str, partition: str | None = None
    ) -> PublishedSplit | None:
        """The published split that a folder of published lists holds.

        Args:
            folder: Name of the folder.
            style: 'unimatch' or 'u2pl', see ``PublishedSplit``, or another text for lists that are
                in none of these styles.
            partition: Which partition the user says it is, None: found from folder and style.

        Returns:
            The split, or None when no published one is called so.

        Raises:
            DataError: Folder and style fit splits of several partitions, or none of the one that
                the user named.
        """
        known = [split for split in self.published if split.may_be(folder)]
        if not known:
            return None
        if partition is not None:
            fitting = [split for split in known if split.partition in (None, partition)]
            if not fitting:
                raise DataError(
                    f'--partition {partition}: folder {folder} is {known[0].name} of partition '
                    f'{known[0].partition}. Leave --partition out, or name with --only the '
                    'folders that are to be imported with it.'
                )
            return fitting[0]
        folders = [dict(unimatch=split.unimatch, u2pl=split.u2pl) for split in known]
        fitting = [split for split, one in zip(known, folders) if one.get(style) == folder]
        certain = known[0].partition is None or known[0].name == folder
        if not fitting and len(known) == 1 and certain:
            fitting = known
        if not fitting:
            raise DataError(
                f'folder {folder}: lists of this kind can be of the partition '
                f'{" or ".join(PARTITIONS)}, which differ. Say which with --partition '
                f'{"|".join(PARTITIONS)} (and --only {folder} where others are imported too).'
            )
        return fitting[0]


def _voc_splits() -> tuple[PublishedSplit, ...]:
    splits = [
        PublishedSplit(str(n), n, unimatch=str(n), u2pl=str(n)) for n in (92, 183, 366, 732, 1464)
    ]
    for share, n in (('1_16', 662), ('1_8', 1323), ('1_4', 2646)):
        splits += [
            PublishedSplit(f'cps_{n}', n, 'cps', unimatch=share, aliases=(str(n),)),
            PublishedSplit(f'u2pl_{n}', n, 'u2pl', f'u2pl_{share}', str(n), aliases=(share,)),
        ]
    return (*splits, PublishedSplit('u2pl_5291', 5291, 'u2pl', u2pl='5291'))


def _cityscapes_splits() -> tuple[PublishedSplit, ...]:
    splits = [PublishedSplit('100', 100, unimatch='1_30')]
    for share, n in (('1_16', 186), ('1_8', 372), ('1_4', 744), ('1_2', 1488)):
        splits += [
            PublishedSplit(str(n), n, 'cps', unimatch=share),
            PublishedSplit(f'u2pl_{n}', n, 'u2pl', u2pl=str(n), aliases=(share,)),
        ]
    return tuple(splits)


def _shares(sizes: dict[int, int]) -> tuple[PublishedSplit, ...]:
    """Splits by the numbers that they divide the images by, as UniMatch names them."""
    return tuple(PublishedSplit(str(n), n, unimatch=f'1_{s}') for s, n in sizes.items())


VOC12 = BenchmarkLayout(
    name='voc12',
    data_root='data/VOCdevkit/VOC2012',
    img_dir='JPEGImages',
    seg_map_dir='SegmentationClassAug',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    num_classes=21,
    split_dir='ImageSets/Segmentation/semi',
    name_pattern=r'\d{4}_\d{6}',
    example='2007_000032',
    num_train=10582,
    train_list='ImageSets/Segmentation/train_aug.txt',
    train_list_tool='tools/dataset_converters/voc_sbd.py',
    val_list='ImageSets/Segmentation/val.txt',
    val_img_dir='JPEGImages',
    published=_voc_splits(),
)
CITYSCAPES = BenchmarkLayout(
    name='cityscapes',
    data_root='data/cityscapes',
    img_dir='leftImg8bit/train',
    seg_map_dir='gtFine/train',
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    num_classes=19,
    name_pattern=r'(?P<city>[a-z-]+)/(?P=city)_\d{6}_\d{6}',
    example='aachen/aachen_000000_000019',
    num_train=2975,
    val_img_dir='leftImg8bit/val',
    published=_cityscapes_splits(),
)
COCO = BenchmarkLayout(
    name='coco',
    data_root='data/coco',
    img_dir='train2017',
    seg_map_dir='semantic_masks/train2017',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    num_classes=81,
    name_pattern=r'\d{12}',
    example='000000000009',
    num_train=118287,
    val_img_dir='val2017',
    published=_shares({512: 232, 256: 463, 128: 925, 64: 1849, 32: 3697}),
)
ADE20K = BenchmarkLayout(
    name='ade20k',
    data_root='data/ade/ADEChallengeData2016',
    img_dir='images/training',
    seg_map_dir='annotations/training',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    num_classes=150,
    reduce_zero_label=True,
    name_pattern=r'ADE_train_\d{8}',
    example='ADE_train_00000001',
    num_train=20210,
    val_img_dir='images/validation',
    # SemiVL's list of 1/32 has 632 images, another one; the others are the same.
    published=_shares({64: 316, 32: 631, 16: 1263, 8: 2526, 4: 5052}),
)
LUCCHI = BenchmarkLayout(
    name='lucchi',
    data_root='data/lucchi',
    img_dir='images/train',
    seg_map_dir='annotations/train',
    img_suffix='.png',
    seg_map_suffix='.png',
    num_classes=2,
    name_pattern=r'slice_\d{3}',
    example='slice_000',
    num_train=165,
    val_img_dir='images/val',
    names_are_unique=False,
)
BENCHMARK_LAYOUTS = {layout.name: layout for layout in (VOC12, CITYSCAPES, COCO, ADE20K, LUCCHI)}
