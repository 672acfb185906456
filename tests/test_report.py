"""Reports: numbers that add up, codings counted right, files that show them and need nothing else."""

import json
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import minicnn
from minicnn import compress, data, models, nn
from minicnn.compress.report import measure, pareto, pick, write_reports
from minicnn.compress.report.markdown import markdown, markdown_table
from minicnn.compress.report.tables import page


@pytest.fixture
def loader(rng):
    images = rng.random((12, 1, 12, 12)).astype(np.float32)
    return data.DataLoader(data.ArrayDataset(images, np.arange(12) % 3), 6)


@pytest.fixture
def model():
    minicnn.manual_seed(0)
    return models.create("simple", image_size=12, num_classes=3, width=0.25)


def layers(numbers):
    return {layer["name"]: layer for layer in numbers["layers"]}


def test_a_dense_model_is_counted_by_hand(model, loader):
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    numbers = measure(model, loader, class_names=["a", "b", "c"])
    conv2 = layers(numbers)["conv2"]
    assert list(layers(numbers)) == ["conv1", "conv2", "fc1", "fc2"]
    assert conv2["parameters"] == conv2["nonzeros"] == 16 * 8 * 9 + 16
    assert conv2["macs"] == conv2["macs_nonzero"] == 6 * 6 * 16 * 8 * 9
    assert (conv2["bits"], conv2["form"]) == (32, "dense")
    assert conv2["bytes"] == 4 * conv2["parameters"]
    assert sum(conv2["histogram"]["counts"]) == 16 * 8 * 9
    assert numbers["total"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert set(numbers["per_class"]) == {"a", "b", "c"}
    assert model.training
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)


def test_pruned_weights_are_coded_the_cheapest_way(model, loader):
    compress.prune(model, {"fc1": 0.5, "conv2": 0.97})
    numbers = layers(measure(model, loader))
    size = 32 * 16 * 9
    fc1 = numbers["fc1"]
    assert fc1["nonzeros"] == size // 2 + 32
    assert fc1["form"] == "bitmap, 32-bit"
    assert fc1["bytes"] == size // 8 + size // 2 * 4 + 32 * 4
    assert fc1["macs_nonzero"] == fc1["macs"] // 2
    assert "gaps" in numbers["conv2"]["form"]


@pytest.mark.parametrize(("gap", "width"), [(5, 3), (20, 5)])
def test_gaps_are_filled_where_they_are_too_long(gap, width):
    from minicnn.compress.report.measure import _sparse

    value = np.zeros(100 * gap, np.float32)
    value[gap - 1 :: gap] = 1
    ways = {way.form: way.nbytes for way in _sparse(value, 8)}
    assert ways[f"{width}-bit gaps, 8-bit"] == math.ceil(100 * (width + 8) / 8)  # every distance fits
    fillers = (gap - 1) // 4  # a distance of two bits is at most 4
    assert ways["2-bit gaps, 8-bit"] == 100 * (1 + fillers) * 10 / 8


def test_lattices_and_codebooks_bring_their_tables(model, loader):
    images, _ = next(iter(loader))
    compress.share(model, 4, layers=["fc1"])
    shared = layers(measure(model, loader))["fc1"]
    size = 32 * 16 * 9
    assert (shared["bits"], shared["form"]) == (2, "dense 2-bit")
    assert shared["bytes"] == size // 4 + 4 * 4 + 32 * 4
    compress.quantize(model, [images], bits=4)
    numbers = layers(measure(model, loader))
    assert numbers["conv2"]["bits"] == 4
    assert numbers["conv2"]["macs"] == 6 * 6 * 16 * 8 * 9  # counted in integer arithmetic, too
    assert numbers["conv2"]["bytes"] <= 16 * 8 * 9 // 2 + 16 * 4 + 16 * 4
    assert numbers["fc1"]["bits"] == 2


def test_factors_are_counted_unless_their_product_is_what_is_kept(model, loader):
    compress.low_rank(model, rank=4, layers=["fc1"])
    fc1 = layers(measure(model, loader))["fc1"]
    assert fc1["parameters"] == 4 * (32 + 16 * 9) + 32
    assert fc1["macs_nonzero"] == 4 * (32 + 16 * 9)
    assert fc1["macs"] == 32 * 16 * 9
    assert (fc1["form"], fc1["bytes"]) == ("factors", 4 * fc1["parameters"])
    compress.prune(model, 0.5, layers=["fc1"])
    pruned = layers(measure(model, loader))["fc1"]
    assert pruned["parameters"] == 32 * 16 * 9 + 32
    assert "factors" not in pruned["form"]


