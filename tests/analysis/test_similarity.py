"""CKA and cosines by definitions and known values."""

from itertools import permutations

import numpy as np
import pytest
import torch

from esc_arch import UserError
from esc_arch.analysis.similarity import Measurement, Sampling, Sums, drawn, hsic, reduced
from tests.analysis.small_networks import esc

SAMPLING = Sampling()


def gram(x):
    """X X' without its diagonal, by loops."""
    n = len(x)
    return np.array([[float(x[i] @ x[j]) * (i != j) for j in range(n)] for i in range(n)])


def unbiased(x, y):
    """HSIC_1 as minibatch CKA has it (arXiv 2010.15327), with n x n matrices, in float64."""
    k, l, n, one = gram(x), gram(y), len(x), np.ones(len(x))  # noqa: E741
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def pair(n, a, b, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, a)) + 3, generator.normal(size=(n, b)) - 1


def estimated(*layers):
    return hsic([torch.from_numpy(np.asarray(x, float)) for x in layers])


def cka(*layers):
    sums = Sums()
    tensors = [torch.from_numpy(np.asarray(x, float)) for x in layers]
    sums.add(tensors, tensors)
    return sums.cka()


def test_hsic_is_the_mean_over_all_fours_of_different_samples():
    """The U-statistic of which the closed form is made (Song, JMLR 13, 2012)."""
    x, y = pair(6, 2, 3)
    k, l = gram(x), gram(y)  # noqa: E741
    fours = list(permutations(range(6), 4))
    expected = np.mean([k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in fours])
    np.testing.assert_allclose(estimated(x, y)[0, 1], expected, rtol=1e-10)
    np.testing.assert_allclose(unbiased(x, y), expected, rtol=1e-10)


def test_cka_equals_that_by_whole_matrices():
    layers = [*pair(40, 7, 12), *pair(40, 3, 60, seed=1)]
    layers[2] = layers[0][:, :3] * 2 + layers[2]
    expected = [
        [unbiased(a, b) / np.sqrt(unbiased(a, a) * unbiased(b, b)) for b in layers] for a in layers
    ]
    np.testing.assert_allclose(cka(*layers), expected, atol=1e-10)


def test_a_case_by_hand():
    """K has ones at (1, 2), L at (1, 3): HSIC_1 is -1/12, with itself 1/6."""
    found = estimated([[1], [1], [0], [0]], [[1], [0], [1], [0]])
    np.testing.assert_allclose(found, [[1 / 6, -1 / 12], [-1 / 12, 1 / 6]], atol=1e-12)
    np.testing.assert_allclose(
        cka([[1], [1], [0], [0]], [[1], [0], [1], [0]])[0, 1], -0.5, atol=1e-12
    )


def test_a_turned_scaled_and_moved_layer_is_the_same():
    x, _ = pair(30, 5, 1)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    np.testing.assert_allclose(cka(x, 7 * x @ turn - 2)[0, 1], 1, atol=1e-10)


def test_independent_layers_have_none():
    sums = Sums()
    for seed in range(40):
        tensors = [torch.from_numpy(x) for x in pair(50, 16, 16, seed)]
        sums.add(tensors, tensors)
    # The biased estimate would say about 16 / 50.
    assert abs(sums.cka()[0, 1]) < 0.02


