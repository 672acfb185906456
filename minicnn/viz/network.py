"""Inside a network: its filters, what its layers answer, how far gradients reach, which units are dead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minicnn.grad_mode import no_grad
from minicnn.nn import Conv2d, Module, ReLU
from minicnn.tensor import Tensor, as_tensor
from minicnn.viz import style

_SHOWN = 16  # filters and input channels of a mosaic


def filters(weight: Any, *, columns: int = 8, figure: Any = None) -> Any:
    """The filters of a convolution as images: blue is positive, red negative, white zero.

    weight: (O, C, kh, kw). With one input channel a filter is one image, with three a colour image; with
    more, each row is a filter and each column an input channel, up to 16 of both. Returns a Figure.
    """
    weight = style.numbers(weight)
    if weight.ndim != 4:
        raise ValueError(f"filters: expected a weight (O, C, kh, kw), got shape {weight.shape}")
    limit = np.abs(weight).max() or 1.0
    outputs, inputs, height, width = weight.shape
    if inputs == 3:
        images = np.moveaxis(0.5 + 0.5 * weight / limit, 1, -1)
        rows = -(-outputs // columns)
        with style.sheet(figure, 0.9 * columns + 0.5, 0.95 * rows + 0.4) as figure:
            for axes, image in zip(style.grid(figure, outputs, columns), images, strict=True):
                axes.imshow(image)
                style.bare(axes)
            figure.suptitle(f"{outputs} filters of {height} x {width} pixels, in colour", fontsize=10)
        return figure
    if inputs == 1:
        shown = mosaic(weight[:, 0], columns)
        title = f"{outputs} filters of {height} x {width} pixels"
    else:
        part = weight[:_SHOWN, :_SHOWN]
        shown = mosaic(part.reshape(-1, height, width), part.shape[1])
        title = f"{part.shape[0]} of {outputs} filters (rows), {part.shape[1]} of {inputs} input channels"
    rows_and_columns = shown.shape
    with style.sheet(figure, 7, min(7 * rows_and_columns[0] / rows_and_columns[1] + 0.4, 8)) as figure:
        axes = figure.subplots()
        drawn = axes.imshow(shown, cmap="RdBu", vmin=-limit, vmax=limit)
        style.bare(axes)
        axes.set_title(title)
        figure.colorbar(drawn, ax=axes, label="weight", shrink=0.8)
    return figure


def mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, H, W) side by side, row by row, with one line of NaN between them."""
    count, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def activations(model: Module, images: Any, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """What layers answer to `images` (N, C, H, W), in eval mode: arrays by name.

    layers: dotted names; None for all convolutions. Raises ValueError if there is none.
    """
    if layers is None:
        layers = [name for name, module in model.named_modules() if isinstance(module, Conv2d)]
        if not layers:
            raise ValueError(f"activations: {type(model).__name__} has no convolutions; name its layers")
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(module: Module, inputs: tuple, output: Tensor) -> None:
            seen[name] = output.detach().numpy().copy()

        return hook

    with contextlib.ExitStack() as stack:
        for name in layers:
            stack.enter_context(model.get_submodule(name).register_forward_hook(keep(name)))
        stack.enter_context(eval_mode(model))
        stack.enter_context(no_grad())
        model(as_tensor(images))
    return seen


@contextlib.contextmanager
def eval_mode(model: Module) -> Iterator[None]:
    """Every module in eval mode for the time of a with block; afterwards as each was before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def feature_maps(
    model: Module, image: Any, layers: Sequence[str] | None = None, *, channels: int = 8, figure: Any = None
) -> Any:
    """One image and what layers make of it: a row for each layer, its first `channels` channels.

    image: (C, H, W). layers: dotted names; None for all convolutions. Each map has its own scale of grey.
    Returns a Figure.
    """
    image = style.numbers(image)
    if image.ndim != 3:
        raise ValueError(f"feature_maps: expected one image (C, H, W), got shape {image.shape}")
    found = activations(model, image[None], layers)
    with style.sheet(figure, channels + 1.6, 1.15 * len(found) + 0.2) as figure:
        axes = figure.subplots(len(found), channels + 1, squeeze=False)
        for blank in axes.ravel():
            style.bare(blank)
        axes[0, 0].imshow(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1), cmap="gray")
        axes[0, 0].set_title("the image", fontsize=9)
        for row, (name, maps) in zip(axes, found.items(), strict=True):
            for place, channel in zip(row[1:], maps[0], strict=False):
                place.imshow(channel, cmap="gray")
            size = "x".join(map(str, maps.shape[1:]))
            part = f", the first {channels}" if channels < maps.shape[1] else ""
            row[1].set_title(f"{name}: {size}{part}", fontsize=9)
    return figure


def gradient_norms(model: Module, *, figure: Any = None) -> Any:
    """How large the gradient of each weight is beside the weight itself: |gradient| / |weight|, a bar each.

    Bars that shrink from the last layer to the first show gradients that vanish. Returns a Figure. Raises
    ValueError before a backward pass.
    """
    ratios = {
        name: _norm(p.grad) / max(_norm(p), 1e-30)
        for name, p in model.named_parameters()
        if p.grad is not None and p.ndim > 1
    }
    if not ratios:
        raise ValueError("gradient_norms: no weight has a gradient; call loss.backward() first")
    with style.sheet(figure, 8, 0.28 * len(ratios) + 0.9) as figure:
        axes = figure.subplots()
        axes.barh(list(ratios), list(ratios.values()), color=style.BLUE)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(ratios.values()) / 3 or 1e-30, max(ratios.values()) * 3 or 1)
        style.readable_logarithm(axes.xaxis)
        axes.set_xlabel("norm of the gradient / norm of the weight")
        axes.grid(axis="x", color=style.PALE)
        axes.set_axisbelow(True)
    return figure


def _norm(values: Any) -> float:
    return float(np.linalg.norm(style.numbers(values)))


def dead_shares(model: Module, images: Any) -> dict[str, float]:
    """For each ReLU the share of its units (channels, after a convolution) that answer 0 to all `images`."""
    relus = [name for name, module in model.named_modules() if isinstance(module, ReLU)]
    if not relus:
        raise ValueError(f"dead_shares: {type(model).__name__} has no nn.ReLU modules to look at")
    shares = {}
    for name, values in activations(model, images, relus).items():
        others = tuple(axis for axis in range(values.ndim) if axis != 1)
        shares[name] = float((values.max(axis=others) <= 0).mean())
    return shares


def dead_units(model: Module, images: Any, *, figure: Any = None) -> Any:
    """Units that no image wakes (`dead_shares`) as bars, one for each ReLU. Returns a Figure."""
    shares = dead_shares(model, images)
    with style.sheet(figure, 8, 0.3 * len(shares) + 0.9) as figure:
        axes = figure.subplots()
        bars = axes.barh(list(shares), [100 * share for share in shares.values()], color=style.VERMILION)
        axes.bar_label(bars, fmt="%.0f%%", padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"units that are 0 for all {len(images)} images, %")
    return figure
