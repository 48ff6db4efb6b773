"""What a network is fed: images, or the features of its frozen leading layers.

Features are cached on disk if nothing is augmented, and shared between the trials of a pack if they
see the same augmented images. Either way each number is that of the whole network, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from suite import augment, models
from suite.config import TrialConfig
from suite.core.records import Numerics, stream
from suite.models import Prefix
from suite.system import environment
from suite.training import feature_cache, precision
from suite.training.feature_cache import BatchFeatureCache
from suite.training.images import Images, Samples

MAX_THREADS = 4  # that compute features
THREADED_SIDE = 32  # pixels per side up to which more than one thread computes features
MAX_SHARED_BYTES = 512 * 2**20  # of one epoch's features of augmented images, held for the other
# trials of a pack. A node runs a pack in each slot; 50,000 images x 256 channels of 2 x 2 pixels in
# fp32 are 195 MiB.


@dataclass(frozen=True, eq=False)
class Inputs:
    """What each step and each evaluation feeds to the network.

    Attributes:
        images: the images of the trial.
        seed: the trial's.
        numerics: of the forward pass through the prefix.
        model: the whole network.
        prefix: its frozen leading layers that are left out of training; empty if all are run.
        parts: the parts of the split, with features in place of images if there is a prefix.
            ``train`` is missing if its images are augmented in each step.
        batch_cache: shares features of augmented batches with the other trials of a pack.
    """

    images: Images
    seed: int
    numerics: Numerics
    model: nn.Module
    prefix: Prefix = Prefix()  # noqa: RUF009 - frozen
    parts: dict[str, Samples] = field(default_factory=dict)
    batch_cache: BatchFeatureCache | None = None

    def train_batch(self, positions: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The images (B, C, H, W) or features of one training step, and its targets."""
        if "train" in self.parts:
            return self.parts["train"].take(positions)
        if self.batch_cache is not None:
            return self.batch_cache.batch(
                epoch, step, lambda: self._augmented(positions, epoch, step)
            )
        return self._augmented(positions, epoch, step)

    def eval_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Images or features as the network takes them, and labels, of a part in its order."""
        for images, labels in self.parts[part].eval_batches():
            yield images if self.prefix.layers else self.images.normalise.from_bytes(images), labels

    def after_prefix(self, model: nn.Module) -> nn.Module:
        """The layers of ``model`` that take these inputs, in the mode that it is in."""
        if not self.prefix.layers:
            return model
        return models.after_prefix(model, self.prefix.layers).train(model.training)

    def describe_prefix(self) -> str | None:
        """How the frozen leading layers are run; None if no layer is frozen."""
        if not self.prefix.layers:
            return f"run each time: {self.prefix.why_not}" if self.prefix.why_not else None
        cached = "all images" if "train" in self.parts else "validation and test images"
        shared = ", augmented ones shared in the pack" if self.batch_cache is not None else ""
        return f"{len(self.prefix.layers)} layers, features kept of {cached}{shared}"

    def _augmented(self, positions: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(stream(self.seed, "augment", epoch, step))
        images, targets = self.images.augment(*self.images.train.take(positions), generator)
        images = self.images.normalise(images)
        if not self.prefix.layers:
            return images, targets
        with precision.autocast(self.numerics):
            return models.run_prefix(self.model, self.prefix.layers, images), targets


def prepare_inputs(
    images: Images,
    model: nn.Module,
    config: TrialConfig,
    numerics: Numerics,
    *,
    seed: int,
    cache: Path,
    shared_features: dict[str, BatchFeatureCache] | None,
    heartbeat: Callable[[], None],
) -> Inputs:
    """Cache or share the features of the frozen leading layers if that changes no number.

    Args:
        cache: the folder of cached features.
        shared_features: caches of augmented batches by what determines them; None = no pack.
        heartbeat: called after each batch of features.
    """
    whole = Inputs(images, seed, numerics, model, parts={"val": images.val, "test": images.test})
    layers = models.frozen_prefix(model)
    if not layers:
        return whole
    if config.train.cache_prefix == "off":
        return replace(whole, prefix=Prefix(why_not="train.cache_prefix is off"))
    cached = dict(whole.parts)
    if not images.augment.operations:
        cached["train"] = images.train
    key = feature_cache.key(model, layers, numerics, _dependencies(images, cached))
    maker = _FeatureMaker(images, model, numerics, heartbeat)
    features = feature_cache.load_or_make(cache, key, lambda: maker.make(cached))
    if not features.prefix.layers:
        return replace(whole, prefix=features.prefix)
    parts = whole.parts | {
        name: _in_place_of_images(tensor, cached[name]) for name, tensor in features.parts.items()
    }
    inputs = replace(whole, prefix=features.prefix, parts=parts)
    fits = len(images.train) * features.prefix.bytes <= MAX_SHARED_BYTES
    if shared_features is None or "train" in cached or not fits:
        return inputs
    batches = _batches_key(key, images, config, seed)
    return replace(inputs, batch_cache=shared_features.setdefault(batches, BatchFeatureCache()))


def _dependencies(images: Images, parts: Mapping[str, Samples]) -> dict[str, object]:
    """What features depend on besides the prefix and the machine; JSON types."""
    normalise = images.normalise
    return {
        "data": images.digest,
        "statistics": [normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()],
        "rows": {name: _digest(samples.index) for name, samples in parts.items()},
        "batches": _batch_sizes(images),
    }


def _batches_key(features_key: str, images: Images, config: TrialConfig, seed: int) -> str:
    """What determines the features of augmented batches."""
    pipeline = [settings.model_dump(mode="json") for settings in config.pipeline()]
    stops = [batch.stop for batch in images.batches]
    return json.dumps([features_key, seed, pipeline, _digest(images.train.index), stops])


def _batch_sizes(images: Images) -> list[int]:
    """Numbers of images that are run together, in training, in evaluation and for the cache."""
    evaluated = [
        len(rows)
        for samples in (images.train, images.val, images.test)
        for rows in samples.eval_rows()
    ]
    return sorted({count for count in (*images.batch_sizes(), *evaluated) if count})


def _in_place_of_images(features: Tensor, samples: Samples) -> Samples:
    device = samples.index.device
    positions = torch.arange(len(samples), device=device)
    return Samples(features.to(device), samples.labels[samples.index], positions)


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class _FeatureMaker:
    """Examines a frozen prefix, and computes its features."""

    images: Images
    model: nn.Module
    numerics: Numerics
    heartbeat: Callable[[], None]

    def make(self, parts: Mapping[str, Samples]) -> tuple[Prefix, dict[str, Tensor]]:
        """The prefix, and the features of ``parts`` if they can be cached."""
        prefix = self._examine()
        why_not = feature_cache.too_large(sum(map(len, parts.values())), prefix)
        if why_not:
            return Prefix(why_not=why_not), {}
        if not prefix.layers:
            return prefix, {}
        self.model.eval()
        return prefix, {
            name: self._features(samples, prefix, is_training=name == "train")
            for name, samples in parts.items()
            if len(samples)
        }

    def _examine(self) -> Prefix:
        train, sizes = self.images.train, _batch_sizes(self.images)
        with torch.inference_mode():
            rows = train.index[torch.arange(max(sizes)) % len(train)]
            images = self.images.normalise.from_bytes(train.images[rows])
            around = partial(precision.autocast, self.numerics)
            return models.examine(self.model, images, sizes, around)

    def _features(self, samples: Samples, prefix: Prefix, *, is_training: bool) -> Tensor:
        """Features (N, ...) of a part in its order, on the CPU."""
        # The pipeline of training turns bytes into fractions in a way that rounds differently.
        normalise = self._as_training if is_training else self.images.normalise.from_bytes

        def features(rows: Tensor) -> Tensor:
            images = normalise(feature_cache.take(samples.images, rows))
            with precision.autocast(self.numerics):
                output = models.run_prefix(self.model, prefix.layers, images)
            self.heartbeat()
            return output.cpu()

        # As many threads for each operation as in training: the same arithmetic, the same numbers.
        same_arithmetic = partial(torch.set_num_threads, self.numerics.threads)
        with ThreadPoolExecutor(self._feature_threads(), initializer=same_arithmetic) as pool:
            return feature_cache.join(list(pool.map(features, samples.eval_rows())))

    def _feature_threads(self) -> int:
        """Threads that compute features: the node's other workers mostly wait for them.

        Each holds the maps of its own batch, 190 MiB in ResNet-18 with the CIFAR stem at 32 pixels
        and 760 at 64, so larger images get one thread.
        """
        if self.numerics.device != "cpu" or self.images.side > THREADED_SIDE:
            return 1
        return max(1, min(MAX_THREADS, environment.cores() // self.numerics.threads))

    def _as_training(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32, as training without augmentation feeds them."""
        return self.images.normalise(augment.to_float(images))