def test_minibatches_are_averaged_before_the_ratio():
    sums, batches = Sums(), [pair(20, 4, 5, seed) for seed in range(3)]
    for x, y in batches:
        sums.add([torch.from_numpy(x), torch.from_numpy(y)], [torch.ones(20, 1)] * 2)
    cross, a, b = (
        np.mean([unbiased(batch[i], batch[j]) for batch in batches])
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    np.testing.assert_allclose(sums.cka()[0, 1], cross / np.sqrt(a * b), atol=1e-10)
    assert sums.samples == 60


def test_wide_samples_are_made_narrow_without_a_change():
    x, y = (torch.from_numpy(each) for each in pair(8, 100, 30))
    assert reduced(x).shape == (8, 8)
    np.testing.assert_allclose(reduced(x) @ reduced(x).T, x @ x.T, atol=1e-9)
    np.testing.assert_allclose(hsic([reduced(x), reduced(y)]), hsic([x, y]), rtol=1e-8)


def test_the_cosine_is_of_each_sample():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    b = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    sums = Sums()
    sums.add([a, b, torch.ones(4, 3)], [a, b, torch.ones(4, 3)])
    np.testing.assert_allclose(sums.cosine()[0, 1], (0.96 - 1 + 0 + 0.5**0.5) / 4, atol=1e-6)
    assert np.isnan(sums.cosine()[0, 2])


def outputs(subject, layers, image):
    """By PyTorch's hooks alone, (pixels, C) each, float64."""
    found, handles = {}, []
    for path in layers:
        handles.append(
            subject.network.get_submodule(path).register_forward_hook(
                lambda m, i, o, path=path: found.update({path: o[0].flatten(1).T.double().numpy()})
            )
        )
    with torch.inference_mode():
        subject.network(image)
    for handle in handles:
        handle.remove()
    return [found[path] for path in layers]


def test_images_one_after_the_other_are_all_at_once():
    subject, layers = (
        esc(conv_blocks=2),
        ["blocks.0.attn", "blocks.0.pconvs.0", "blocks.0.pconvs.1"],
    )
    images = [torch.rand(1, 3, 9, 7), torch.rand(1, 3, 8, 8)]
    measurement = Measurement(subject, layers, SAMPLING)
    for image in images:
        measurement.add(image, "image")
    found = measurement.result()
    batches = [outputs(subject, layers, image) for image in images]
    means = np.mean([[[unbiased(a, b) for b in batch] for a in batch] for batch in batches], axis=0)
    own = np.sqrt(np.diagonal(means))
    np.testing.assert_allclose(found.cka, means / np.outer(own, own), atol=1e-5)
    a, b = (np.concatenate([batch[i] for batch in batches]) for i in (0, 2))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(found.cosine[0, 2], cosine.mean(), atol=1e-5)
    assert found.samples == 63 + 64
    assert found.layers == tuple(layers)
    near = found.neighbours()
    np.testing.assert_allclose(near["cka"], (found.cka[0, 1] + found.cka[1, 2]) / 2)
    kinds = {tuple(kind["layers"]): kind for kind in found.kinds()}
    mixed = kinds["blocks.*.attn", "blocks.*.pconvs.*"]
    np.testing.assert_allclose(mixed["cka"], (found.cka[0, 1] + found.cka[0, 2]) / 2)
    assert mixed["pairs"] == 2


def test_patches_are_whole_and_do_not_overlap():
    top, left = drawn(13, 9, Sampling(samples=100, patch=4))
    places = {(y, x) for y in (0, 4, 8) for x in (0, 4)}
    assert set(zip(top.tolist(), left.tolist(), strict=True)) == places
    some = drawn(64, 64, Sampling(samples=50))
    assert len(set(zip(*map(torch.Tensor.tolist, some), strict=True))) == 50
    assert all(map(torch.equal, some, drawn(64, 64, Sampling(samples=50))))
    assert not all(map(torch.equal, some, drawn(64, 64, Sampling(samples=50, seed=1))))


def test_patches_as_samples():
    subject, layers = esc(), ["blocks.0.attn", "blocks.0.pconvs.0"]
    image = torch.rand(1, 3, 8, 12)
    measurement = Measurement(subject, layers, Sampling(patch=4))
    measurement.add(image, "image")
    x, y = (
        np.array(
            [
                [map_[12 * (4 * i + r) + 4 * j + c] for r in range(4) for c in range(4)]
                for i in range(2)
                for j in range(3)
            ]
        ).reshape(6, -1)
        for map_ in outputs(subject, layers, image)
    )
    expected = unbiased(x, y) / np.sqrt(unbiased(x, x) * unbiased(y, y))
    np.testing.assert_allclose(measurement.result().cka[0, 1], expected, atol=1e-5)


def test_images_as_samples():
    subject, layers = esc(), ["blocks.0.attn", "blocks.0.pconvs.0"]
    images = [torch.rand(1, 3, 6, 6) for _ in range(12)]
    measurement = Measurement(subject, layers, Sampling(patch=6, batch=5))
    for image in images:
        measurement.add(image, "image")
    found = measurement.result()
    # Two whole minibatches; the last two images make none.
    assert (found.samples, found.minibatches) == (10, 2)
    flat = [[x.reshape(1, -1) for x in outputs(subject, layers, image)] for image in images]
    batches = [[np.concatenate(x) for x in zip(*flat[i : i + 5], strict=True)] for i in (0, 5)]
    cross, a, b = (
        np.mean([unbiased(batch[i], batch[j]) for batch in batches])
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    np.testing.assert_allclose(found.cka[0, 1], cross / np.sqrt(a * b), atol=1e-5)


def test_a_minibatch_of_fewer_images_is_one_where_it_is_alone():
    measurement = Measurement(esc(), ["blocks.0", "last"], Sampling(patch=6, batch=50))
    for _ in range(3):
        measurement.add(torch.rand(1, 3, 6, 6), "image")
    with pytest.raises(UserError, match="--batch: expected at least 4 samples; found 3 of 3 im"):
        measurement.result()
    measurement.add(torch.rand(1, 3, 6, 6), "image")
    assert measurement.result().samples == 4


def test_what_cannot_be_compared_is_said():
    with pytest.raises(UserError, match="--samples: expected at least 4"):
        Sampling(samples=3)
    with pytest.raises(UserError, match="two layers of small or more"):
        Measurement(esc(), ["blocks.0"], SAMPLING)
    with pytest.raises(UserError, match=r"a.png: expected a map with at least 4 patches of 1 pix"):
        Measurement(esc(), ["blocks.0", "last"], SAMPLING).add(torch.rand(1, 3, 1, 3), "a.png")
    with pytest.raises(UserError, match=r"to_img: expected a map of 9x8 pixels, as blocks.0 has"):
        network = esc()
        network.network.to_img = torch.nn.Sequential(
            torch.nn.Conv2d(8, 12, 3, padding=1), torch.nn.AvgPool2d(2)
        )
        # Its output does not fit the image any more, but it is looked at before that.
        Measurement(network, ["blocks.0", "to_img"], SAMPLING).add(torch.rand(1, 3, 8, 9), "a.png")
