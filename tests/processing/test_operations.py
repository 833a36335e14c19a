"""What operations compute, against Pillow, SciPy and closed forms, and what all of them promise."""

import io

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.stats
import torch
import torch.nn.functional as F
from every_operation import OPERATIONS, every_operation, make_images
from PIL import Image

from catwalk.errors import CatwalkError
from catwalk.processing import (
    JPEG,
    BitDepth,
    ColourConversion,
    Denoiser,
    GaussianNoise,
    GaussianSmoothing,
    Median,
    RandomResizePad,
    Resize,
    Thumbnail,
    TotalVariation,
    WebP,
)
from catwalk.processing.known import build_operations
from catwalk.processing.squeezing import divergence, gradient


def pictures(images):
    """Images as Pillow has them."""
    return [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]


def floats(images):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255


def through_file(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


@every_operation
class TestEveryOperation:
    def test_images_in_the_unit_range_come_of_it(self, make):
        images = make_images()
        done = make()(images)
        assert done.shape == images.shape
        assert done.dtype == torch.float32
        assert not torch.equal(done, images)
        assert 0 <= float(done.min()) <= float(done.max()) <= 1

    def test_neither_batch_nor_order_shows(self, make):
        images, operation = make_images(32, 14, 16), make()
        whole = operation(images)
        assert torch.equal(operation(images[:16]), whole[:16])
        order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
        assert torch.equal(operation(images[order]), whole[order])

    def test_the_result_is_the_same_with_and_without_a_gradient(self, make):
        images, operation = make_images(), make()
        with torch.no_grad():
            assert torch.equal(operation(images), operation(images.clone().requires_grad_()))

    def test_gradients_reach_the_images_and_not_other_images(self, make):
        images, operation = make_images().requires_grad_(), make()
        operation(images)[1].square().sum().backward()
        assert float(images.grad[1].abs().sum()) > 0
        assert float(images.grad[[0, 2]].abs().sum()) == 0

    def test_the_specification_makes_the_same_again(self, make):
        operation = make()
        (again,) = build_operations([operation.specification], "a file")
        again.load_state_dict(operation.state_dict())
        assert type(again) is type(operation)
        assert torch.equal(again(make_images()), operation(make_images()))

    def test_draws_differ_where_there_is_something_to_draw(self, make):
        images, operation = make_images(), make()
        assert torch.equal(operation(images, 1), operation(images, 1))
        assert torch.equal(operation(images, 1), operation(images, 2)) != operation.is_random


@pytest.mark.parametrize("quality", [10, 75, 95])
@pytest.mark.parametrize(("subsampling", "number"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
def test_jpeg_is_the_file_that_pillow_writes(quality, subsampling, number):
    images = make_images()
    expected = floats([through_file(image, "JPEG", quality=quality, subsampling=number) for image in pictures(images)])
    assert torch.equal(JPEG(quality, subsampling)(images), expected)


def test_jpeg_is_pillows_by_default():
    images = make_images()
    assert torch.equal(JPEG(75)(images), floats([through_file(image, "JPEG") for image in pictures(images)]))


def test_webp_is_the_file_that_pillow_writes():
    images = make_images()
    assert torch.equal(WebP(80)(images), floats([through_file(image, "WEBP") for image in pictures(images)]))


def test_codecs_see_8_bits():
    images = make_images()
    for operation in (JPEG(), WebP(), Resize(scale=0.5)):
        assert torch.equal(operation(images + 0.4 / 255), operation(images))


def test_colours():
    images = make_images()
    levels = (images * 255).round().numpy().transpose(0, 2, 3, 1)
    # Pillow's own integers for ITU-R 601.
    grey = (levels @ np.array([19595, 38470, 7471]) + 0x8000) // 0x10000
    done = ColourConversion("grey")(images) * 255
    assert np.array_equal(done[:, 0].numpy(), grey)
    assert torch.equal(done[:, 1], done[:, 0])
    assert float((ColourConversion("ycbcr")(images) - images).abs().max()) <= 3.001 / 255
    many = make_images(1, 40, 40)
    done = (ColourConversion("palette")(many) * 255).round().flatten(2)[0].T
    assert len(done.unique(dim=0)) <= 256 < len((many * 255).round().flatten(2)[0].T.unique(dim=0))


@pytest.mark.parametrize(("operation", "size"), [(Resize(size=(7, 30)), (30, 7)), (Thumbnail(10), (8, 10))])
@pytest.mark.parametrize("back", [False, True])
def test_resizing_is_pillows(operation, size, back):
    images = make_images(height=20, width=17)
    operation.back = back
    expected = [image.resize(size, Image.Resampling.BICUBIC) for image in pictures(images)]
    if back:
        expected = [image.resize((17, 20), Image.Resampling.BICUBIC) for image in expected]
    assert torch.equal(operation(images), floats(expected))


def test_the_thumbnail_of_a_small_image_is_the_image():
    assert torch.equal(Thumbnail(20)(make_images()), make_images())


@pytest.mark.parametrize("name", ["resize", "resize to a size", "thumbnail"])
def test_the_gradient_of_resizing_is_that_of_what_pillow_computes(name):
    """Pillow's filters are linear: steps of many grey levels tell their derivative, but for rounding."""
    operation = OPERATIONS[name]()
    images = (make_images() * 0.5 + 0.25).requires_grad_()
    weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(2))
    (operation(images) * weights).sum().backward()
    step = 0.2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(4))
    change = ((operation(images.detach() + step) - operation(images.detach())) * weights).sum()
    assert float((images.grad * step).sum()) == pytest.approx(float(change), rel=0.02)


@pytest.mark.parametrize("name", ["jpeg", "webp", "ycbcr", "palette", "bit depth", "total variation"])
def test_the_gradient_is_the_identitys(name):
    images, weights = make_images().requires_grad_(), make_images(seed=1)
    (OPERATIONS[name]()(images) * weights).sum().backward()
    assert torch.equal(images.grad, weights)


def test_bit_depth():
    images = make_images()
    assert torch.equal(BitDepth(1)(images), (images > 0.5).float())
    assert torch.allclose(BitDepth(8)(images), images, atol=1e-6)
    expected = np.rint(images.numpy() * 15) / 15
    assert np.allclose(BitDepth(4)(images).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_medians_are_scipys(size):
    images = make_images()
    expected = [
        [scipy.ndimage.median_filter(plane, size, mode="reflect") for plane in image] for image in images.numpy()
    ]
    assert np.array_equal(Median(size)(images).numpy(), np.array(expected))


def test_the_gradient_of_a_median_goes_to_the_pixel_that_was_chosen():
    images = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    Median(3)(images)[0, 0, 2, 2].backward()
    middle = images.detach()[0, 0, 1:4, 1:4]
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = (middle == middle.median()).float()
    assert torch.equal(images.grad[0, 0], expected)


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_smoothing_is_scipys(sigma):
    images = make_images()
    expected = scipy.ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="reflect")
    assert np.allclose(GaussianSmoothing(sigma)(images).numpy(), expected, atol=1e-6)


class TestTotalVariation:
    def objective(self, smooth, image, weight):
        down, right = np.zeros_like(smooth), np.zeros_like(smooth)
        down[:-1], right[:, :-1] = np.diff(smooth, axis=0), np.diff(smooth, axis=1)
        return ((smooth - image) ** 2).sum() / (2 * weight) + np.sqrt(down**2 + right**2).sum()

    def test_the_divergence_is_minus_the_adjoint_of_the_gradient(self):
        random = torch.Generator().manual_seed(0)
        images, field = torch.randn(2, 5, 7, generator=random), torch.randn(2, 2, 5, 7, generator=random)
        assert float((gradient(images) * field).sum()) == pytest.approx(-float((images * divergence(field)).sum()))

    def test_it_finds_the_minimum(self):
        """Against a general optimizer on the dual problem, with no step of Chambolle's in it."""
        image, weight = make_images(1, 6, 5)[0, 0].double().numpy(), 0.15
        found = TotalVariation(weight, iterations=2000)(torch.from_numpy(image)[None, None].expand(1, 3, 6, 5).double())

        def dual(values):
            # max over |p| <= 1 of -|weight div p|^2 / 2 + <image, div p>, where p = q / max(1, |q|)
            field = values.reshape(2, 6, 5)
            field = field / np.maximum(1, np.sqrt((field**2).sum(axis=0)))
            spread = divergence(torch.from_numpy(field)).numpy()
            return ((weight * spread - image) ** 2).sum(), field

        start = np.random.default_rng(0).normal(size=60) * 0.1
        outcome = scipy.optimize.minimize(lambda v: dual(v)[0], start, method="L-BFGS-B", options={"maxfun": 60000})
        best = image - weight * divergence(torch.from_numpy(dual(outcome.x)[1])).numpy()
        ours, theirs = (self.objective(each, image, weight) for each in (found[0, 0].numpy(), best))
        assert ours <= theirs * 1.0005
        assert ours < 0.9 * self.objective(image, image, weight)

    def test_more_steps_lower_the_objective(self):
        image = make_images(1)[0]
        values = [
            sum(
                self.objective(plane, clean, 0.1)
                for plane, clean in zip(TotalVariation(0.1, count)(image[None])[0].numpy(), image.numpy(), strict=True)
            )
            for count in (1, 5, 50)
        ]
        assert values[0] > values[1] > values[2]

    def test_two_pixels_have_a_closed_form(self):
        image = torch.tensor([0.2, 0.8]).expand(1, 3, 1, 2)
        done = TotalVariation(weight=0.1, iterations=500)(image)[0, 0, 0]
        assert done.tolist() == pytest.approx([0.3, 0.7], abs=1e-4)  # each moves by the weight


class TestRandomResizePad:
    def test_it_is_what_its_layout_says(self):
        images, operation = make_images(8), RandomResizePad(smallest=0.5)
        for image, done, (rows, columns, top, left) in zip(
            images, operation(images), operation.layout(images).tolist(), strict=True
        ):
            expected = torch.zeros_like(image)
            small = F.interpolate(image[None], (rows, columns), mode="bilinear")[0]
            expected[:, top : top + rows, left : left + columns] = small
            assert torch.equal(done, expected)

    def test_sizes_and_places_spread_over_all_that_fit(self):
        layout = RandomResizePad(smallest=0.5).layout(torch.rand(4000, 3, 12, 12))
        sides = layout[:, 0]
        assert sides.unique().tolist() == list(range(6, 13))
        assert torch.equal(layout[:, 1], sides)
        counts = torch.bincount(sides)[7:12]
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4
        of_nine = layout[sides == 9]
        for places in (of_nine[:, 2], of_nine[:, 3]):
            assert scipy.stats.chisquare(torch.bincount(places, minlength=4).numpy()).pvalue > 1e-4


def test_noise_is_normal():
    images = torch.full((64, 3, 16, 16), 0.5)
    images += torch.arange(64).view(-1, 1, 1, 1) / 1000  # equal images would have equal noise
    images = (images * 255).round() / 255
    images[:, 0, 0, 0] = torch.arange(64) / 255
    noise = (GaussianNoise(sigma=10)(images) - images).flatten() * 255 / 10
    assert scipy.stats.kstest(noise.numpy(), "norm").pvalue > 1e-3
    other = (GaussianNoise(sigma=10, seed=1)(images) - images).flatten()
    assert abs(float(torch.corrcoef(torch.stack([noise, other]))[0, 1])) < 0.02


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JPEG(0), "quality must be at least 1, got 0"),
        (lambda: JPEG(101), "quality must be at most 100, got 101"),
        (lambda: JPEG(75, "4:1:1"), "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:1'"),
        (lambda: JPEG(gradient="none"), "gradient must be one of differentiable, identity, got 'none'"),
        (lambda: WebP(101), "quality must be at most 100"),
        (lambda: ColourConversion("lab"), "colours must be one of grey, ycbcr, palette, got 'lab'"),
        (lambda: Resize(), "Resize: give one of size and scale, got size None and scale None"),
        (lambda: Resize(size=(2, 2), scale=1), "give one of size and scale"),
        (lambda: Resize(size=(0, 2)), "size: must be height and width, at least 1 each, got \\[0, 2\\]"),
        (lambda: Resize(scale=0), "scale must be a number above 0, got 0"),
        (lambda: Thumbnail(0), "size must be at least 1, got 0"),
        (lambda: RandomResizePad(1.0), "smallest must be a factor above 0 and below 1, got 1.0"),
        (lambda: BitDepth(9), "bits must be at most 8, got 9"),
        (lambda: Median(1), "size must be at least 2, got 1"),
        (lambda: Median(30)(make_images()), "Median.size: is 30, and there are images of 17×20 pixels"),
        (lambda: GaussianSmoothing(float("nan")), "sigma must be a number above 0, got nan"),
        (lambda: GaussianSmoothing(10)(make_images()), "GaussianSmoothing.sigma: 10 reaches 40 pixels far"),
        (lambda: TotalVariation(-1), "weight must be a number above 0, got -1"),
        (lambda: GaussianNoise(0), "sigma must be a number above 0, got 0"),
        (lambda: Denoiser(), "Denoiser.checkpoint is missing"),
    ],
)
def test_bad_arguments_are_told_in_a_line(make, message):
    with pytest.raises(CatwalkError, match=message):
        make()


