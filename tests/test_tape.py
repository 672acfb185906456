"""The tape: order and accumulation of gradients, what it keeps, frees and refuses."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from typing import ClassVar

import numpy as np
import pytest

import minicnn
from minicnn.function import Function


def leaf(values, dtype="float64") -> minicnn.Tensor:
    return minicnn.tensor(values, dtype=dtype, requires_grad=True)


# -- walking --------------------------------------------------------------------------------------


def test_a_chain_of_20_000_operations_passes() -> None:
    x = leaf([1.0, -2.0])
    y = x
    for _ in range(20_000):
        y = y + 1
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_forgetting_a_long_chain_does_not_overflow_the_stack() -> None:
    y = x = leaf(1.0)
    for _ in range(100_000):
        y = y * 1.0
    del y
    gc.collect()
    assert x.grad is None


def test_a_tower_of_diamonds_visits_each_node_once() -> None:
    """Each step doubles the number of paths; 200 steps by paths would never end."""
    calls = 0

    class Count(Function):
        def forward(self, x):
            return x * 1.0

        def backward(self, grad):
            nonlocal calls
            calls += 1
            return (grad,)

    x = leaf(1.0)
    y = x
    for _ in range(200):
        y = Count.apply(y)
        y = (y + y) * 0.5
    y.backward()
    assert calls == 200
    assert x.grad.item() == pytest.approx(1.0)


def test_a_shared_node_waits_for_all_its_consumers() -> None:
    x = leaf(3.0)
    a = x * x
    b = a + 1
    c = a * b  # a is used here, and earlier in b
    d = c + a
    d.backward()
    # d = a (a + 1) + a = a^2 + 2 a with a = x^2
    assert x.grad.item() == pytest.approx(2 * 9 * 2 * 3 + 2 * 2 * 3)


def test_the_same_tensor_as_both_operands() -> None:
    x = leaf([2.0, 3.0])
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]
    y = leaf([2.0, 3.0])
    (y - y).sum().backward()
    assert y.grad.tolist() == [0, 0]


class _Doubles(Function):
    """2 x, whose gradient is added to what another op gave for x."""

    adds_input_gradient = True
    found: ClassVar[list[bool]] = []

    def forward(self, x):
        return x * 2

    def backward(self, grad):
        self.found.append(self.earlier is not None)
        return (grad * 2 if self.earlier is None else np.add(self.earlier, grad * 2, out=self.earlier),)


@pytest.mark.parametrize("shared", [False, True])
def test_an_op_adds_its_gradient_to_an_earlier_one_that_nobody_else_sees(shared: bool) -> None:
    _Doubles.found.clear()
    x = leaf([1.0, 2.0])
    y = x * 3
    z = y + 0 if shared else y * 5  # the gradient of a sum is the very array that came in
    doubled = _Doubles.apply(y)
    (doubled + z if shared else doubled * 7 + z).sum().backward()
    assert x.grad.tolist() == ([9, 9] if shared else [57, 57])
    assert _Doubles.found == [not shared]


def test_a_branch_that_says_nothing_does_not_hold_up_the_others() -> None:
    class Silent(Function):
        def forward(self, x):
            return x * 2.0

        def backward(self, grad):
            return (None,)

    x = leaf(3.0)
    y = x * 1.0
    (Silent.apply(y) + y).backward()
    assert x.grad.item() == 1


def test_gradients_accumulate_over_backward_passes() -> None:
    x = leaf([1.0, 2.0])
    for _ in range(3):
        (x * x).sum().backward()
    assert x.grad.tolist() == [6, 12]


def test_only_leaves_that_ask_get_a_gradient() -> None:
    x, w = minicnn.tensor([1.0]), leaf([2.0], "float32")
    y = x * w
    y.sum().backward()
    assert x.grad is None
    assert y.grad is None
    assert w.grad.tolist() == [1]


def test_backward_of_a_leaf_gives_it_the_gradient() -> None:
    x = leaf(3.0)
    x.backward()
    assert x.grad.item() == 1


# -- aliases --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: x + y,
        lambda x, y: x - (-y),
        lambda x, y: minicnn.cat([x, y]),
        lambda x, y: x.reshape(2, 1) + y.reshape(2, 1),
        lambda x, y: (x + 0) + (y + 0),
        lambda x, y: x.clone() + y.T,
    ],
    ids=["add", "sub", "cat", "views", "through nodes", "copies"],
)
def test_leaves_do_not_share_their_gradients(make) -> None:
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    z = make(x, y)
    seed = np.ones(z.shape)
    z.backward(seed)
    x.grad.mul_(100)
    assert y.grad.tolist() == [1, 1]
    assert seed.max() == 1
    y.grad.mul_(100)
    assert x.grad.tolist() == [100, 100]


def test_a_leaf_owns_the_gradient_that_a_caller_passed() -> None:
    x = leaf([1.0, 2.0])
    seed = np.array([1.0, 1.0])
    (x + 0).backward(seed)
    x.grad.zero_()
    assert seed.tolist() == [1, 1]
    x.backward(seed)
    x.grad.zero_()
    assert seed.tolist() == [1, 1]


def test_a_gradient_from_an_expanded_view_is_writable() -> None:
    x = leaf([1.0, 2.0, 3.0])
    x.sum().backward()
    x.grad.mul_(2)
    assert x.grad.tolist() == [2, 2, 2]


def test_accumulation_leaves_an_earlier_gradient_tensor_alone() -> None:
    """As in PyTorch, `grad` stays the same object; what was read out as an array does not change."""
    x = leaf([1.0])
    (x * 2).sum().backward()
    grad, array = x.grad, x.grad.numpy()
    (x * 2).sum().backward()
    assert x.grad is grad
    assert array.tolist() == [2]
    assert grad.tolist() == [4]


# -- recording or not -----------------------------------------------------------------------------


def test_no_grad_as_a_block_records_nothing() -> None:
    x = leaf([1.0])
    with minicnn.no_grad():
        y = x * 2
        with minicnn.enable_grad():
            z = x * 3
        assert not minicnn.is_grad_enabled()
    assert not y.requires_grad
    assert y.grad_fn is None
    assert z.requires_grad
    assert minicnn.is_grad_enabled()


def test_no_grad_as_a_decorator_with_and_without_parentheses() -> None:
    x = leaf([1.0])

    @minicnn.no_grad()
    def twice(depth: int) -> minicnn.Tensor:
        if depth:
            twice(depth - 1)
        return x * 2

    @minicnn.no_grad
    def thrice() -> minicnn.Tensor:
        return x * 3

    assert not twice(3).requires_grad
    assert not thrice().requires_grad
    assert minicnn.is_grad_enabled()
    with minicnn.no_grad():
        thrice()
        assert not minicnn.is_grad_enabled()


def test_no_grad_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), minicnn.no_grad():
        raise ZeroDivisionError
    assert minicnn.is_grad_enabled()


def test_set_grad_enabled_as_a_statement_a_block_and_a_decorator() -> None:
    try:
        minicnn.set_grad_enabled(False)
        assert not minicnn.is_grad_enabled()
        with minicnn.set_grad_enabled(True):
            assert minicnn.is_grad_enabled()
        assert not minicnn.is_grad_enabled()
    finally:
        minicnn.set_grad_enabled(True)

    @minicnn.set_grad_enabled(False)
    def state() -> bool:
        return minicnn.is_grad_enabled()

    assert minicnn.is_grad_enabled()
    assert not state()
    assert minicnn.is_grad_enabled()


def test_each_thread_has_its_own_gradient_mode() -> None:
    seen = []
    with minicnn.no_grad():
        thread = threading.Thread(target=lambda: seen.append(minicnn.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_shares_memory_and_stops_the_gradient() -> None:
    x = leaf([2.0])
    y = x.detach()
    assert not y.requires_grad
    assert np.shares_memory(x.data, y.data)
    (x * y).sum().backward()
    assert x.grad.tolist() == [2]


# -- errors ---------------------------------------------------------------------------------------


def test_a_tensor_changed_in_place_names_the_operation_that_needed_it() -> None:
    x = leaf([1.0, 2.0])
    y = minicnn.tensor([3.0, 4.0], dtype="float64")
    z = (x * y).sum()
    y.mul_(2)
    with pytest.raises(RuntimeError, match=r"Mul: a tensor of shape \(2,\) .* changed in place"):
        z.backward()


def test_a_leaf_changed_under_no_grad_is_noticed() -> None:
    w = leaf([1.0])
    loss = (w * w).sum()
    with minicnn.no_grad():
        w -= 0.1
    with pytest.raises(RuntimeError, match="Mul"):
        loss.backward()


def test_a_result_that_backward_needs_is_watched_too() -> None:
    x = leaf([1.0])
    y = x.exp()
    with minicnn.no_grad():
        y[0] = 5.0
    with pytest.raises(RuntimeError, match="Exp"):
        y.sum().backward()


def test_a_change_through_a_view_or_a_detached_tensor_is_noticed() -> None:
    for alias in (lambda t: t[0:1], lambda t: t.reshape(1, 2), lambda t: t.T, lambda t: t.detach()):
        x, y = leaf([1.0, 2.0]), minicnn.tensor([3.0, 4.0], dtype="float64")
        z = (x * y).sum()
        alias(y).fill_(0)
        with pytest.raises(RuntimeError, match="changed in place"):
            z.backward()


def test_a_change_of_a_copy_disturbs_nobody() -> None:
    for copied in (lambda t: t[[0, 1]], lambda t: t.clone(), lambda t: t[t > 0], lambda t: t.to("float32")):
        x, y = leaf([1.0, 2.0]), minicnn.tensor([3.0, 4.0], dtype="float64")
        z = (x * y).sum()
        copied(y).fill_(0)
        z.backward()
        assert x.grad.tolist() == [3, 4]


def test_a_change_of_what_backward_does_not_need_is_fine() -> None:
    x, y = leaf([1.0]), minicnn.tensor([3.0], dtype="float64")
    z = (x + y).sum()
    y.fill_(0)
    z.backward()
    assert x.grad.tolist() == [1]


def test_in_place_changes_that_the_tape_would_miss_are_refused() -> None:
    x = leaf([1.0, 2.0])
    for change in (
        lambda: x.add_(1),
        lambda: x.zero_(),
        lambda: x.__setitem__(0, 1.0),
        lambda: (x * 2).mul_(3),
        lambda: x.clamp_(0, 1),
    ):
        with pytest.raises(RuntimeError, match="in-place change of a tensor that requires a gradient"):
            change()
    out = minicnn.zeros(2, dtype="float64")
    with pytest.raises(RuntimeError, match="the value requires a gradient, which would be lost"):
        out[0] = x[0]
    with pytest.raises(RuntimeError, match="would be lost"):
        out.copy_(x)
    with pytest.raises(RuntimeError, match="would be lost"):
        out.add_(x)


def test_augmented_assignment_records_or_writes() -> None:
    x = leaf([1.0, 2.0])
    out = x * 2
    first = out
    out += x  # a new tensor: the tape would not know of a change
    assert out is not first
    out.sum().backward()
    assert x.grad.tolist() == [3, 3]

    memory = x.data
    with minicnn.no_grad():
        x -= 0.5 * x.grad
    assert x.data is memory
    assert x.tolist() == [-0.5, 0.5]
    assert x.requires_grad

    with pytest.raises(RuntimeError, match="in-place change"):
        x *= 2

    total = minicnn.zeros(())
    total += minicnn.tensor(1.0, requires_grad=True) * 2
    assert total.requires_grad


def test_a_second_backward_says_what_to_do() -> None:
    x = leaf([1.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"already walked and freed.*retain_graph=True"):
        y.backward()
    assert x.grad.tolist() == [2]


def test_a_backward_through_a_freed_part_fails_before_anything_is_accumulated() -> None:
    x = leaf([1.0])
    shared = x * x
    shared.sum().backward()
    w = leaf([2.0])
    with pytest.raises(RuntimeError, match="already walked"):
        (shared * w).sum().backward()
    assert w.grad is None
    assert x.grad.tolist() == [2]


def test_retain_graph_allows_a_second_backward() -> None:
    x = leaf([3.0])
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [12]


def test_backward_without_gradient_needs_one_element() -> None:
    with pytest.raises(RuntimeError, match=r"shape \(2,\) has no single derivative"):
        (leaf([1.0, 2.0]) * 2).backward()
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(2,\), got \(3,\)"):
        (leaf([1.0, 2.0]) * 2).backward(np.ones(3))
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        minicnn.tensor(1.0).backward()


# -- hooks ----------------------------------------------------------------------------------------


def test_hooks_see_replace_and_stop_seeing_the_gradient() -> None:
    x = leaf([1.0, 2.0])
    y = x * 3
    seen = []
    remove = y.register_hook(lambda grad: seen.append(grad.tolist()))
    y.register_hook(lambda grad: grad * 10)
    y.sum().backward(retain_graph=True)
    assert seen == [[1, 1]]
    assert x.grad.tolist() == [30, 30]
    remove()
    y.sum().backward()
    assert seen == [[1, 1]]


def test_a_gradient_that_a_hook_keeps_is_not_shared_with_a_leaf() -> None:
    x = leaf([1.0, 2.0])
    mine = minicnn.tensor([5.0, 5.0], dtype="float64")
    y = x + 0
    y.register_hook(lambda grad: mine)
    (y * 2).sum().backward()
    x.grad.zero_()
    assert mine.tolist() == [5, 5]


def test_retain_grad_keeps_an_intermediate_gradient_of_its_own() -> None:
    x = leaf([1.0, 2.0])
    y = (x + 1).retain_grad()
    (y * y).sum().backward(retain_graph=True)
    assert y.grad.tolist() == [4, 6]
    y.grad.zero_()
    assert x.grad.tolist() == [4, 6]
    (y * y).sum().backward()
    assert y.grad.tolist() == [4, 6]


# -- memory ---------------------------------------------------------------------------------------


def training_step(w: minicnn.Tensor, x: minicnn.Tensor) -> None:
    loss = ((x * w).exp().mean(dim=0) + w).sum()
    loss.backward()
    with minicnn.no_grad():
        w -= 1e-3 * w.grad
    w.grad = None


def test_memory_is_flat_over_1_000_steps() -> None:
    w = leaf(np.full(50, 0.1))
    x = minicnn.tensor(np.linspace(0, 1, 40 * 50).reshape(40, 50))
    gc.collect()
    gc.disable()  # freeing must not need the cycle collector
    tracemalloc.start()
    try:
        for _ in range(3000):  # until Python's lists of free tuples are full
            training_step(w, x)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            training_step(w, x)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 2_000


def test_nodes_die_with_their_tensors_and_without_the_collector() -> None:
    gc.disable()
    try:
        x = leaf(np.ones(10))
        y = (x * 2).retain_grad()
        z = y.exp().sum()
        nodes = [weakref.ref(t.grad_fn) for t in (y, z)]
        z.backward()
        del y, z
        assert [node() for node in nodes] == [None, None]
    finally:
        gc.enable()


def test_backward_frees_what_the_forward_pass_saved() -> None:
    x = leaf(np.ones(1000))
    y = x.exp()
    saved = weakref.ref(y.data)
    z = y.sum()
    del y
    assert saved() is not None
    z.backward()
    assert saved() is None


def test_a_forward_pass_without_gradients_keeps_nothing() -> None:
    x = minicnn.tensor(np.ones(1000))
    y = x.exp()
    middle = weakref.ref(y.data)
    z = y.sum()
    del y
    assert middle() is None
    assert z.grad_fn is None


# -- anomalies ------------------------------------------------------------------------------------


def test_detect_anomaly_names_the_operation_that_made_the_first_nan() -> None:
    x = leaf([-1.0, 4.0])
    with minicnn.detect_anomaly(), pytest.raises(minicnn.NonFiniteError, match="Log: its result") as caught:
        (x + 0).log().sqrt().sum()
    assert caught.value.op == "Log"
    assert (x + 0).log().isnan().any()  # without it NaN passes


def test_detect_anomaly_finds_a_gradient_that_is_not_finite() -> None:
    x = leaf([0.0, 4.0])
    with minicnn.detect_anomaly(), pytest.raises(minicnn.NonFiniteError, match="Sqrt: its gradient"):
        x.sqrt().sum().backward()


# -- gradcheck ------------------------------------------------------------------------------------


class WrongExp(Function):
    """An exponential whose gradient is off by one part in 10,000."""

    def forward(self, x):
        self.result = np.exp(x)
        return self.result

    def backward(self, grad):
        return (grad * self.result * 1.0001,)


def test_gradcheck_passes_what_is_right_and_names_what_is_wrong() -> None:
    x = leaf([0.5, -1.0, 2.0])
    assert minicnn.gradcheck(minicnn.exp, x)
    with pytest.raises(minicnn.GradcheckError, match="WrongExp: derivative along") as caught:
        minicnn.gradcheck(WrongExp.apply, x)
    assert caught.value.op == "WrongExp"
    assert 1e-6 < caught.value.error < 1e-3
    assert x.grad is None


def test_gradcheck_refuses_what_it_cannot_check() -> None:
    with pytest.raises(TypeError, match="finite differences need float64"):
        minicnn.gradcheck(minicnn.exp, leaf([1.0], "float32"))
    with pytest.raises(ValueError, match="none of the inputs requires a gradient"):
        minicnn.gradcheck(minicnn.exp, minicnn.tensor([1.0], dtype="float64"))
    with pytest.raises(ValueError, match="no result requires a gradient"):
        minicnn.gradcheck(minicnn.argmax, leaf([1.0, 2.0]))


def test_a_function_without_gradient_says_so() -> None:
    class OneWay(Function):
        def forward(self, x):
            return x * 2.0

    with pytest.raises(TypeError, match="OneWay has no gradient"):
        OneWay.apply(leaf(1.0)).backward()
