"""Pictures and numbers of layers."""

import numpy as np
import torch

from esc_arch.analysis.features import features_of, principal_components, statistics


def test_statistics():
    found = torch.tensor([[[3.0, 0.0]], [[4.0, -1.0]]])
    assert statistics(found) == {
        "channels": 2,
        "height": 1,
        "width": 2,
        "mean": 1.5,
        "std": np.std([3, 0, 4, -1]),
        "mean_absolute": 2.0,
        "norm": 3.0,
    }


def test_principal_components_are_those_of_the_singular_values():
    found = torch.randn(6, 7, 5, generator=torch.Generator().manual_seed(1)) + 2
    components, shares = principal_components(found)
    vectors = found.flatten(1).T.double().numpy()
    u, s, v = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    expected = (u * s)[:, :3] * np.sign([row[np.abs(row).argmax()] for row in v[:3]])
    np.testing.assert_allclose(components.flatten(1).T, expected, atol=1e-9)
    np.testing.assert_allclose(shares, s[:3] ** 2 / (s**2).sum(), atol=1e-12)


def test_maps_of_few_channels_and_of_one_value():
    components, shares = principal_components(torch.rand(2, 3, 4))
    assert components.shape == (3, 3, 4) and not components[2].any()
    np.testing.assert_allclose(shares.sum(), 1)
    flat = features_of("a", torch.ones(4, 3, 3))
    assert not flat.components.any() and flat.statistics["explained"] == [0, 0, 0]


def test_pictures_of_a_map():
    ramp = torch.linspace(-1, 1, 101).repeat(3, 1)
    found = features_of("a", torch.stack([ramp, 0 * ramp]))
    np.testing.assert_allclose(found.strength, ramp.abs() / 2)
    # From the first to the last percent; the other components are nothing.
    assert found.components[0, [0, 1, 50, 99, 100], 0].tolist() == [0, 0, 128, 255, 255]
    assert not found.components[..., 1:].any()
