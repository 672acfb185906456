"""The kernels that `minicnn.compile` fuses, on device "cuda" in the simulator, against the reference."""

from simulated import in_simulator


def test_fused_kernels_equal_the_reference():
    program = """
import itertools, numpy as np
from minicnn_kernels import DeviceArray, cuda, reference
rng = np.random.default_rng(0)

def draw(*shape):
    return rng.standard_normal(shape).astype(np.float32)

def check(name, *arguments):
    moved = [cuda.to_device(x) if isinstance(x, np.ndarray) else x for x in arguments]
    ours, theirs = getattr(cuda, name)(*moved), getattr(reference, name)(*arguments)
    if not isinstance(theirs, tuple):
        ours, theirs = (ours,), (theirs,)
    for mine, expected in zip(ours, theirs, strict=True):
        if expected is None:
            assert mine is None, name
            continue
        assert isinstance(mine, DeviceArray) and mine.dtype == expected.dtype, name
        np.testing.assert_allclose(cuda.to_host(mine), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    return theirs

x, weight, bias = draw(2, 2, 5, 6), draw(3, 2, 3, 3), draw(3)
geometry = ((1, 1), (1, 1), (1, 1), 1)
pools = (None, ((2, 2), (2, 2)), ((3, 2), (1, 2)))
for relu, pool in itertools.product((True, False), pools):
    y, winners = check("conv2d_block_forward", x, weight, bias, *geometry, relu, pool)
    if relu and pool:
        assert (winners == 255).any() and (winners != 255).any()
    check("conv2d_block_backward", draw(*y.shape), y, winners, x, weight, *geometry, relu, pool, (True,) * 3)
    for affine, residual in itertools.product(((None, None), (draw(2), draw(2))), (None, draw(*x.shape))):
        arguments = (x, *affine, residual, 1e-3, relu, pool)
        y, winners, mean, inv_std = check("batch_norm_block_forward", *arguments)
        saved = (x, *affine, residual is not None, mean, inv_std, relu, pool, (True,) * 4)
        check("batch_norm_block_backward", draw(*y.shape), y, winners, *saved)
spoilt = x.copy()
spoilt[0, 0, 1, 1] = np.nan  # shows in the result, and its position wins
ones = np.ones((1, 2, 1, 1), np.float32)
check("conv2d_block_forward", spoilt, ones, None, (1, 1), (0, 0), (1, 1), 1, True, pools[1])
check("conv2d_block_forward", 0 * x, ones, None, (1, 1), (0, 0), (1, 1), 1, True, pools[1])  # 0 is dead
check("batch_norm_block_forward", x, np.zeros(2, np.float32), None, None, 1e-3, True, pools[1])
even = draw(2, 2, 4, 6)  # its pixels go by fours
for relu, affine, residual in itertools.product(
    (True, False), ((None, None), (draw(2), draw(2))), (None, draw(*even.shape))
):
    arguments = (even, *affine, residual, 1e-3, relu, None)
    y, winners, mean, inv_std = check("batch_norm_block_forward", *arguments)
    saved = (even, *affine, residual is not None, mean, inv_std, relu, None, (True,) * 4)
    check("batch_norm_block_backward", draw(*y.shape), y, winners, *saved)
check("add_relu_forward", spoilt, draw(*x.shape))
check("linear_relu_forward", draw(4, 5), draw(3, 5), draw(3))
check("shortcut_forward", x, (2, 2), 1, 5)
check("shortcut_backward", draw(2, 5, 3, 3), x.shape, (2, 2), 1)
"""
    in_simulator("-c", program)
