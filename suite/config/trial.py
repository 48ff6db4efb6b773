"""What determines the result of one trial: data, model, augmentation, training.

Every field says its meaning, unit, default and interaction; ``docs/settings.md`` and the JSON
schema for editors are generated from these models. All are frozen; unknown keys are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from suite.config.evaluation import EvaluateTest

# Strict: text such as "0.1" or `yes` is refused instead of converted; whole numbers are taken for
# fractions.
FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Rate = Annotated[FiniteFloat, Field(ge=0.0, lt=1.0)]
Probability = Annotated[FiniteFloat, Field(ge=0.0, le=1.0)]
Positive = Annotated[FiniteFloat, Field(gt=0.0)]
NonNegative = Annotated[FiniteFloat, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
# A number of images (an int from 1) or a fraction of the images that are there (a float below 1).
Size = Annotated[Count | Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)], Field()]


LastBatch = Literal["drop", "spread", "keep"]
DEFAULT_LAST_BATCH: LastBatch = "drop"
DEFAULT_VAL_SIZE = 0.1


def image_count(size: float | None, available: int) -> int:
    """The number of images that a size means; a fraction is rounded to the nearest, at least
    one.
    """
    if size is None:
        return available
    return size if isinstance(size, int) else max(1, int(size * available + 0.5))


class Frozen(BaseModel):
    """Base of all models of a sweep file: frozen, no unknown keys, no silent conversions of text
    to numbers.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


class DataConfig(Frozen):
    """Which images, and how they are split."""

    name: str = "cifar10"
    """`cifar10`, `cifar100`, `svhn`, `stl10`, `fashion_mnist` (downloaded by torchvision into
    `root`), `folder` (image folders `train/<class>/*` and `test/<class>/*` under `root`), `digits`
    (scikit-learn's, nothing to download), or `module:function`, your own loader.
    """
    root: str | None = None
    """Folder of the images. Relative to the sweep file. Default: the suite's cache folder for named
    data sets; required for `folder`. Not part of a trial's identity: the digest of the images is.
    """
    train_size: Size | None = None
    """Training images, drawn stratified by class from what validation leaves (without `val_size`:
    from nine tenths of the training images): a number, or a fraction of it (rounded). Default: all.
    """
    val_size: Size | Literal[0] | None = None
    """Validation images, taken first, stratified, from the training images: a number or a fraction.
    0 = none; then `metric` must be a training figure with `strategy: last`. Default: a tenth of the
    training images; if `train_size` is given, a ninth of it (a tenth of both together), from that
    tenth, with at least one image of each class. Give it if arms with different `train_size` must
    choose their epochs by the same images.
    """
    test_size: Size | None = None
    """Test images, drawn stratified: a number or a fraction. Default: all."""
    image_size: Annotated[int, Field(ge=8, le=1024, strict=True)] | None = None
    """Side of the square images in pixels, resized when decoded. Default: the data set's own side
    (32 for CIFAR, SVHN and digits, 28 for Fashion-MNIST, 96 for STL-10; for `folder`: the images'
    own where all are squares of one size, else 64).
    """
    split_seed: Whole = 0
    """Seed of the split, the same for every trial whatever its own seed, so all arms are judged
    on the same images.
    """

    def reserved_images(self, available: int) -> int:
        """Of ``available`` training images, those that no ``train_size`` trains on: the largest
        validation split.
        """
        return image_count(DEFAULT_VAL_SIZE if self.val_size is None else self.val_size, available)

    def training_images(self, available: int) -> int:
        """Of ``available`` training images, those that are trained on."""
        return image_count(self.train_size, available - self.reserved_images(available))


