"""Images of all kinds through networks of which the result is known."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import esc_arch
from esc_arch.deployment import deploy
from esc_arch.errors import UserError
from esc_arch.imaging.imresize import imresize
from tests import tiny
from tests.reference_cases import fill_parameters
from tests.upscale.stand_ins import Lopsided, Repeat, photo, repeated, use


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pil_images_keep_their_mode(monkeypatch, mode):
    use(monkeypatch)
    channels = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    pixels = photo(6, 9, channels, np.uint16 if mode == "I;16" else np.uint8)
    if mode in ("LA", "RGBA"):
        pixels[..., -1] = 255
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.info["icc_profile"], image.info["dpi"] = b"profile", (300, 300)
    result = esc_arch.Upscaler()(image)
    assert result.mode == mode and result.size == (18, 12)
    assert np.array_equal(np.asarray(result), repeated(pixels))
    assert result.info == image.info


def test_other_pil_modes(monkeypatch):
    use(monkeypatch)
    upscaler = esc_arch.Upscaler()
    rgb = Image.fromarray(photo(6, 9))
    palette = rgb.quantize(16)
    result = upscaler(palette)
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), repeated(np.asarray(palette.convert("RGB"))))
    bits = rgb.convert("1")
    assert np.array_equal(np.asarray(upscaler(bits)), repeated(np.asarray(bits) * np.uint8(255)))
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    assert upscaler(Image.open(file)).mode == "RGBA"
    for mode in ("CMYK", "F", "YCbCr"):
        with pytest.raises(ValueError, match=mode):
            upscaler(Image.new(mode, (4, 4)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1, 3), (1, 6)])
def test_arrays_keep_dtype_and_shape(monkeypatch, dtype, shape):
    use(monkeypatch)
    pixels = photo(*shape[:2], shape[2] if len(shape) == 3 else 1, np.uint16).reshape(shape)
    if np.issubdtype(dtype, np.floating):
        pixels = (pixels / 65535).astype(dtype)
    elif dtype == np.uint8:
        pixels = (pixels >> 8).astype(dtype)
    # Of integers exactly; of floating point to float32, in which the network computes.
    tolerance = 2e-7 if np.issubdtype(dtype, np.floating) else 0
    for image in (pixels, pixels[::-1, ::-1]):
        result = esc_arch.Upscaler()(image)
        assert result.dtype == dtype
        assert result.shape == (2 * shape[0], 2 * shape[1], *shape[2:])
        assert np.abs(result.astype(float) - repeated(image)).max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (1, 4, 5), (2, 4, 5, 4)])
def test_tensors_keep_dtype_and_shape(monkeypatch, dtype, shape):
    use(monkeypatch)
    image = torch.rand(shape)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    if shape[-3] in (2, 4):
        image.select(-3, -1).fill_(255 if dtype == torch.uint8 else 1)
    result = esc_arch.Upscaler()(image.requires_grad_(image.is_floating_point()))
    assert result.dtype == dtype and not result.requires_grad
    expected = image.detach().repeat_interleave(2, -1).repeat_interleave(2, -2)
    colours = slice(None) if shape[-3] in (1, 3) else slice(-1)
    assert result.shape == expected.shape
    difference = result[..., colours, :, :].double() - expected[..., colours, :, :].double()
    assert difference.abs().max() <= (2e-7 if image.is_floating_point() else 0)


def test_a_real_network_gives_its_own_values(monkeypatch):
    network = esc_arch.create("esc_fp", 2, n_blocks=1).eval()
    pixels = photo(40, 33)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    with torch.no_grad():
        exact = network.double()(x)[0].permute(1, 2, 0).numpy().clip(0, 1)
    use(monkeypatch, network.float())
    upscaler = esc_arch.Upscaler()
    assert np.abs(upscaler(pixels.astype(np.float32) / 255) - exact).max() < 2e-5
    result = upscaler(pixels)
    # Rounded once: half a level, and what float32 leaves.
    assert np.abs(result - 255 * exact).max() < 0.51
    assert np.abs(upscaler(pixels.astype(np.uint16) * 257) - 65535 * exact).max() < 2


def test_grey_is_the_mean_of_the_network_on_equal_channels(monkeypatch):
    network = Lopsided()
    use(monkeypatch, network)
    pixels = photo(11, 8, 1)
    result = esc_arch.Upscaler()(pixels)
    x = torch.from_numpy(np.stack([pixels] * 3)).float()[None] / 255
    expected = network.double()(x.double())[0].mean(0).clamp(0, 1) * 255
    assert np.abs(result - expected.detach().numpy()).max() < 0.51


@pytest.mark.parametrize("settings", [{}, {"scale": 3.0}, {"self_ensemble": True}, {"tile": 7}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_stored_as_three_channels_is_what_one_channel_is(monkeypatch, dtype, settings):
    use(monkeypatch, Lopsided())
    upscaler = esc_arch.Upscaler(**settings)
    for channels in (1, 2):
        is_float = dtype == np.float32
        one = photo(11, 8, 3, np.uint8 if is_float else dtype)[..., :channels]
        one = one.astype(dtype) / 255 if is_float else one
        three = np.dstack([one[..., :1]] * 3 + [one[..., 1:]])
        result, expected = upscaler(three), upscaler(one)
        assert result.dtype == dtype and result.shape[2] == three.shape[2]
        for channel in range(3):
            assert np.array_equal(result[..., channel], expected[..., 0])
    almost = three.copy()
    almost[5, 5, 1] += {np.uint8: 2, np.uint16: 1, np.float32: dtype(0.25)}[dtype]
    result = upscaler(almost)
    assert not np.array_equal(result[..., 0], result[..., 1])


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_stored_as_lossy_webp_gets_no_tint(monkeypatch, channels):
    """Whose decoder gives channels that are one level apart."""
    use(monkeypatch, Lopsided())
    grey = cv2.resize(photo(7, 6, 1), (64, 48), interpolation=cv2.INTER_CUBIC)
    stored = np.dstack([grey, grey, grey, np.full_like(grey, 200)])[..., :channels]
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "WEBP", quality=80)
    image = Image.open(file)
    pixels = np.asarray(image)
    assert np.ptp(pixels[..., :3], -1).max() == 1
    for result in (
        esc_arch.Upscaler()(pixels),
        np.asarray(esc_arch.Upscaler()(image)),
        esc_arch.Upscaler()(torch.from_numpy(pixels.copy()).permute(2, 0, 1)).permute(1, 2, 0),
    ):
        assert np.ptp(np.asarray(result)[..., :3].astype(int), -1).max() == 0
        least, most = (
            esc_arch.Upscaler()(extreme(pixels[..., :3], -1)).astype(int)
            for extreme in (np.min, np.max)
        )
        assert np.abs(np.asarray(result)[..., 0].astype(int) - (least + most) / 2).max() <= 2


def test_a_grey_network_takes_colours_one_by_one(monkeypatch):
    use(monkeypatch, Lopsided(1), channels=1)
    upscaler = esc_arch.Upscaler()
    pixels = photo(11, 8)
    result = upscaler(pixels)
    for channel in range(3):
        assert np.array_equal(result[..., channel], upscaler(pixels[..., channel]))


def test_alpha_is_antialiased_bicubic(monkeypatch):
    use(monkeypatch)
    pixels = photo(12, 15, 4)
    for scale, size in ((None, (24, 30)), (1.5, (18, 22))):
        result = esc_arch.Upscaler(scale=scale)(pixels)
        alpha = imresize(pixels[..., 3].astype(np.float64), size=size)
        assert np.abs(result[..., 3] - alpha.clip(0, 255)).max() < 0.51
    pixels[..., 3] = 255
    assert (esc_arch.Upscaler()(pixels)[..., 3] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_under_transparency_does_not_bleed(monkeypatch, dtype):
    use(monkeypatch, Lopsided())
    upscaler = esc_arch.Upscaler()
    white = np.iinfo(dtype).max
    pixels = photo(24, 20, 4, dtype)
    pixels[..., 3] = white
    pixels[6:18, 10:, 3] = 0
    results = []
    for hidden in (0, white, (white, 0, white)):
        pixels[6:18, 10:, :3] = hidden
        results.append(upscaler(pixels))
    visible = results[0][..., 3] > 0
    for other in results[1:]:
        assert np.array_equal(results[0][visible], other[visible])
    # A plain colour stays itself up to the edge, whatever lies under the rest.
    use(monkeypatch, Repeat())
    pixels[..., :3] = np.where(pixels[..., 3:] > 0, 90, 0)
    enlarged = esc_arch.Upscaler()(pixels)
    assert (enlarged[enlarged[..., 3] > 0][:, :3] == 90).all()
    nothing = np.zeros((4, 5, 4), dtype)
    assert not esc_arch.Upscaler()(nothing).any()


@pytest.mark.parametrize(
    ("scale", "runs"), [(0.5, 1), (1, 1), (1.37, 1), (2, 1), (2.01, 2), (3, 2), (4, 2), (4.5, 3)]
)
def test_other_scales(monkeypatch, scale, runs):
    use(monkeypatch)
    pixels = photo(7, 10).astype(np.float64) / 255
    result = esc_arch.Upscaler(scale=scale)(pixels)
    assert result.shape == (round(7 * scale), round(10 * scale), 3)
    expected = imresize(repeated(pixels, 2**runs), size=result.shape[:2]).clip(0, 1)
    assert np.abs(result - expected).max() < 1e-5


@pytest.mark.parametrize("scale", [0.5, 1, 1.37, 3.7, 5])
def test_a_network_for_any_scale_runs_once(monkeypatch, scale):
    """Nothing is resized but below its least scale, 1."""
    sizes = {**tiny.SIZES, "hidden_dim": 8}
    network = fill_parameters(esc_arch.create("esc_lte", **sizes)).eval()
    use(monkeypatch, network, scale=4, any_scale=True)
    pixels = photo(9, 14)
    upscaler = esc_arch.Upscaler(scale=scale)
    result = upscaler(pixels)
    assert result.shape == (round(9 * scale), round(14 * scale), 3)
    asked = max(scale, 1)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    with torch.no_grad():
        size = (round(9 * asked), round(14 * asked))
        expected = network.double()(x, size=size, max_scale=4)[0].permute(1, 2, 0).numpy()
    if scale < 1:
        expected = imresize(expected, size=result.shape[:2])
    assert np.abs(result - 255 * expected.clip(0, 1)).max() < 0.51


def test_the_ensemble_is_the_mean_over_the_square(monkeypatch):
    network = Lopsided()
    use(monkeypatch, network)
    pixels = photo(9, 14).astype(np.float64) / 255
    results = []
    for turns in range(4):
        for mirrored in (False, True):
            seen = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)
            x = torch.from_numpy(seen.copy()).permute(2, 0, 1)[None]
            with torch.no_grad():
                y = network.double()(x)[0].permute(1, 2, 0).numpy()
            y = np.rot90(y, -turns)
            results.append(y[:, ::-1] if mirrored else y)
    expected = np.mean(results, 0).clip(0, 1)
    use(monkeypatch, network.float())
    upscaler = esc_arch.Upscaler(self_ensemble=True)
    assert np.abs(upscaler(pixels) - expected).max() < 1e-5
    assert np.abs(esc_arch.Upscaler()(pixels) - expected).max() > 0.01
    # So it commutes with flips and turns.
    turned = upscaler(np.rot90(pixels).copy())
    assert np.abs(turned - np.rot90(upscaler(pixels))).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (6, 5, 3)),
        ({"scale": 3.0, "self_ensemble": True}, (6, 5, 4)),
        ({"scale": 4.0}, (6, 5)),
    ],
)
def test_progress_adds_up_to_one(monkeypatch, options, shape):
    use(monkeypatch)
    told = []
    esc_arch.Upscaler(**options)(np.zeros(shape, np.uint8), told.append)
    assert sum(told) == pytest.approx(1)
    assert min(told) >= 0 and max(told) <= 1
    told.clear()
    esc_arch.Upscaler(**options)(torch.zeros(2, 3, 4, 5), told.append)
    assert sum(told) == pytest.approx(1)


class _Overflowing(Repeat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = super().forward(x)
        return result if self.one.dtype == torch.float32 else result * torch.inf


def test_dtypes(monkeypatch):
    use(monkeypatch, Repeat())
    assert esc_arch.Upscaler().dtype == torch.float32
    bf16 = esc_arch.Upscaler(dtype="bf16")
    assert bf16.dtype == torch.bfloat16
    pixels = photo(8, 8)
    assert np.abs(bf16(pixels).astype(int) - repeated(pixels)).max() <= 1
    with pytest.raises(UserError, match="dtype: expected fp32, bf16 of repeat x2; found fp16"):
        esc_arch.Upscaler(dtype="fp16")
    with pytest.raises(UserError, match="dtype: expected auto"):
        esc_arch.Upscaler(dtype="fp8")


@pytest.mark.parametrize("as_type", [np.uint8, np.float32])
def test_overflow_is_an_error_and_automatically_mended(monkeypatch, as_type):
    use(monkeypatch, _Overflowing())
    pixels = photo(8, 8).astype(as_type) / as_type(1)
    pixels = (pixels / 255).astype(as_type) if as_type == np.float32 else pixels.astype(as_type)
    with pytest.raises(UserError, match=r"beyond bfloat16\. Use --dtype fp32"):
        esc_arch.Upscaler(dtype="bf16")(pixels)
    upscaler = esc_arch.Upscaler()
    # What ``auto`` chooses on CUDA.
    use(monkeypatch, _Overflowing())
    upscaler.network, upscaler.dtype = deploy(_Overflowing(), torch.bfloat16), torch.bfloat16
    assert np.array_equal(upscaler(pixels), repeated(pixels))
    assert upscaler.dtype == torch.float32
    upscaler.network, upscaler.dtype = deploy(_Overflowing(), torch.bfloat16), torch.bfloat16
    grey = pixels[..., 0]
    assert np.abs(upscaler(grey) - repeated(grey).astype(as_type)).max() < 1e-6
    assert upscaler.dtype == torch.float32


def test_a_network_that_is_a_function(monkeypatch):
    """As those of onnxruntime are."""
    use(monkeypatch, lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    pixels = photo(5, 6)
    assert np.array_equal(esc_arch.Upscaler()(pixels), repeated(pixels))


def test_a_network_that_does_not_enlarge(monkeypatch):
    use(monkeypatch, Repeat(1), scale=1, name="denoiser x1")
    pixels = photo(5, 6)
    assert np.array_equal(esc_arch.Upscaler()(pixels), pixels)
    with pytest.raises(UserError, match="denoiser x1, which does not enlarge"):
        esc_arch.Upscaler(scale=2)


def test_wrong_arguments(monkeypatch):
    use(monkeypatch)
    for options, says in (
        ({"device": "gpu"}, "device: expected"),
        ({"scale": 0}, "scale: expected"),
        ({"scale": float("nan")}, "scale: expected"),
        ({"tile": 0}, "tile: expected"),
        ({"tile": "some"}, "tile: expected"),
        ({"tile": True}, "tile: expected"),
        ({"scale": "twice"}, "scale: expected.*twice"),
        ({"memory": "2 bananas"}, "memory: expected.*2G.*bananas"),
        ({"memory": 0}, "memory: expected"),
        ({"memory": "9" * 400 + "G"}, "memory: expected"),
        ({"dtype": "int8"}, "dtype: expected.*fp16.*int8"),
        ({"device": None}, "device: expected"),
    ):
        with pytest.raises(UserError, match=says):
            esc_arch.Upscaler(**options)
    upscaler = esc_arch.Upscaler()
    for image, error in (
        ("a.png", TypeError),
        (np.zeros((4, 4), np.int8), TypeError),
        (np.zeros((4, 4), np.int64), TypeError),
        (np.zeros((4, 4), np.uint32), TypeError),
        (np.zeros((4, 4), np.complex64), TypeError),
        (np.zeros((4, 4), object), TypeError),
        (np.zeros((4, 4, 0), np.float32), ValueError),
        (torch.zeros(3, 4, 4, dtype=torch.bool), TypeError),
        (Image.new("CMYK", (4, 4)), ValueError),
        (np.zeros((4, 4), bool), TypeError),
        (np.zeros((4, 4), np.int32), TypeError),
        (np.zeros((4, 4, 5), np.uint8), ValueError),
        (np.zeros((0, 4), np.uint8), ValueError),
        (torch.zeros(4, 4), ValueError),
        (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError),
    ):
        with pytest.raises(error, match=r"expected.*found") as caught:
            upscaler(image)
        assert isinstance(caught.value, UserError)


def test_options_in_words_and_texts(monkeypatch):
    use(monkeypatch)
    with pytest.raises(UserError, match=r"self_ensemble.*no"):
        esc_arch.Upscaler(self_ensemble="no")
    upscaler = esc_arch.Upscaler(dtype="bfloat16", scale="1.5", tile="64", memory="2G")
    assert (upscaler.dtype, upscaler.scale) == (torch.bfloat16, 1.5)
    assert esc_arch.Upscaler(dtype=torch.float32, memory=2e9).dtype == torch.float32
    pixels = photo(8, 8)
    assert esc_arch.Upscaler(tile="auto", memory=1 << 30)(pixels).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda unit: unit * 255, "0 to 1.*254|Divide by 255"),
        (lambda unit: unit * 65535, "0 to 1.*Divide by 65535"),
        (lambda unit: unit * 2 - 1, "0 to 1.*divide by 2"),
        (lambda unit: np.where(unit > 0.9, np.nan, unit), "0 to 1.*NaN"),
        (lambda unit: np.where(unit > 0.9, np.inf, unit), "0 to 1.*infinite"),
        (lambda unit: np.where(unit > 0.9, -np.inf, unit), "0 to 1.*infinite"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_beyond_its_range_is_refused(monkeypatch, spoil, says, dtype):
    use(monkeypatch)
    unit = photo(12, 12) / 255
    unit[0, 0], unit[0, 1] = 0, 1
    with np.errstate(over="ignore"):
        image = spoil(unit).astype(dtype)
    if dtype == np.float16 and "65535" in says:
        says = "0 to 1"  # which is infinite there
    upscaler = esc_arch.Upscaler()
    for given in (image, torch.from_numpy(image).permute(2, 0, 1)):
        with pytest.raises(ValueError, match=says) as caught:
            upscaler(given)
        assert isinstance(caught.value, UserError)


def test_a_little_beyond_the_range_is_what_resizing_leaves(monkeypatch):
    use(monkeypatch)
    image = np.linspace(-0.2, 1.2, 64, dtype=np.float32).reshape(8, 8)
    assert np.allclose(esc_arch.Upscaler()(image), repeated(image).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_computed_in_float32(monkeypatch, channels):
    use(monkeypatch)
    said = []
    upscaler = esc_arch.Upscaler(dtype="bf16", say=said.append)
    deep, flat = photo(9, 7, channels, np.uint16), photo(9, 7)
    for _ in range(2):  # as in a mixed folder
        result = upscaler(deep)
        colours = slice(None) if channels in (1, 3) else slice(channels - 1)
        assert np.array_equal(result[..., colours], repeated(deep)[..., colours])
        assert np.abs(upscaler(flat).astype(int) - repeated(flat)).max() <= 1
        assert upscaler.dtype == torch.bfloat16
    assert len(said) == 1 and "16 bits" in said[0] and "float32" in said[0]
    swapped = deep.astype(deep.dtype.newbyteorder())
    assert np.array_equal(upscaler(swapped), upscaler(deep))
    if channels == 1:
        assert np.array_equal(np.asarray(upscaler(Image.fromarray(deep))), repeated(deep))
    with pytest.warns(UserWarning, match="float32"):
        esc_arch.Upscaler(dtype="bf16")(deep)


def test_a_file_of_half_precision_says_that_16_bits_lose_levels(monkeypatch):
    def network(x):
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    network.is_half = True
    use(monkeypatch, network, path=Path("half.onnx"))
    said = []
    upscaler = esc_arch.Upscaler(say=said.append)
    upscaler(photo(5, 6))
    assert not said
    for _ in range(2):
        upscaler(photo(5, 6, 3, np.uint16))
    assert len(said) == 1 and "half.onnx" in said[0] and "float16" in said[0]


class Unsound(Repeat):
    """Gives one number that is none."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x):
        result = super().forward(x)
        result[..., 0, 0] = self.value
        return result


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("is_module", [True, False])
def test_a_result_that_is_no_number_is_an_error(monkeypatch, value, is_module):
    network = Unsound(value)
    use(monkeypatch, network if is_module else network.forward)
    pixels = photo(5, 6)
    for options in ({}, {"scale": 1.5}, {"self_ensemble": True}):
        upscaler = esc_arch.Upscaler(**options)
        unit = (pixels / 255).astype(np.float32)
        for image in (pixels, pixels[..., 0], unit, torch.from_numpy(unit).permute(2, 0, 1)):
            with torch.no_grad(), pytest.raises(UserError, match=r"repeat x2.*NaN"):
                upscaler(image)
