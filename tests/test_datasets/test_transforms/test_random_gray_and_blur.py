import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageFilter

from mmseg_semi.datasets import RandomGaussianBlur, RandomGray

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def test_gray_is_the_luma_of_bgr():
    pixel = np.array([[[10, 100, 200]]], np.uint8)  # 1.14 + 58.7 + 59.8 = 119.64
    assert RandomGray(prob=1)(dict(img=pixel))['img'].tolist() == [[[120, 120, 120]]]
    assert RandomGray(prob=0)(dict(img=pixel))['img'] is pixel


def impulse():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    return image


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.0, 2.0])
def test_blur_has_the_sigma_asked_for(sigma):
    result = RandomGaussianBlur(sigma=(sigma, sigma), prob=1)(dict(img=impulse()))['img']
    place = np.arange(41) - 20
    kernel = np.exp(-(place**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    expected = 255 * np.outer(kernel, kernel)
    assert np.abs(result[..., 1] - expected).max() <= 1.5


@pytest.mark.parametrize('sigma', [0.33, 0.8, 2.0])
def test_blur_of_8_bits_is_within_a_level(sigma):
    blur = RandomGaussianBlur(sigma=(sigma, sigma), prob=1)
    exact = blur(dict(img=IMAGE.astype(np.float32)))['img']
    assert np.abs(blur(dict(img=IMAGE))['img'] - exact).max() <= 1


@pytest.mark.parametrize('sigma', [0.1, 0.8, 2.0])
def test_blur_of_the_pillow_backend_is_pillows(sigma):
    blur = RandomGaussianBlur(sigma=(sigma, sigma), prob=1, backend='pillow')
    rgb = Image.fromarray(IMAGE[..., ::-1]).filter(ImageFilter.GaussianBlur(sigma))
    assert np.array_equal(blur(dict(img=IMAGE))['img'], np.asarray(rgb)[..., ::-1])
    plain = RandomGaussianBlur(sigma=(sigma, sigma), prob=1)(dict(img=IMAGE))['img']
    assert not np.array_equal(plain, blur(dict(img=IMAGE))['img'])


def test_blur_draws_sigma_from_the_range():
    np.random.seed(0)
    blur = TRANSFORMS.build(dict(type='RandomGaussianBlur', sigma=(0.5, 2.0), prob=1))
    peaks = [blur(dict(img=impulse()))['img'].max() for _ in range(100)]
    assert 9 <= min(peaks) <= 13 and 120 <= max(peaks) <= 160  # 255 / (2 pi sigma^2), from 2 and .5


@pytest.mark.parametrize(('transform', 'prob'), [(RandomGray(), 0.2), (RandomGaussianBlur(), 0.5)])
def test_default_probabilities(transform, prob):
    np.random.seed(0)
    changed = sum(transform(dict(img=IMAGE))['img'] is not IMAGE for _ in range(2000))
    assert abs(changed / 2000 - prob) < 0.04


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r'RandomGray.prob must be a number in \[0, 1\], got 1.2'):
        RandomGray(1.2)
    with pytest.raises(ValueError, match=r'RandomGaussianBlur.prob must be .* got -1'):
        RandomGaussianBlur(prob=-1)
    with pytest.raises(ValueError, match="RandomGaussianBlur.backend must be .* got 'pil'"):
        RandomGaussianBlur(backend='pil')
    for sigma in ((0, 1), (2, 1), (1,)):
        with pytest.raises(ValueError, match='RandomGaussianBlur.sigma (is|must be)'):
            RandomGaussianBlur(sigma=sigma)
