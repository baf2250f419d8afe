# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulates another processor: it changes the last bits of results, depending on threads, batches and addresses.

The last bit of a Fourier transform may depend on the number of images in one call, on the position of an image among
them, on the address of its memory, and on the number of threads. Which of these matters differs between processors and
between versions of a library. The same holds for sums, matrix products, convolutions and vectorised functions. The
simulated processor depends on all of them. So a test on any machine shows that the engine's results depend on none.
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
"""A result changes by at most 16 times this fraction, which later operations in float32 seldom round away."""
SHARED = {"sum", "mean", "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "prod", "cumsum",
          "logsumexp", "_softmax", "_log_softmax", "exp", "log", "log2", "log10", "pow", "sin", "cos", "tan", "atan2",
          "tanh", "hypot", "polar", "special_ndtr", "upsample_bilinear2d", "upsample_bilinear2d_backward", "avg_pool2d",
          "avg_pool2d_backward"}
"""Operations of torch whose order of sums depends on the number of threads."""
BLOCKED = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution", "convolution_backward", "_fft_r2c", "_fft_c2r",
           "_fft_c2c"}
"""Operations whose order also depends on the size of the batch and on the address in memory."""
LINEAR = [(np.linalg, name) for name in ("qr", "lstsq", "solve", "svd", "eigh", "inv")] + [
    (scipy.linalg, "solveh_banded")]


class OtherProcessor(TorchDispatchMode):
    """Changes the last bits of the results of torch."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Compute, and change the last bits of the result."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_fused_adam_":
            for weights in args[0]:
                weights.mul_(_factor(torch.get_num_threads()))
        elif name.rstrip("_") in SHARED | BLOCKED:
            dependencies = [torch.get_num_threads()]
            if name in BLOCKED:
                dependencies += [value for tensor in args if isinstance(tensor, torch.Tensor)
                                 for value in (tensor.shape[0] if tensor.ndim else 1, tensor.data_ptr() % 64)]
            for part in result if isinstance(result, tuple | list) else [result]:
                if isinstance(part, torch.Tensor) and (part.is_floating_point() or part.is_complex()):
                    part.mul_(_factor(*dependencies))
        return result


@contextmanager
def other_processor():
    """Change the last bits of torch, Fourier transforms and linear algebra inside the block, in all threads."""
    with pytest.MonkeyPatch.context() as patch, OtherProcessor():
        submit = ThreadPoolExecutor.submit

        def submitted(pool, work, *arguments, **named):
            def work_on_other_processor():
                with OtherProcessor():
                    return work(*arguments, **named)
            return submit(pool, work_on_other_processor)

        patch.setattr(ThreadPoolExecutor, "submit", submitted)
        patch.setattr(fourier, "library", transforms(fourier.library))
        libraries = ThreadpoolController().select(user_api="blas")
        for module, name in LINEAR:
            patch.setattr(module, name, _linear(getattr(module, name), libraries))
        yield


def transforms(library):
    """Return the library of the Fourier transforms with changed last bits."""
    def changed(transform, lengths):
        def call(array, axes, nthreads=1, out=None, **named):
            result = transform(array, axes=axes, nthreads=nthreads, out=out, **named)
            transformed = {axis % result.ndim for axis in axes}
            batch = [edge for axis, edge in enumerate(result.shape) if axis not in transformed]
            if lengths == "all":  # columns are transformed together along one axis
                batch = []
            positions = np.arange(int(np.prod(batch))).reshape(batch)
            factor = _factor(nthreads, int(np.prod(batch)), *(
                part.__array_interface__["data"][0] % 64 for part in (array, result)))
            factors = factor * (1 + LAST_BITS * (positions % 7))
            for axis in sorted(transformed):
                factors = np.expand_dims(factors, axis) if lengths != "all" else factors
            result *= factors.astype(result.real.dtype)
            return result
        return call
    return SimpleNamespace(r2c=changed(library.r2c, "images"), c2r=changed(library.c2r, "images"),
                           c2c=changed(library.c2c, "all"), good_size=library.good_size)


def _linear(function, libraries):
    """Return a function of linear algebra with changed last bits."""
    def call(*arguments, **named):
        result = function(*arguments, **named)
        factor = _factor(*(library["num_threads"] for library in libraries.info()))
        if isinstance(result, np.ndarray):
            return result * factor
        parts = [part * factor if isinstance(part, np.ndarray) and part.dtype.kind == "f" else part
                 for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return call


def _factor(*dependencies):
    """Return a number near 1 that differs for different values of the dependencies."""
    return 1 + LAST_BITS * (sum((2 * place + 3) * value for place, value in enumerate(dependencies)) % 17)