class HeadConfig(Frozen):
    """The classifier that replaces a network's last layer."""

    hidden: tuple[Count, ...] = ()
    """Widths of hidden layers, in units, each followed by ReLU and dropout. `[]` = one linear
    layer. Config1 of the ResNet-18 study is `[128]` with dropout 0.3; Config2 `[256, 128, 128, 64,
    32]`.
    """
    dropout: Rate | tuple[Rate, ...] = 0.0
    """Dropout rate after each hidden layer: one rate for all, or a list as long as `hidden`. A rate
    of 0 adds no layer.
    """

    @model_validator(mode="after")
    def _as_long_as_hidden(self) -> HeadConfig:
        if isinstance(self.dropout, tuple) and len(self.dropout) != len(self.hidden):
            raise ValueError(
                "head.dropout must be one rate or as many as head.hidden, got "
                f"{len(self.dropout)} rates "
                f"for {len(self.hidden)} hidden layers"
            )
        return self

    def rates(self) -> tuple[float, ...]:
        """The dropout rate after each hidden layer."""
        return (
            self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * len(self.hidden)
        )


class DropoutConfig(Frozen):
    """Dropout between the stages of a network."""

    rate: Rate = 0.0
    """Fraction of units set to zero while training. 0 = off."""
    after: tuple[str, ...] = ()
    """Names of the layers (as `named_modules` gives them, e.g. `layer1`, `layer4.1`) whose output
    is dropped out. Needed when `rate` is above 0.
    """


class ModelConfig(Frozen):
    """The network."""

    arch: str = "resnet18_cifar"
    """`resnet18_cifar`, `resnet34_cifar`, `plain18_cifar`, `plain34_cifar` (3x3 stem for 32 px),
    `resnet20/32/44/56/110` and `plain20/32/44/56/110` (He et al. 2015, section 4.2), any
    torchvision classifier by its name (`resnet18`, `mobilenet_v3_small`, ...), or
    `module:function`, your own network.
    """
    weights: str = "none"
    """Start: `none` (random), `imagenet` (torchvision's IMAGENET1K_V1, downloaded), a file of a
    state dict (relative to the sweep file), `runs:/ID/artifact` or `models:/NAME@alias` from
    MLflow. The last layer is never taken over when its shape differs.
    """
    imagenet_file: str | None = None
    """A local file to use where `weights` is `imagenet`, for machines that cannot download
    (relative to the sweep file, or to the working folder on the command line:
    `model.imagenet_file=resnet18.pth`). Not part of a trial's identity: the digest of the weights
    is.
    """
    freeze_depth: Whole = 0
    """Leading top-level children of the network (those of `features` where the body is called so)
    whose weights are frozen. For ResNet-18: conv1=1, bn1=2, relu=3, maxpool=4, layer1=5, ...,
    layer4=8.
    """
    freeze_batchnorm: StrictBool = False
    """Whether BatchNorm in the frozen part also keeps its statistics. false = frozen weights,
    moving statistics, as in the ResNet-18 study; true makes the frozen part deterministic.
    """
    head: HeadConfig | None = None
    """The classifier put in place of the last layer. Default: one linear layer."""
    dropout: DropoutConfig = DropoutConfig()
    """Dropout between stages."""

    @model_validator(mode="after")
    def _dropout_has_a_place(self) -> ModelConfig:
        if self.dropout.rate > 0 and not self.dropout.after:
            raise ValueError(
                "dropout.after must name at least one layer when dropout.rate is above 0"
            )
        return self


