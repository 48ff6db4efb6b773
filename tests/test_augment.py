"""Every operation against torchvision's own function, image by image, or a slow obvious loop; then
the pipeline.

Images are not square, so that no two dimensions can be swapped unnoticed.
"""

import importlib
import platform
import subprocess
import sys

import pytest
import torch

from suite.augment import Mix, build, colour, geometry, masks, mixes, pipeline
from suite.augment.boxes import inside
from suite.config import trial
from suite.core.errors import UsageError
from suite.system.torchvision_import import torchvision  # noqa: F401  (makes the next line work)

F = importlib.import_module("torchvision.transforms.v2.functional")

H, W, SIDE, CLASSES = 20, 28, 20, 5
FILL = (0.4914, 0.4822, 0.4465)
LEVEL = 1 / 255
ALL = [model() for model in trial.AUGMENTATIONS.values()]
NAMES = list(trial.AUGMENTATIONS)


def pictures(batch=17, channels=3, height=H, width=W, seed=0):
    """uint8 images: noise, smooth ones, and black, white and grey ones."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(
        0, 256, (batch, channels, height, width), generator=generator, dtype=torch.uint8
    )
    coarse = torch.rand(batch, channels, 4, 5, generator=generator)
    smooth = (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        .mul(255)
        .to(torch.uint8)
    )
    images = torch.where((torch.arange(batch) % 2 == 0)[:, None, None, None], noise, smooth)
    for at, value in enumerate((0, 255, 77)):
        images[at + 3 : at + 4] = value
    return images


def floats(images):
    return images.float() / 255


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(images, function, *parameters):
    return torch.stack(
        [function(image, *values) for image, *values in zip(images, *parameters, strict=True)]
    )


def boxes_of(parameters):
    return [parameters[name].tolist() for name in ("top", "left", "box_height", "box_width")]


# ---- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_flip_mirrors_the_chosen_images_only(channels):
    images, flipped = pictures(channels=channels), torch.arange(17) % 3 == 0
    expected = one_by_one(
        images, lambda image, yes: F.horizontal_flip(image) if yes else image, flipped
    )
    assert torch.equal(geometry.flip(images, flipped), expected)
    assert torch.equal(geometry.flip(floats(images), flipped), floats(expected))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_is_torchvisions_pad_and_crop(mode):
    images, drawn = pictures(), geometry.Crop(3, mode).draw(17, H, W, generator())
    assert drawn["top"].max() == 6 and drawn["left"].min() == 0

    def reference(image, top, left):
        return F.crop(F.pad(image, [3], padding_mode=mode), int(top), int(left), H, W)

    expected = one_by_one(images, reference, drawn["top"], drawn["left"])
    assert torch.equal(geometry.crop(images, **drawn, padding=3, mode=mode), expected)
    assert torch.equal(
        geometry.crop(floats(images), **drawn, padding=3, mode=mode), floats(expected)
    )


@pytest.mark.parametrize(("height", "width"), [(H, W), (W, H), (32, 32), (31, 31)])
def test_rotation_takes_the_pixels_that_torchvision_takes(height, width):
    degrees = torch.empty(200).uniform_(-180, 180, generator=generator())
    images = pictures(200, height=height, width=width, seed=3)
    expected = one_by_one(images, F.rotate, degrees.tolist())
    rotated = geometry.rotate(images, degrees)
    assert rotated.dtype == torch.uint8
    assert (rotated == expected).double().mean() >= 0.999
    assert torch.equal(geometry.rotate(floats(images), degrees), floats(rotated))


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, -90.0, -180.0])
def test_quarter_turns_are_exact(degrees):
    images = pictures(4, height=32, width=32)
    turned = geometry.rotate(images, torch.full((4,), degrees))
    assert torch.equal(turned, images.rot90(round(degrees / 90), (2, 3)))


def test_resized_crop_is_torchvisions():
    images = pictures(60)
    drawn = geometry.RandomResizedCrop((0.02, 1.0), (0.3, 3.0)).draw(60, H, W, generator())
    drawn["top"][:2], drawn["left"][:2] = 0, 0
    drawn["box_height"][:2], drawn["box_width"][:2] = torch.tensor([H, 1]), torch.tensor([W, 1])

    def reference(image, *box):
        return F.resized_crop(image, *box, [H, W], antialias=True)

    result = geometry.resized_crop(images, **drawn)
    torch.testing.assert_close(
        result, one_by_one(floats(images), reference, *boxes_of(drawn)), atol=1e-5, rtol=0
    )
    on_bytes = floats(one_by_one(images, reference, *boxes_of(drawn)))
    assert (result - on_bytes).abs().max() <= LEVEL + 1e-5  # it rounds twice, by half a level
    assert torch.allclose(geometry.resized_crop(floats(images), **drawn), result, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "between"), [(H, W, (15, 9)), (H, W, (9, 33)), (60, 100, (45, 45))]
)
def test_resize_there_and_back_is_torchvisions(height, width, between):
    images = pictures(5, height=height, width=width)
    expected = F.resize(
        F.resize(floats(images), list(between), antialias=True), [height, width], antialias=True
    )
    result = geometry.resize(images, between, (height, width))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    on_bytes = F.resize(
        F.resize(images, list(between), antialias=True), [height, width], antialias=True
    )
    assert (result - floats(on_bytes)).abs().max() <= 2 * LEVEL  # it rounds twice


@pytest.mark.parametrize("size", [(15, 15), (12, 21), (11, 12), (H, W), (1, 1)])
def test_center_crop_is_torchvisions_and_enlarged(size):
    images = pictures(5)
    expected = F.resize(F.center_crop(floats(images), list(size)), [H, W], antialias=True)
    result = geometry.center_crop(images, size)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    on_bytes = F.resize(F.center_crop(images, list(size)), [H, W], antialias=True)
    assert (result - floats(on_bytes)).abs().max() <= LEVEL + 1e-5


# ---- colour --------------------------------------------------------------------------------------

CHANGES = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def jittered(image, order, *factors):
    for change in order.tolist():
        image = CHANGES[change](image, float(factors[change]))
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [(0.4, 0.4, 0.4, 0.1), (2.0, 2.0, 2.0, 0.5)])
def test_color_jitter_is_torchvisions_in_each_images_own_order(channels, strength):
    images = pictures(100, channels)
    drawn = colour.ColorJitter(*strength).draw(100, H, W, generator(1))
    assert len(set(map(tuple, drawn["order"].tolist()))) == 24
    expected = one_by_one(floats(images), jittered, *drawn.values())
    # Near grey a hue is the quotient of two tiny differences, so large strengths magnify rounding.
    torch.testing.assert_close(colour.color_jitter(images, **drawn), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(
        colour.color_jitter(floats(images), **drawn), expected, atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("active", range(4))
def test_each_colour_change_alone_is_within_a_level_of_torchvision_on_uint8(active):
    strength = [0.0] * 4
    strength[active] = 0.5
    images, drawn = pictures(50), colour.ColorJitter(*strength).draw(50, H, W, generator(2))
    factors = list(drawn.values())[1:]
    neutral = torch.tensor([0.0 if active == 3 else 1.0])
    assert all(
        (values == (0 if at == 3 else 1)).all() for at, values in enumerate(factors) if at != active
    )
    assert (factors[active] != neutral).any()
    on_bytes = floats(one_by_one(images, CHANGES[active], factors[active].tolist()))
    result = colour.color_jitter(images, **drawn)
    # torchvision cuts off fractions of the result, and, of the grey that it blends half of, once
    # more.
    assert (result - on_bytes).abs().max() <= LEVEL * (1.5 if active in (1, 2) else 1) + 1e-5
    assert (result - floats(images)).abs().max() > 10 * LEVEL


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (2, 3), (0, 2)])
def test_color_jitter_with_two_changes(pair):
    strength = [0.5 if change in pair else 0.0 for change in range(4)]
    images, drawn = pictures(50), colour.ColorJitter(*strength).draw(50, H, W, generator(2))
    expected = one_by_one(floats(images), jittered, *drawn.values())
    torch.testing.assert_close(colour.color_jitter(images, **drawn), expected, atol=2e-5, rtol=0)


def test_color_jitter_without_strength_changes_nothing():
    images, drawn = pictures(), colour.ColorJitter(0, 0, 0, 0).draw(17, H, W, generator())
    torch.testing.assert_close(
        colour.color_jitter(images, **drawn), floats(images), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 39])
def test_gaussian_blur_is_torchvisions(kernel_size):
    images = pictures(12)
    sigma = colour.GaussianBlur(kernel_size, (0.1, 2.0)).draw(12, H, W, generator())["sigma"]

    def reference(image, sigma):
        return F.gaussian_blur(image, [kernel_size, kernel_size], [sigma, sigma])

    result = colour.gaussian_blur(images, sigma, kernel_size)
    expected = one_by_one(floats(images), reference, sigma.tolist())
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert (result - floats(one_by_one(images, reference, sigma.tolist()))).abs().max() <= LEVEL


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation", [masks.Cutout(9, FILL), masks.RandomErasing(0.7, (0.1, 0.4), (0.3, 3.3), FILL)]
)
def test_boxes_are_painted_with_the_fill(operation):
    images, drawn = pictures(), operation.draw(17, H, W, generator())
    levels = torch.tensor(FILL).mul(255).round()[:, None, None]
    expected = one_by_one(
        images, lambda image, *box: F.erase(image, *box, levels.to(torch.uint8)), *boxes_of(drawn)
    )
    result = operation.apply(images, drawn)
    assert result.dtype == torch.uint8 and torch.equal(result, expected)
    assert torch.equal(operation.apply(floats(images), drawn), floats(expected))
    assert (floats(levels)[:, 0, 0] - torch.tensor(FILL)).abs().max() <= LEVEL / 2


def test_a_grey_image_is_filled_with_one_number_and_refuses_three():
    images = pictures(channels=1)
    drawn = masks.Cutout(9, (0.5,)).draw(17, H, W, generator())
    assert masks.paint_boxes(images, drawn, (0.5,)).shape == images.shape
    with pytest.raises(ValueError, match="fill must have 1 or 1 channels, got 3"):
        masks.paint_boxes(images, drawn, FILL)


def test_salt_and_pepper_changes_all_channels_of_the_drawn_pixels():
    images, drawn = pictures(), masks.SaltAndPepper(0.3).draw(17, H, W, generator())
    expected = images.clone().permute(0, 2, 3, 1)
    expected[drawn["black"]] = 0
    expected[drawn["white"]] = 255
    expected = expected.permute(0, 3, 1, 2)
    assert torch.equal(masks.salt_and_pepper(images, **drawn), expected)
    assert torch.equal(masks.salt_and_pepper(floats(images), **drawn), floats(expected))


def test_inside_is_top_left_inclusive_bottom_right_exclusive():
    box = [torch.tensor([value]) for value in (1, 2, 2, 3)]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1:3, 2:5] = True
    assert torch.equal(inside(4, 6, *box), expected[None, None])


# ---- mixes ---------------------------------------------------------------------------------------


def test_mixup_blends_pixels_and_targets_alike():
    images, labels, operation = pictures(), torch.arange(17) % CLASSES, mixes.Mixup(0.8)
    drawn = operation.draw(17, H, W, generator())
    targets = operation.mix_targets(mixes.one_hot(labels, CLASSES), drawn)
    result = operation.apply(images, drawn)
    for at in range(17):
        share = float(drawn["share"][at])
        expected = share * floats(images[at]) + (1 - share) * floats(images[at - 1])
        torch.testing.assert_close(result[at], expected, atol=1e-6, rtol=0)
        row = torch.zeros(CLASSES)
        row[labels[at]] += share
        row[labels[at - 1]] += 1 - share
        torch.testing.assert_close(targets[at], row, atol=1e-6, rtol=0)


def test_cutmix_targets_are_shares_of_pixels():
    # Image i has the grey level i everywhere, so a pixel tells whose it is.
    images = torch.arange(17, dtype=torch.uint8)[:, None, None, None].expand(17, 3, H, W)
    labels, operation = torch.arange(17) % CLASSES, mixes.Cutmix(1.0)
    drawn = operation.draw(17, H, W, generator(5))
    result = operation.apply(images, drawn)
    targets = operation.mix_targets(mixes.one_hot(labels, CLASSES), drawn)
    for at in range(17):
        top, left, height, width = (
            int(drawn[name][at]) for name in ("top", "left", "box_height", "box_width")
        )
        row, previous = torch.zeros(CLASSES), (at - 1) % 17
        for y in range(H):
            for x in range(W):
                owner = int(result[at, 0, y, x])
                in_box = top <= y < top + height and left <= x < left + width
                assert owner == (previous if in_box else at)
                row[labels[owner]] += 1 / (H * W)
        assert (result[at] == result[at, :1]).all()
        torch.testing.assert_close(targets[at], row, atol=1e-5, rtol=0)
    assert (drawn["share"] < 1).any()


# ---- the pipeline --------------------------------------------------------------------------------


def run(settings, images, seed=0, **options):
    labels = torch.arange(len(images)) % CLASSES
    return build(settings, SIDE, CLASSES, **options)(images, labels, generator(seed))


def test_an_empty_pipeline_only_converts():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result, targets = build([], 16, CLASSES)(images, torch.tensor([3]), generator())
    assert torch.equal(result, F.to_dtype(images, torch.float32, scale=True))
    assert result.max() == 1 and targets.tolist() == [3] and targets.dtype == torch.int64


@pytest.mark.parametrize("settings", ALL, ids=NAMES)
class TestEveryOperation:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("batch", [1, 17])
    def test_keeps_the_contract_and_leaves_its_input_alone(self, settings, channels, batch):
        images = pictures(batch, channels)
        before = images.clone()
        result, targets = run([settings], images)
        assert torch.equal(images, before)
        assert (
            result.shape == images.shape
            and result.dtype == torch.float32
            and result.is_contiguous()
        )
        assert result.min() >= 0 and result.max() <= 1
        if settings.type in trial.MIXES:
            assert targets.shape == (batch, CLASSES) and targets.dtype == torch.float32
            torch.testing.assert_close(targets.sum(1), torch.ones(batch))
        else:
            assert targets.dtype == torch.int64 and targets.tolist() == [
                at % CLASSES for at in range(batch)
            ]

    def test_is_replayed_by_the_seed(self, settings):
        images = pictures()
        first, again = run([settings], images), run([settings], images)
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        if settings.type not in ("resize", "center_crop"):
            assert not torch.equal(first[0], run([settings], images, seed=1)[0])

    def test_does_something(self, settings):
        assert (run([settings], pictures())[0] - floats(pictures())).abs().max() > 10 * LEVEL

    @pytest.mark.parametrize("floating", [False, True])
    def test_leaves_its_own_input_and_parameters_alone(self, settings, floating):
        (operation,) = build([settings], SIDE, CLASSES).operations
        images = floats(pictures()) if floating else pictures()
        drawn = operation.draw(17, H, W, generator())
        before, values = images.clone(), {name: value.clone() for name, value in drawn.items()}
        first = operation.apply(images, drawn).clone()
        assert torch.equal(images, before)
        assert all(torch.equal(values[name], value) for name, value in drawn.items())
        assert torch.equal(operation.apply(images, drawn), first)

    def test_reads_any_memory_format(self, settings):
        images = pictures()
        strided = images.to(memory_format=torch.channels_last)
        assert not strided.is_contiguous()
        assert torch.equal(run([settings], strided)[0], run([settings], images)[0])
        (operation,) = build([settings], SIDE, CLASSES).operations
        drawn = operation.draw(17, H, W, generator())
        torch.testing.assert_close(
            operation.apply(strided, drawn), operation.apply(images, drawn), atol=1e-6, rtol=0
        )

    def test_draws_parameters_for_every_image(self, settings):
        (operation,) = build([settings], SIDE, CLASSES).operations
        for name, values in operation.draw(400, H, W, generator()).items():
            assert len(values) == 400 and values.device.type == "cpu", name
            assert len(values.view(400, -1).unique(dim=0)) > 1, name

    def test_mixes_no_devices_and_waits_for_none(self, settings):
        # Tensors without data refuse both a CPU partner and a shape that depends on values, as a
        # GPU would wait.
        images, labels = pictures().to("meta"), torch.arange(17, device="meta")
        result, targets = build([settings], SIDE, CLASSES, FILL)(images, labels, generator())
        assert result.device.type == targets.device.type == "meta" and result.shape == images.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", ALL, ids=NAMES)
def test_a_gpu_gives_what_the_cpu_gives(settings):
    images, labels = pictures(64), torch.arange(64) % CLASSES
    chain = build([settings], SIDE, CLASSES, FILL)
    here, targets = chain(images, labels, generator())
    there, gpu_targets = chain(images.cuda(), labels.cuda(), generator())
    torch.testing.assert_close(gpu_targets.cpu(), targets)
    differing = ((here - there.cpu()).abs() > 1e-4).double().mean()
    assert differing <= (1e-3 if settings.type == "rotation" else 0)


def test_a_batch_in_chunks_is_the_same_batch(monkeypatch):
    images = pictures(45)
    whole = run(ALL, images)
    monkeypatch.setattr(pipeline, "CHUNK_VALUES", 10 * 3 * H * W)
    chunked = run(ALL, images)
    # Matrix products of another size may round otherwise.
    torch.testing.assert_close(chunked[0], whole[0], atol=1e-5, rtol=0)
    assert torch.equal(chunked[1], whole[1])


REUSE = """
import resource, torch
from suite.augment import build
build([], 32, 10)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        one = torch.ones(128, 3, 32, 32)
        other = one + 1
        one + other
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the GNU C library")
def test_memory_of_temporary_tensors_is_used_again():
    # Where the C library returns it each time, which depends on where things happen to lie, these
    # are 22,400.
    done = subprocess.run([sys.executable, "-c", REUSE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000


def test_a_composed_pipeline_is_its_operations_one_after_the_other():
    images = pictures(40)
    chain = build(
        [trial.Flip(), trial.Crop(padding=3), trial.ColorJitter(), trial.Cutout(size=8)],
        SIDE,
        CLASSES,
        FILL,
    )
    drawn = chain.draw(images.shape, generator(7))
    result, _ = chain.apply(images, torch.zeros(40, dtype=torch.int64), drawn)
    flips, crops, jitters, boxes = drawn
    fill = torch.tensor(FILL).mul(255).round().div(255)[:, None, None]
    for at in range(40):
        image = F.horizontal_flip(images[at]) if flips["flipped"][at] else images[at]
        image = F.crop(F.pad(image, [3]), int(crops["top"][at]), int(crops["left"][at]), H, W)
        image = jittered(floats(image), *(values[at] for values in jitters.values()))
        image = F.erase(
            image, *(boxes[name][at] for name in ("top", "left", "box_height", "box_width")), fill
        )
        torch.testing.assert_close(result[at], image, atol=2e-5, rtol=0)


def test_mixup_then_cutmix_keep_targets_in_the_shares_of_pixels():
    # Each image is constant at its own level, so the mean pixel is the mean level under the target,
    # class by class.
    levels = torch.tensor([0, 51, 102, 153, 204], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(5, 3, H, W)
    result, targets = run([trial.Mixup(alpha=1.0), trial.Cutmix()], images)
    torch.testing.assert_close(targets.sum(1), torch.ones(5))
    torch.testing.assert_close(result.mean((1, 2, 3)), targets @ floats(levels), atol=1e-5, rtol=0)
    assert (targets > 0).sum(1).max() == 3


def test_only_mixes_change_targets():
    kinds = [isinstance(operation, Mix) for operation in build(ALL, SIDE, CLASSES).operations]
    assert kinds == [name in trial.MIXES for name in NAMES]


def test_sizes_left_open_are_fractions_of_the_image():
    chain = build([trial.Resize(), trial.CenterCrop(), trial.Cutout(), trial.Crop()], 32, 10)
    resize, center, cutout, crop = chain.operations
    assert (resize.size, center.size, cutout.size, crop.padding) == (24, 24, 16, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (trial.CenterCrop(size=48), "center_crop.size must be at most 32, got 48"),
        (trial.Resize(size=224), "resize.size must be at most 32, got 224"),
        (trial.Cutout(size=33), "cutout.size must be at most 32, got 33"),
        (trial.Crop(padding=32), "crop.padding must be at most 31, got 32"),
        (
            trial.GaussianBlur(kernel_size=65),
            "gaussian_blur.kernel_size must be at most 63, got 65",
        ),
        (
            trial.RandomErasing(scale_min=0.5),
            "random_erasing.scale_min must be at most random_erasing.scale_max",
        ),
        (
            trial.RandomErasing(ratio_max=0.2),
            "random_erasing.ratio_min must be at most random_erasing.ratio_max",
        ),
    ],
)
def test_settings_that_do_not_fit_the_image_are_refused(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        build([settings], 32, 10)
    assert all(problem.remedy for problem in caught.value.problems)


def test_the_largest_settings_that_fit_are_taken():
    fitting = [
        trial.CenterCrop(size=20), trial.Resize(size=20), trial.Cutout(size=20),
        trial.Crop(padding=19, mode="reflect"), trial.GaussianBlur(kernel_size=39),
    ]  # fmt: skip
    run(fitting, pictures())


def test_all_that_is_wrong_is_listed_at_once():
    with pytest.raises(UsageError) as caught:
        build([trial.CenterCrop(size=48), trial.Cutout(size=64)], 32, 10)
    assert len(caught.value.problems) == 2


def test_other_channels_than_one_or_three_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        run([trial.Flip()], pictures(channels=2))
