"""Pictures: each is tested on the numbers that it shows, not on its pixels."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import compress, graph, nn, viz
from minicnn.compress.sensitivity import Row
from minicnn.nn import functional as F
from minicnn.viz import style
from minicnn.viz.landscape import filter_normalized_direction
from minicnn.viz.network import mosaic

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra 'plot'")


@pytest.fixture
def model():
    minicnn.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((5, 1, 6, 6)).astype(np.float32)


def shown(axes):
    """The array of the only image of `axes`."""
    (image,) = axes.images
    return np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)


def test_a_figure_is_shown_by_notebooks_and_knows_no_pyplot(model):
    figure = viz.filters(model[0].weight)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'minicnn\[plot\]'"):
        viz.curves({"loss": [1, 2]})


def test_a_given_part_of_a_figure_is_drawn_into():
    with style.sheet(width=6, height=3) as whole:
        left, right = whole.subfigures(1, 2)
        assert viz.curves({"a": [1, 2]}, figure=left) is left
    assert left.axes
    assert not right.axes


def test_logarithmic_axes_have_plain_numbers_where_they_span_little():
    for values, expected in (([0.3, 2.0], {"0.5", "1", "2"}), ([1e-6, 1.0], {"$\\mathdefault{10^{-6}}$"})):
        figure = viz.curves({"loss": values}, logarithmic=True)
        figure.draw_without_rendering()
        assert expected <= {label.get_text() for label in figure.axes[0].get_yticklabels()}


def test_a_mosaic_holds_every_image_with_gaps_between():
    tiles = np.arange(3 * 4.0).reshape(3, 2, 2)
    sheet = mosaic(tiles, columns=2)
    assert sheet.shape == (5, 5)
    np.testing.assert_array_equal(sheet[:2, :2], tiles[0])
    np.testing.assert_array_equal(sheet[:2, 3:], tiles[1])
    np.testing.assert_array_equal(sheet[3:, :2], tiles[2])
    assert np.isnan(sheet[2]).all()
    assert np.isnan(sheet[:, 2]).all()


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 1), (20, 17)])
def test_filters_are_those_of_the_weight(outputs, inputs):
    weight = np.random.default_rng(0).standard_normal((outputs, inputs, 3, 3))
    axes = viz.filters(weight, columns=4).axes[0]
    values = shown(axes)
    np.testing.assert_array_equal(values[:3, :3], weight[0, 0])
    second = weight[1, 0] if inputs == 1 else weight[0, 1]
    np.testing.assert_array_equal(values[:3, 4:7], second)
    assert axes.images[0].get_clim() == (-abs(weight).max(), abs(weight).max())
    assert f"of {outputs} filters" in axes.get_title(loc="left") or axes.get_title(loc="left").startswith(
        f"{outputs} filters"
    )


def test_filters_of_colour_images_are_in_colour():
    weight = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5, 5))
    figure = viz.filters(weight)
    values = shown(figure.axes[1])
    np.testing.assert_allclose(values, 0.5 + 0.5 * np.moveaxis(weight[1], 0, -1) / abs(weight).max())


def test_activations_are_what_the_layers_answer_and_leave_no_trace(model, images):
    model.train()
    model[1].eval()
    found = viz.activations(model, images, ["0", "2"])
    assert list(found) == ["0", "2"]
    expected = model[0](minicnn.tensor(images)).detach().numpy()
    np.testing.assert_allclose(found["0"], expected, rtol=1e-5, atol=1e-6)
    assert (found["2"] >= 0).all()
    assert [module.training for module in model] == [True, False, True, True, True]
    assert not model[0]._forward_hooks
    assert list(viz.activations(model, images)) == ["0"]


def test_feature_maps_show_the_image_and_its_channels(model, images):
    figure = viz.feature_maps(model, images[0], ["0"], channels=3)
    values = [shown(axes) for axes in figure.axes]
    np.testing.assert_array_equal(values[0], images[0, 0])
    np.testing.assert_allclose(values[2], viz.activations(model, images[:1], ["0"])["0"][0, 1])
    assert figure.axes[1].get_title(loc="left") == "0: 4x6x6, the first 3"


def test_gradient_norms_are_relative_to_the_weights(model, images):
    F.cross_entropy(model(minicnn.tensor(images)), minicnn.tensor([0, 1, 2, 0, 1])).backward()
    bars = viz.gradient_norms(model).axes[0].patches
    weights = [model[0].weight, model[4].weight]
    expected = [np.linalg.norm(p.grad.numpy()) / np.linalg.norm(p.detach().numpy()) for p in weights]
    np.testing.assert_allclose([bar.get_width() for bar in bars], expected, rtol=1e-5)


def test_units_that_nothing_wakes_are_counted(model, images):
    with minicnn.no_grad():
        model[1].bias.copy_(minicnn.tensor([-100.0, 0.0, -100.0, 0.0]))
    assert viz.dead_shares(model, images) == {"2": 0.5}
    (bar,) = viz.dead_units(model, images).axes[0].patches
    assert bar.get_width() == 50


def test_im2col_shows_windows_as_rows():
    image = np.arange(16.0).reshape(4, 4)
    left, right = viz.im2col(image, 3, window=2).axes
    np.testing.assert_array_equal(shown(left), image)
    rows = [image[i : i + 3, j : j + 3].ravel() for i in range(2) for j in range(2)]
    np.testing.assert_array_equal(shown(right), rows)
    (frame,) = left.patches
    assert frame.get_xy() == (-0.5, 0.5)  # window 2 begins in row 1, column 0
    (frame,) = right.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, 1.5), 9, 1)
    assert {text.get_text() for text in left.texts} == {f"{i}" for i in range(16)}


def test_im2col_with_padding_and_stride():
    image = np.arange(1.0, 10).reshape(3, 3)
    left, right = viz.im2col(image, 3, padding=1, stride=2, window=3).axes
    assert shown(left).shape == (5, 5)
    np.testing.assert_array_equal(shown(right)[3], [5, 6, 0, 8, 9, 0, 0, 0, 0])
    assert left.patches[0].get_xy() == (1.5, 1.5)


def test_the_graph_has_a_box_for_every_op(model, images):
    recorded = graph.trace(model.eval(), minicnn.tensor(images))
    axes = viz.graph(recorded).axes[0]
    boxes = [patch for patch in axes.patches if type(patch).__name__ == "FancyBboxPatch"]
    assert len(boxes) == len(recorded.nodes) + 1
    texts = [text.get_text() for text in axes.texts]
    assert "Conv2d  0" in texts
    assert any("MAC" in text for text in texts)


def test_quantization_shows_the_lattice_and_the_rounding():
    values = np.linspace(-1, 1, 101)
    left, right = viz.quantization_grid(values, 0.25, low=-2, high=3, zero_point=1).axes
    segments = left.collections[0].get_segments()
    np.testing.assert_allclose([segment[0][0] for segment in segments], [-0.75, -0.5, -0.25, 0, 0.25, 0.5])
    x, y = right.lines[1].get_data()
    np.testing.assert_allclose(y, np.clip(np.rint(x / 0.25), -3, 2) * 0.25)
    np.testing.assert_allclose(right.lines[2].get_ydata(), y - x)


def test_histograms_show_all_weights_and_those_that_are_not_zero(model):
    compress.prune(model, 0.5, layers=["0"])
    axes = viz.weight_histograms(model).axes[0]
    everything, nonzero = (patch.get_data().values.sum() for patch in axes.patches)
    assert everything == 36
    assert nonzero == 18
    assert axes.get_title() == ""
    assert axes.get_title(loc="left") == "0.weight\n50% zeros"


def test_sensitivity_has_a_line_for_each_layer():
    rows = [Row(layer, rate, rate, 0.9 - rate / 10, rate / 10) for layer in "ab" for rate in (0.5, 0.9)]
    baseline, a, b = viz.sensitivity(compress.Sensitivity(0.9, rows)).axes[0].lines
    assert baseline.get_ydata()[0] == 90
    for line in (a, b):
        np.testing.assert_allclose(line.get_ydata(), [85, 81])


RESULTS = {
    "big": {"accuracy": 0.93, "bytes": 1000},
    "small": {"accuracy": 0.91, "bytes": 100},
    "beaten": {"accuracy": 0.90, "bytes": 500},
    "twin": {"accuracy": 0.91, "bytes": 100},
    "same size": {"accuracy": 0.92, "bytes": 1000},
    "same accuracy": {"accuracy": 0.91, "bytes": 300},
}


def test_the_front_is_that_of_compress():
    assert viz.unbeaten(RESULTS, "bytes") == ["small", "twin", "big"]
    assert set(viz.unbeaten(RESULTS, "bytes")) == set(compress.pareto(RESULTS))
    axes = viz.pareto(RESULTS).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [100, 100, 1000])
    assert {text.get_text() for text in axes.texts} == set(RESULTS)


def test_names_of_points_that_lie_close_do_not_cover_one_another():
    near = {f"candidate {i}": {"accuracy": 0.91 + 0.001 * (i % 2), "bytes": 100 + 2 * i} for i in range(4)}
    figure = viz.pareto(near | {"far": {"accuracy": 0.5, "bytes": 90_000}})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 5
    assert not [(i, j) for i in range(5) for j in range(i) if boxes[i].overlaps(boxes[j])]


def test_confusion_writes_counts_and_recall():
    axes = viz.confusion(np.array([[8, 2], [0, 5]]), ["cat", "dog"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["8", "2", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat  80.0%", "dog  100.0%"]
    with pytest.raises(ValueError, match=r"expected counts \(3, 3\), as there are 3 class names"):
        viz.confusion(np.eye(2), ["a", "b", "c"])


def test_saliency_is_the_gradient_of_the_score(images):
    minicnn.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    maps = viz.saliency_maps(model, images, [2, 0, 1, 1, 0])
    weight = abs(model[1].weight.detach().numpy()).reshape(3, 6, 6)
    np.testing.assert_allclose(maps, weight[[2, 0, 1, 1, 0]], rtol=1e-6)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    figure = viz.saliency(model, images, [2, 0, 1, 1, 0], list("abcde"))
    np.testing.assert_allclose(shown(figure.axes[5]), maps[0])


def test_saliency_of_colours_is_the_largest_over_channels():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 2))
    pictures = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    weight = abs(model[1].weight.detach().numpy()).reshape(2, 3, 2, 2)
    np.testing.assert_allclose(viz.saliency_maps(model, pictures, [1])[0], weight[1].max(axis=0), rtol=1e-6)


def test_directions_are_as_long_as_the_filters(model):
    direction = filter_normalized_direction(model, np.random.default_rng(0))
    for p, d in zip(model.parameters(), direction, strict=True):
        if p.ndim < 2:
            assert not d.any()
            continue
        length, own = (np.linalg.norm(x.reshape(len(x), -1), axis=1) for x in (d, p.detach().numpy()))
        np.testing.assert_allclose(length, own, rtol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_landscape_is_the_loss_along_directions_and_leaves_the_model_alone(dimensions):
    minicnn.manual_seed(0)
    model = nn.Linear(4, 2)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}

    def loss(m):
        return float((m.weight.detach().numpy() ** 2).sum())

    found = viz.landscape(model, loss, dimensions=dimensions, steps=5, seed=3)
    assert found.losses.shape == (5,) * dimensions
    rng = np.random.default_rng(3)
    directions = [filter_normalized_direction(model, rng)[0] for _ in range(dimensions)]
    corner = sum(step * d for step, d in zip((0.5, -1), directions, strict=False)) + before["weight"]
    np.testing.assert_allclose(
        found.losses[(3,) if dimensions == 1 else (0, 3)], (corner**2).sum(), rtol=1e-5
    )
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    axes = viz.loss_landscape(found).axes[0]
    if dimensions == 1:
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), found.losses)
    else:
        assert axes.collections


def test_the_landscape_restores_the_weights_after_an_error(model):
    before = model[0].weight.detach().numpy().copy()
    with pytest.raises(ZeroDivisionError):
        viz.landscape(model, lambda m: 1 / 0, steps=3)
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), before)
    with pytest.raises(ValueError, match="an odd number of steps"):
        viz.landscape(model, lambda m: 0.0, steps=4)


def test_curves_draw_values_over_epochs_or_pairs():
    axes = viz.curves({"a": [3, 2, 1], "b": ([0, 10], [5, 4])}, ylabel="loss").axes[0]
    a, b = axes.lines
    np.testing.assert_array_equal(a.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(b.get_xdata(), [0, 10])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_images_are_shown_with_their_titles(images):
    figure = viz.images(images, list("abcde"), columns=5)
    np.testing.assert_array_equal(shown(figure.axes[4]), images[4, 0])
    assert figure.axes[4].get_title() == "e"


def test_the_ladder_and_the_roofline_show_what_was_measured():
    report = json.loads((Path(__file__).parent.parent / "bench/results/ladder.json").read_text())["results"]
    figure = viz.ladder(report)
    rungs = [entry for entry in report["matmul"] if not entry["rung"].startswith("BLAS")]
    np.testing.assert_allclose(
        [bar.get_width() for bar in figure.axes[0].patches], [entry["gflops"] for entry in rungs]
    )
    axes = viz.roofline(report["roofline"], {"a kernel": (2.0, 30.0)}).axes[0]
    x, y = axes.lines[0].get_data()
    roof = report["roofline"][0]
    np.testing.assert_allclose(y, np.minimum(roof["peak_gflops"], x * roof["bandwidth_gbs"]))
    np.testing.assert_array_equal(axes.lines[-1].get_data(), [[2], [30]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: viz.filters(np.zeros((3, 3))), r"filters: expected a weight \(O, C, kh, kw\)"),
        (lambda m, x: viz.feature_maps(m, x), r"feature_maps: expected one image \(C, H, W\)"),
        (lambda m, x: viz.im2col(x), r"im2col: expected one channel \(H, W\)"),
        (lambda m, x: viz.im2col(x[0, 0], window=16), r"expected a window in 0 \.\.\. 15, got 16"),
        (lambda m, x: viz.gradient_norms(m), r"call loss\.backward\(\) first"),
        (lambda m, x: viz.dead_units(nn.Linear(2, 2), x), r"Linear has no nn\.ReLU modules"),
        (lambda m, x: viz.activations(nn.Linear(2, 2), x), "Linear has no convolutions"),
        (lambda m, x: viz.quantization_grid(x, 0, low=0, high=1), "expected scale > 0 and low < high"),
        (lambda m, x: viz.weight_histograms(nn.ReLU()), "ReLU has no weights"),
    ],
)
def test_errors_say_what_was_expected(model, images, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, images)