class TestKnownOperations:
    def test_a_file_does_not_decide_which_code_is_run(self):
        foreign = {"class_path": "os.system", "init_args": {"command": "true"}}
        with pytest.raises(CatwalkError, match=r"asks for the input operation os\.system .* running it is up to you"):
            build_operations([foreign], "a.ckpt")

    def test_ones_own_must_be_named_with_the_same_arguments(self):
        own = {"class_path": "own_operation.Inverted", "init_args": {"strength": 1.0}}
        with pytest.raises(CatwalkError, match="running it is up to you"):
            build_operations([own], "a.ckpt", [{**own, "init_args": {"strength": 0.5}}])
        (operation,) = build_operations([own], "a.ckpt", [own])
        assert torch.equal(operation(make_images()), 1 - make_images())

    @pytest.mark.parametrize("damaged", ["JPEG", [3], [{"class_path": 3}], [{"init_args": {}}]])
    def test_damage_is_told(self, damaged):
        with pytest.raises(CatwalkError, match=r"a\.ckpt"):
            build_operations(damaged, "a.ckpt")

    def test_wrong_arguments_are_told(self):
        with pytest.raises(CatwalkError, match="JPEG refused its arguments"):
            build_operations([{"class_path": "catwalk.processing.JPEG", "init_args": {"size": 3}}], "a.ckpt")
