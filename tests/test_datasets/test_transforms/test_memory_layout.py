import numpy as np
import pytest

from mmseg_semi.datasets.transforms.memory_layout import to_tensor, unflipped

IMAGES = [(np.uint8, 3), (np.uint8, 1), (np.uint8, 4), (np.float32, 3)]


def views(dtype, channels):
    whole = np.arange(9 * 8 * channels).reshape(9, 8, channels).astype(dtype)
    crop = whole[2:7, 1:7]
    return [crop, crop[:, ::-1], crop[::-1], crop[::-1, ::-1], whole, whole[:, ::-1]]


@pytest.mark.parametrize(('dtype', 'channels'), IMAGES)
def test_tensors_have_the_same_pixels(dtype, channels):
    for image in views(dtype, channels):
        for one in (image, unflipped(image)):
            tensor = to_tensor(one)
            assert tensor.is_contiguous() and tensor.shape == (channels, *image.shape[:2])
            assert np.array_equal(tensor.numpy(), image.transpose(2, 0, 1))
            assert tensor.numpy().dtype == dtype and not np.shares_memory(tensor.numpy(), image)


@pytest.mark.parametrize(('dtype', 'channels'), IMAGES)
def test_the_same_image_unflipped(dtype, channels):
    for image in views(dtype, channels):
        found = unflipped(image)
        assert np.array_equal(found, image) and found.dtype == dtype
        if channels == 3 and dtype == np.uint8:
            assert found.strides[1] > 0 or image.strides[0] < 0


def test_a_map_of_one_channel_gets_it():
    assert to_tensor(np.ones((4, 5), np.float32)).shape == (1, 4, 5)