class TrainConfig(Frozen):
    """How the network is trained."""

    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 128
    """Images per optimizer step. Fewer if the training set is smaller, or by `last_batch`."""
    last_batch: LastBatch = DEFAULT_LAST_BATCH
    """What happens to the images that do not fill a batch at the end of an epoch. `drop`: they are
    left out, other images in each epoch (PyTorch's `DataLoader(drop_last=True)`, as timm and
    torchvision's references train). `spread`: batches of equal size to within one image, none above
    `batch_size` (5,000 images at 128: 40 batches of 125). `keep`: a smaller last batch (the default
    of `DataLoader`). A small last batch is a full step on a noisy gradient and on noisy BatchNorm
    statistics: docs/decisions/0016-last-batch-and-evaluation.md. A training set smaller than a
    batch is one batch in every mode. A last batch of one image, which BatchNorm refuses, joins the
    batch before.
    """
    evaluate_test: EvaluateTest = "auto"
    """When the test images are evaluated. `every`: at each epoch, for curves. `best`: at each epoch
    that is the best so far. `last`: once, at the end, with the network of the epoch that speaks for
    the trial; its figures are the same bit for bit. `auto`: `every` if evaluation then takes at
    most a fifth of an epoch (a forward pass counts as a third of a training step), else `last`;
    `--dry-run` says which. With `last`, a trial that is stopped early has no test figures. Not part
    of a trial's identity: `--force` runs finished trials again.
    """
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """`sgd`, `adam`, `adamw`, as in `torch.optim`."""
    lr: Positive = 0.05
    """Peak learning rate, per step, of the head; `backbone_lr_scale` scales it for the rest."""
    momentum: Rate = 0.9
    """Momentum of `sgd`; beta1 of `adam` and `adamw`."""
    nesterov: StrictBool = False
    """Nesterov momentum for `sgd`, which needs `momentum` above 0. Default: plain momentum, as in
    `torch.optim.SGD`. `adam` and `adamw` ignore it.
    """
    weight_decay: NonNegative = 5e-4
    """L2 penalty (`sgd`, `adam`) or decoupled decay (`adamw`) on the parameters that `decay` names.
    torch's own defaults are 0, 0 and 0.01.
    """
    decay: Literal["all", "weights"] = "all"
    """Which parameters `weight_decay` acts on. `all`: every trainable one, as `torch.optim` does
    when it is given `model.parameters()`. `weights`: kernels and matrices only, no biases and no
    BatchNorm.
    """
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Learning rate over the steps: `constant`; `step` (times 0.1 after 1/2 and 3/4 of the epochs);
    `cosine` (to 0 at the end); `one_cycle` (linear up over the first 30 %, cosine down to 0).
    """
    warmup_epochs: NonNegative = 0.0
    """Epochs (fractions allowed) over which the rate first rises linearly from 0. Must be below
    `epochs`; not with `one_cycle`, which has its own.
    """
    label_smoothing: Rate = 0.0
    """Mass spread over the other classes in the training loss.

    Reported losses are those without smoothing.
    """
    grad_clip: Positive | None = None
    """Largest norm of the gradient of all weights together. Default: no clipping."""
    ema: Rate | None = None
    """Decay per step of an exponential moving average of the weights, used for validation and test.

    Default: none.
    """
    patience: Count | None = None
    """Stop a trial after so many epochs without a better `metric`.

    Counts as complete. Default: never.
    """
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs the loss by the inverse frequency of the classes in the training images."""
    backbone_lr_scale: NonNegative = 1.0
    """Learning rate of all layers but the head, as a multiple of `lr`. 0 trains the head alone,
    with BatchNorm statistics still moving.
    """
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; weights stay fp32. `auto` = the faster one,
    measured once per sweep. Not part of a trial's identity, but recorded; trials of different
    numerics are never tested against each other.
    """
    cache_prefix: Literal["auto", "off"] = "auto"
    """Whether the features of frozen leading layers are computed once and shared by all trials of a
    node. `auto` = where they are the same bit for bit: with `model.freeze_batchnorm: true` and no
    dropout among them. Without random augmentation training uses them too, with it validation and
    test alone. Changes no result, so it is not part of a trial's identity.
    """

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> TrainConfig:
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("train.nesterov: true needs train.momentum above 0, got 0")
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainConfig:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"train.warmup_epochs must be below train.epochs, got {self.warmup_epochs:g} and "
                f"{self.epochs}"
            )
        if self.warmup_epochs > 0 and self.schedule == "one_cycle":
            raise ValueError(
                "train.warmup_epochs must be 0 with schedule one_cycle, which has its own warm-up"
            )
        return self


# ---- augmentations: one model per type; `type` tells them apart ----------------------------------


class Rotation(Frozen):
    """Rotate about the centre, nearest pixel, black outside (torchvision RandomRotation)."""

    type: Literal["rotation"] = "rotation"
    degrees: Annotated[FiniteFloat, Field(ge=0, le=180)] = 15.0
    """The angle is uniform in [-degrees, degrees]."""


class Flip(Frozen):
    """Mirror left and right (torchvision RandomHorizontalFlip)."""

    type: Literal["flip"] = "flip"
    p: Probability = 0.5
    """Probability per image."""


class ColorJitter(Frozen):
    """Brightness, contrast, saturation and hue in random order (torchvision ColorJitter)."""

    type: Literal["color_jitter"] = "color_jitter"
    brightness: NonNegative = 0.4
    """Factor uniform in [max(0, 1 - x), 1 + x]."""
    contrast: NonNegative = 0.4
    """Factor uniform in [max(0, 1 - x), 1 + x]."""
    saturation: NonNegative = 0.4
    """Factor uniform in [max(0, 1 - x), 1 + x]."""
    hue: Annotated[FiniteFloat, Field(ge=0, le=0.5)] = 0.1
    """Shift uniform in [-x, x] turns of the colour circle."""


class RandomResizedCrop(Frozen):
    """Crop a random area and aspect ratio, resize to `image_size`, bilinear (torchvision
    RandomResizedCrop).
    """

    type: Literal["random_resized_crop"] = "random_resized_crop"
    scale_min: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.35
    """Smallest area, as a fraction of the image. torchvision's own default, 0.08, is meant for
    224 px.
    """
    scale_max: Annotated[FiniteFloat, Field(gt=0, le=1)] = 1.0
    """Largest area, as a fraction of the image."""
    ratio_min: Positive = 0.75
    """Smallest width / height; drawn log-uniform."""
    ratio_max: Positive = 4 / 3
    """Largest width / height."""

    @model_validator(mode="after")
    def _ordered(self) -> RandomResizedCrop:
        if self.scale_min > self.scale_max or self.ratio_min > self.ratio_max:
            raise ValueError("scale_min <= scale_max and ratio_min <= ratio_max must hold")
        return self


class Resize(Frozen):
    """Resize to `size` and back to `image_size`, bilinear, antialiased: detail is lost
    (torchvision Resize).
    """

    type: Literal["resize"] = "resize"
    size: Count | None = None
    """Side in pixels of the image in between. Default: three quarters of `image_size`."""


class CenterCrop(Frozen):
    """Cut out the centre and enlarge it to `image_size` (torchvision CenterCrop, then Resize)."""

    type: Literal["center_crop"] = "center_crop"
    size: Count | None = None
    """Side in pixels of what is cut out.

    Default: three quarters of `image_size`. At most `image_size`.
    """


class Cutout(Frozen):
    """Mask a square at a random centre, clipped at the border (DeVries and Taylor 2017, arXiv
    1708.04552).
    """

    type: Literal["cutout"] = "cutout"
    size: Count | None = None
    """Side of the square in pixels.

    Default: half of `image_size` (16 for CIFAR-10, as in the paper).
    """


class GaussianBlur(Frozen):
    """Blur with a Gaussian of random width (torchvision GaussianBlur)."""

    type: Literal["gaussian_blur"] = "gaussian_blur"
    kernel_size: Count = 3
    """Side of the kernel in pixels, odd."""
    sigma_min: Positive = 0.1
    """Smallest standard deviation in pixels; drawn uniform."""
    sigma_max: Positive = 2.0
    """Largest standard deviation in pixels."""

    @model_validator(mode="after")
    def _odd_and_ordered(self) -> GaussianBlur:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"gaussian_blur.kernel_size must be odd, got {self.kernel_size}")
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min <= sigma_max must hold, got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        return self


class SaltAndPepper(Frozen):
    """Set random pixels to white or black, all channels together."""

    type: Literal["salt_and_pepper"] = "salt_and_pepper"
    amount: Probability = 0.05
    """Fraction of pixels changed, half of them white."""


class Crop(Frozen):
    """Pad and crop back at a random place (torchvision RandomCrop with padding; He et al. 2015)."""

    type: Literal["crop"] = "crop"
    padding: Count | None = None
    """Pixels added on each side. Default: an eighth of `image_size` (4 for CIFAR-10)."""
    mode: Literal["constant", "reflect"] = "constant"
    """What the padding holds: black, or the mirrored image."""


class RandomErasing(Frozen):
    """Erase a random rectangle (torchvision RandomErasing; Zhong et al. 2017)."""

    type: Literal["random_erasing"] = "random_erasing"
    p: Probability = 0.5
    """Probability per image."""
    scale_min: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.02
    """Smallest erased area, as a fraction of the image."""
    scale_max: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.33
    """Largest erased area."""
    ratio_min: Positive = 0.3
    """Smallest height / width; drawn log-uniform."""
    ratio_max: Positive = 3.3
    """Largest height / width."""


class Mixup(Frozen):
    """Blend each image and its label with another of the batch (Zhang et al. 2017, arXiv
    1710.09412).
    """

    type: Literal["mixup"] = "mixup"
    alpha: Positive = 0.2
    """The share is Beta(alpha, alpha), drawn per image."""


class Cutmix(Frozen):
    """Paste a rectangle of another image of the batch, labels in proportion (Yun et al. 2019,
    arXiv 1905.04899).
    """

    type: Literal["cutmix"] = "cutmix"
    alpha: Positive = 1.0
    """The kept area is Beta(alpha, alpha), drawn per image."""


AUGMENTATIONS: dict[str, type[Frozen]] = {
    "rotation": Rotation,
    "flip": Flip,
    "color_jitter": ColorJitter,
    "random_resized_crop": RandomResizedCrop,
    "resize": Resize,
    "center_crop": CenterCrop,
    "cutout": Cutout,
    "gaussian_blur": GaussianBlur,
    "salt_and_pepper": SaltAndPepper,
    "crop": Crop,
    "random_erasing": RandomErasing,
    "mixup": Mixup,
    "cutmix": Cutmix,
}
"""Built-in name -> its settings model. A name used bare in ``augment`` has these defaults."""

MIXES = ("mixup", "cutmix")
"""Types that change labels too; applied last."""

Augmentation = Annotated[
    Rotation
    | Flip
    | ColorJitter
    | RandomResizedCrop
    | Resize
    | CenterCrop
    | Cutout
    | GaussianBlur
    | SaltAndPepper
    | Crop
    | RandomErasing
    | Mixup
    | Cutmix,
    Field(discriminator="type"),
]


class TrialConfig(Frozen):
    """All that determines the result of one trial, besides its seed."""

    data: DataConfig = DataConfig()
    """Which images, and how they are split."""
    model: ModelConfig = ModelConfig()
    """The network."""
    augment: str = "none"
    """What is done to training images: `none`, or names joined by `+`, applied in the written order
    with mixup and cutmix last: `rotation flip color_jitter random_resized_crop resize center_crop
    cutout gaussian_blur salt_and_pepper crop random_erasing mixup cutmix`, and names defined under
    the sweep's `augmentations`.
    """
    train: TrainConfig = TrainConfig()
    """How the network is trained."""
    augmentations: dict[str, Augmentation] = {}
    """Filled in by the suite: the settings of each name in `augment`.

    In a sweep file this stands at the top level.
    """

    def pipeline(self) -> tuple[Any, ...]:
        """The settings of each augmentation in the order of application: as written, label mixes
        last.
        """
        names = [] if self.augment == "none" else self.augment.split("+")
        chosen = [self.augmentations.get(name) or AUGMENTATIONS[name]() for name in names]
        return tuple(sorted(chosen, key=lambda settings: settings.type in MIXES))
