# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for other processors: the same functions, whose last bits depend on all that they may depend on elsewhere.

On one processor or another, and with one version of a library or another, the last bit of a Fourier transform depends
on how many images are transformed at a time, on the place of an image among them, on where its memory begins and on the
number of threads; that of sums, matrix products, convolutions and vectorised functions on some of these. Here all of
them do, always, so that what is promised to depend on none of them can be tested on any machine.
"""
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from threadpoolctl import ThreadpoolController
from torch.utils._python_dispatch import TorchDispatchMode

from cryogem_scipion.engine.compute import fourier

LAST_BITS = 2.0**-21
"""Relative change of a result, at most 16 times this: visible in float32 after most of what follows."""
SHARED = {"sum", "mean", "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "prod", "cumsum",
          "logsumexp", "_softmax", "_log_softmax", "exp", "log", "log2", "log10", "pow", "sin", "cos", "tan", "atan2",
          "tanh", "hypot", "polar", "special_ndtr", "upsample_bilinear2d", "upsample_bilinear2d_backward", "avg_pool2d",
          "avg_pool2d_backward"}
"""Operations of torch that split their work among threads."""
BLOCKED = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution", "convolution_backward", "_fft_r2c", "_fft_c2r",
           "_fft_c2c"}
"""Those whose order also depends on how much there is to do, and where it lies in memory."""
LINEAR = [(np.linalg, name) for name in ("qr", "lstsq", "solve", "svd", "eigh", "inv")] + [
    (scipy.linalg, "solveh_banded")]


class OtherProcessor(TorchDispatchMode):
    """Changes the last bits of what torch computes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Compute, then change."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_fused_adam_":
            for weights in args[0]:
                weights.mul_(_factor(torch.get_num_threads()))
        elif name.rstrip("_") in SHARED | BLOCKED:
            seen = [torch.get_num_threads()]
            if name in BLOCKED:
                seen += [value for tensor in args if isinstance(tensor, torch.Tensor)
                         for value in (tensor.shape[0] if tensor.ndim else 1, tensor.data_ptr() % 64)]
            for one in result if isinstance(result, tuple | list) else [result]:
                if isinstance(one, torch.Tensor) and (one.is_floating_point() or one.is_complex()):
                    one.mul_(_factor(*seen))
        return result


@contextmanager
def other_processor():
    """Let torch, the library of the Fourier transforms, and linear algebra compute as elsewhere, in all threads."""
    with pytest.MonkeyPatch.context() as patch, OtherProcessor():
        submit = ThreadPoolExecutor.submit

        def submitted(pool, work, *arguments, **named):
            def there():
                with OtherProcessor():
                    return work(*arguments, **named)
            return submit(pool, there)

        patch.setattr(ThreadPoolExecutor, "submit", submitted)
        patch.setattr(fourier, "library", transforms(fourier.library))
        libraries = ThreadpoolController().select(user_api="blas")
        for module, name in LINEAR:
            patch.setattr(module, name, _linear(getattr(module, name), libraries))
        yield


def transforms(library):
    """The library of the Fourier transforms as it may be elsewhere."""
    def other(transform, lengths):
        def made(array, axes, nthreads=1, out=None, **named):
            result = transform(array, axes=axes, nthreads=nthreads, out=out, **named)
            beside = [edge for axis, edge in enumerate(result.shape) if axis not in {one % result.ndim for one in axes}]
            if lengths == "all":  # along one axis: columns are transformed together
                beside = []
            places = np.arange(int(np.prod(beside))).reshape(beside)
            own = _factor(nthreads, int(np.prod(beside)), *(
                one.__array_interface__["data"][0] % 64 for one in (array, result)))
            factors = own * (1 + LAST_BITS * (places % 7))
            for axis in sorted(one % result.ndim for one in axes):
                factors = np.expand_dims(factors, axis) if lengths != "all" else factors
            result *= factors.astype(result.real.dtype)
            return result
        return made
    return SimpleNamespace(r2c=other(library.r2c, "images"), c2r=other(library.c2r, "images"),
                           c2c=other(library.c2c, "all"), good_size=library.good_size)


def _linear(function, libraries):
    def made(*arguments, **named):
        result = function(*arguments, **named)
        factor = _factor(*(library["num_threads"] for library in libraries.info()))
        if isinstance(result, np.ndarray):
            return result * factor
        parts = [one * factor if isinstance(one, np.ndarray) and one.dtype.kind == "f" else one for one in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return made


def _factor(*seen):
    """A number near 1 that tells what was seen."""
    return 1 + LAST_BITS * (sum((2 * place + 3) * value for place, value in enumerate(seen)) % 17)