def test_batch_norm_is_counted_with_what_it_keeps(loader):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 3))
    norm = layers(measure(model, loader))["1"]
    assert (norm["parameters"], norm["bytes"], norm["macs"]) == (8, 4 * 16, 0)


RESULTS = {
    "dense": {"accuracy": 0.93, "bytes": 1000},
    "pruned": {"accuracy": 0.93, "bytes": 100},
    "shared": {"accuracy": 0.92, "bytes": 120},
    "tiny": {"accuracy": 0.9, "bytes": 50},
}


def test_what_no_other_result_beats():
    assert pareto(RESULTS) == ["pruned", "tiny"]
    assert pareto({"a": RESULTS["dense"], "b": RESULTS["dense"]}) == ["a", "b"]


def test_the_best_within_limits():
    assert pick(RESULTS, bytes=500) == "pruned"
    assert pick(RESULTS, bytes=60) == "tiny"
    assert pick(RESULTS, best="bytes", accuracy=0.915) == "pruned"
    assert pick({"big": {"accuracy": 0.9, "bytes": 9}, "small": {"accuracy": 0.9, "bytes": 5}}) == "small"
    with pytest.raises(ValueError, match="no 'byte'; expected one of accuracy, bytes"):
        pick(RESULTS, byte=10)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"bytes": 10}, r"within bytes of at most 10; bytes binds: the nearest is tiny with 50$"),
        (
            {"bytes": 110, "accuracy": 0.95},
            r"accuracy of at least 0.95; accuracy binds: the nearest is pruned with 0.93$",
        ),
        (
            {"bytes": 60, "accuracy": 0.915},
            r"bytes binds: the nearest is pruned with 100; or accuracy binds: the nearest is tiny with 0.9$",
        ),
        (
            {"bytes": 10, "accuracy": 0.95},
            r"several limits bind at once; .* 50 bytes \(tiny\), 0.93 accuracy",
        ),
    ],
)
def test_what_binds_is_said(limits, message):
    with pytest.raises(ValueError, match=message):
        pick(RESULTS, **limits)


@pytest.fixture
def report(model, loader):
    before = measure(model, loader, class_names=["a|b", "<i>", "c"]) | {"epochs": 3}
    compress.prune(model, 0.8, scope="global")
    after = measure(model, loader, class_names=["a|b", "<i>", "c"])
    row = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "validation_loss": 1.1, "validation_accuracy": 0.4}
    return {
        "name": "prune & see",
        "description": "80% go",
        "timeline": ["after epoch 3: prune, rate = 0.8"],
        "epochs": 10,
        "watched": "test",
        "before": before,
        "after": after,
        "history": [row],
        "compare": {"other": RESULTS["dense"] | {"nonzeros": 3, "macs_nonzero": 3}},
    }


class Page(HTMLParser):
    """Tags that are open, and every attribute that could load something."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "path", "use", "rect"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in ("meta", "path", "use", "rect"):
            assert self.open.pop() == tag


def test_the_html_page_needs_nothing_but_itself(report, tmp_path):
    pytest.importorskip("matplotlib")
    assert write_reports(tmp_path, report, ("markdown", "json", "html")) == [
        "report.md",
        "report.json",
        "report.html",
    ]
    text = (tmp_path / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert "http" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    ids = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "prune &amp; see" in text
    assert "&lt;i&gt;" in text
    assert "Bytes are computed" in text
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_without_matplotlib_the_page_says_so(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_reports(tmp_path, report, ("html",))
    text = (tmp_path / "report.html").read_text()
    assert "<svg" not in text
    assert "Without plots: plots need matplotlib" in text
    assert not (tmp_path / "report.md").exists()


def test_markdown_tells_what_changed(report):
    text = markdown(page(report))
    total = report["after"]["total"]
    words = " ".join(text.split())
    assert f"not zero | {report['before']['total']['nonzeros']:,} | {total['nonzeros']:,} |" in words
    assert "Before: the network after 3 of 10 epochs, when the first step happened." in text
    assert "a\\|b" in text
    assert "| prune & see |" in words  # beside the other model
    assert "- after epoch 3: prune, rate = 0.8" in text
    assert "test accuracy" in text


def test_a_markdown_table_is_aligned():
    assert markdown_table(["a", "number"], [["x", "1"], ["longer", "22"]]).splitlines() == [
        "| a      | number |",
        "| ------ | -----: |",
        "| x      |      1 |",
        "| longer |     22 |",
    ]
