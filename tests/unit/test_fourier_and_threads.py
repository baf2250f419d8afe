# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier transforms and threads: same result with any number of images and threads, also on a simulated processor.

The first tests check that the simulated processor changes results at all.
"""
import numpy as np
import pytest
import torch
from ducc0 import fft

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import available_threads, one_thread, parallel_map
from tests.other_processor import other_processor, transforms


def placed(array, offset=0):
    """A copy of the array at an address that is ``offset`` bytes above a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64 + offset
    copy = memory[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_the_simulated_processor_changes_transforms_with_each_dependency(generator):
    images = torch.rand(3, 24, 20, generator=generator).numpy()

    def spectra(array, offset=0, **named):
        """The transform, with all addresses fixed."""
        out = placed(np.zeros((*array.shape[:-1], array.shape[-1] // 2 + 1), np.complex64))
        return transforms(fft).r2c(placed(array, offset), axes=(array.ndim - 2, array.ndim - 1), out=out, **named)

    alone = spectra(images[0])
    assert np.array_equal(alone, spectra(images[0]))
    assert not np.array_equal(spectra(images)[0], alone)  # other images in the call
    assert not np.array_equal(spectra(images[0], nthreads=2), alone)
    together = spectra(np.stack([images[0]] * 3))
    assert not np.array_equal(together[0], together[1])  # the position of the image
    assert not np.array_equal(spectra(images[0], offset=16), alone)  # the address
    # Apart from the last bits it is the same transform.
    np.testing.assert_allclose(alone, np.fft.rfft2(images[0]), rtol=0, atol=2e-3)


@pytest.mark.parametrize("work", [
    lambda x: x.sum(), lambda x: x.mean((1, 2)), lambda x: x.std(), lambda x: x[0] @ x[1].T, lambda x: x.exp(),
    lambda x: torch.nn.functional.conv2d(x[:, None], x[:1, None, :3, :3]), lambda x: x.exp_(),
    lambda x: torch.fft.rfft2(x)])
def test_the_simulated_processor_changes_torch_results_with_the_threads(work, generator, torch_threads):
    image = torch.rand(3, 20, 20, generator=generator)
    with other_processor():
        torch_threads(1)
        first, second = work(image.clone()), work(image.clone())
        torch_threads(2)
        on_two = work(image.clone())
    assert torch.equal(first, second)
    assert not torch.equal(first, on_two)
    torch.testing.assert_close(first, on_two, rtol=1e-4, atol=1e-3)


def test_the_simulated_processor_changes_every_thread_and_linear_algebra(torch_threads):
    numbers = torch.arange(1.0, 12.0)
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    with other_processor():
        torch_threads(1)
        alone = numbers.sum()
        assert alone != 66
        torch_threads(2)
        assert parallel_map(lambda _: numbers.sum(), range(4)) == [alone] * 4
        with one_thread():
            limited = np.linalg.inv(matrix)
        assert not np.array_equal(limited, np.linalg.inv(matrix)) or fewest_blas_threads() == 1
    assert numbers.sum() == 66


def fewest_blas_threads():
    """Return the number of threads that linear algebra may use on this machine."""
    from threadpoolctl import threadpool_info
    return min(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


@pytest.mark.parametrize("shape", [(15, 12), (16, 18), (33, 1), (1, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transforms_of_one_and_many_images_equal_those_of_numpy(shape, dtype, processor, generator):
    images = torch.rand(2, 5, *shape, generator=generator, dtype=torch.float64).to(dtype)
    before = images.clone()
    spectra = fourier.rfft2(images)
    assert torch.equal(spectra[1, 3], fourier.rfft2(images[1, 3]))
    assert torch.equal(spectra[:1, 2], fourier.rfft2(images[:1, 2]))
    back = fourier.irfft2(spectra, shape)
    assert back.dtype == dtype
    assert torch.equal(back[0, 4], fourier.irfft2(spectra[0, 4], shape))
    assert torch.equal(images, before)
    # The rounding of the type, and 16 times the changes by the simulated processor.
    rounding = 2e-6 if dtype == torch.float32 else 1e-14
    tolerance = rounding if processor == "this" else 3e-5
    torch.testing.assert_close(spectra, torch.from_numpy(np.fft.rfft2(images.numpy())).to(spectra.dtype),
                               rtol=0, atol=tolerance * shape[0] * shape[1])
    torch.testing.assert_close(back, images, rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize("shape", [(7, 8, 9), (8, 6, 4)])
def test_threads_change_no_bit_of_the_transform_of_a_volume(shape, processor, generator, torch_threads):
    volume = torch.rand(shape, generator=generator)
    results = []
    for count in (1, 3):
        torch_threads(count)
        spectrum = fourier.rfft3(volume)
        results.append((spectrum, fourier.irfft3(spectrum, shape)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    tolerance = 1e-6 if processor == "this" else 6e-5
    torch.testing.assert_close(results[0][0], torch.from_numpy(np.fft.rfftn(volume.numpy())).to(torch.complex64),
                               rtol=0, atol=tolerance * volume.numel())
    torch.testing.assert_close(results[0][1], volume, rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize("start", range(0, 16, 3))
def test_the_address_in_memory_changes_no_bit(start, processor):
    memory = torch.zeros(400)
    image = memory[start:start + 330].view(15, 22)
    image[...] = torch.arange(330.0).view(15, 22).sin()
    aligned = image.clone()
    assert torch.equal(fourier.rfft2(image), fourier.rfft2(aligned))
    assert torch.equal(fourier.rfft2(image.T), fourier.rfft2(aligned.T.contiguous()))


def test_images_transformed_one_by_one_equal_those_transformed_together(processor, generator):
    spectra = fourier.rfft2(torch.rand(4, 14, 14, generator=generator))
    alone = [torch.tensor(image) for image in fourier.each_irfft2(spectra.numpy(), 14)]
    assert torch.equal(torch.stack(alone), fourier.irfft2(spectra, (14, 14)))


def test_fast_lengths_have_small_prime_factors():
    assert [fourier.fast_length(size) for size in (1, 7, 11, 127, 1024)] == [1, 8, 12, 128, 1024]
    assert [fourier.fast_length(size, real=False) for size in (7, 11, 13, 127)] == [7, 11, 14, 128]


def test_threads_are_limited_inside_the_block_and_restored_after_it(torch_threads):
    torch_threads(3)
    with one_thread():
        assert (torch.get_num_threads(), available_threads()) == (1, 3)
        assert parallel_map(lambda _: (torch.get_num_threads(), available_threads()), range(5)) == [(1, 1)] * 5
        assert (torch.get_num_threads(), available_threads()) == (1, 3)
    assert (torch.get_num_threads(), available_threads()) == (3, 3)


def test_an_error_in_one_item_stops_all_work(torch_threads):
    torch_threads(2)
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda item: 1 / item, [1, 0, 2])
    assert torch.get_num_threads() == 2
