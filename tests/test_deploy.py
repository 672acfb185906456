"""One file that holds a model: the same answers, for any batch, and small."""

from __future__ import annotations

import numpy as np
import pytest
from test_channels import NETS, prune_filters, settle

import minicnn
from minicnn import deploy, models, nn
from minicnn.compress import fold_batch_norm, prune, quantize, share
from minicnn.deploy.program import ProgramError, from_plain, to_plain


def answers(model, x):
    with minicnn.no_grad():
        return model.eval()(x).numpy()


def built(name):
    build, shape = NETS[name]
    minicnn.manual_seed(0)
    model = build()
    x = minicnn.randn(*shape)
    return settle(model, x), x


@pytest.mark.parametrize("name", NETS)
def test_a_float_model_gives_the_same_answers_from_its_file(name, tmp_path):
    model, x = built(name)
    deploy.save(model, tmp_path / "a.mcnn", x)
    artefact = deploy.load(tmp_path / "a.mcnn")
    expected = answers(model, x)
    np.testing.assert_allclose(artefact(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["plain", "resnet-20", "concatenating", "densenet", "inception"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_quantized_model_gives_the_same_bits_from_its_file(name, per_channel, bits, tmp_path):
    model, x = built(name)
    fold_batch_norm(model, x, strict=False)
    quantize(model, [x], bits=bits, per_channel=per_channel)
    size = deploy.save(model, tmp_path / "a.mcnn", x)
    np.testing.assert_array_equal(deploy.load(tmp_path / "a.mcnn")(x), answers(model, x))
    weights = sum(p.numel() for n, p in model.named_parameters() if n.endswith("weight"))
    others = sum(p.numel() for n, p in model.named_parameters() if not n.endswith("weight"))
    assert size < weights * bits / 8 + 40 * others + 8000


def test_any_size_of_batch_is_served(tmp_path):
    model, _ = built("plain")
    deploy.save(model, tmp_path / "a.mcnn", minicnn.randn(1, 2, 8, 8))
    artefact = deploy.load(tmp_path / "a.mcnn")
    for batch in (1, 2, 7):
        x = minicnn.randn(batch, 2, 8, 8)
        np.testing.assert_allclose(artefact(x), answers(model, x), rtol=1e-4, atol=1e-5)


def test_pruned_filters_make_the_file_smaller(tmp_path):
    model, x = built("plain")
    whole = deploy.save(model, tmp_path / "whole.mcnn", x)
    prune_filters(model[4], 0.75)
    assert deploy.save(model, tmp_path / "pruned.mcnn", x) < 0.7 * whole


def test_pruned_and_shared_weights_take_a_fraction(tmp_path):
    minicnn.manual_seed(0)
    model, x = models.create("lenet-300-100"), minicnn.randn(2, 1, 28, 28)
    dense = deploy.save(model, tmp_path / "dense.mcnn", x)
    prune(model, 0.92)
    share(model, 32)
    small = deploy.save(model, tmp_path / "small.mcnn", x)
    assert small < dense / 35
    np.testing.assert_allclose(
        deploy.load(tmp_path / "small.mcnn")(x), answers(model, x), rtol=1e-5, atol=1e-6
    )


def test_what_goes_along_comes_back(tmp_path):
    model, x = built("plain")
    deploy.save(model, tmp_path / "a.mcnn", x, about={"class_names": ["coat", "bag"]})
    assert deploy.load(tmp_path / "a.mcnn").about == {"class_names": ["coat", "bag"]}


def test_images_of_another_shape_are_told(tmp_path):
    model, x = built("plain")
    deploy.save(model, tmp_path / "a.mcnn", x)
    with pytest.raises(ValueError, match=r"expected images \(N, 2, 8, 8\), got shape \(1, 1, 28, 28\)"):
        deploy.load(tmp_path / "a.mcnn")(np.zeros((1, 1, 28, 28)))


def test_an_op_that_files_do_not_hold_is_named():
    class Net(nn.Module):
        def forward(self, x):
            return x[np.array([0, 0])]

    with pytest.raises(ProgramError, match="do not hold options like"):
        to_plain(deploy.lower(Net(), minicnn.randn(2, 3)))


@pytest.mark.parametrize(
    "program",
    [
        None,
        {},
        {"inputs": [], "nodes": [{"op": "system", "inputs": [], "options": {}, "results": 1}], "outputs": []},
        {"inputs": [], "nodes": [], "outputs": [{"value": 3}]},
        {"inputs": [], "nodes": [], "outputs": [{"array": "weight"}]},
        {
            "inputs": [],
            "nodes": [{"op": "ReLU", "inputs": [], "options": {"x": {}}, "results": 1}],
            "outputs": [],
        },
    ],
)
def test_nonsense_is_no_program(program):
    with pytest.raises(ProgramError):
        from_plain(program, {})


def test_a_file_of_another_kind_is_told(tmp_path):
    deploy.container.write(tmp_path / "a.mcnn", {"format": "poem"}, {})
    with pytest.raises(deploy.FileError, match="expected a file of format 'minicnn artefact 1'"):
        deploy.load(tmp_path / "a.mcnn")
