"""``python -m suite.activations RUN``: draw a trained network's activations for one image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from suite import tracking
from suite.console.output import exit_codes
from suite.core.errors import EnvironmentProblem, ProblemsError
from suite.tracking.uri import tracking_uri_of

DEAD_KEY, DEAD_FILE = "dead_channels", "dead_channels.png"
BATCH = 256
NAMED_LAYERS = 40  # on the axis of the plot; of more, only every second, third, ...


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="Image file to show. Default: the first test image of a car, else of anything.",
)
@click.option("--layers", metavar="NAME,NAME", multiple=True,
              help="Layers by name, patterns such as 'layer1.*', or all. Default: eleven, from "
                   "the input to the 15th "
              "convolution.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for the PNG files. Default: activations/RUN.")  # fmt: skip
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A best.pt of this run that MLflow no longer has, e.g. from suite.replay.",
)
@click.option("--no-log", is_flag=True, help="Only write files; leave the run in MLflow as it is.")
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.",
)
def main(
    run: str,
    image: Path | None,
    layers: tuple[str, ...],
    out: Path | None,
    checkpoint: Path | None,
    no_log: bool,
    tracking_uri: str | None,
) -> None:
    """Draw the activations of RUN's best checkpoint for one image, and count dead channels.

    RUN is the id of a trial's run, or models:/SWEEP@champion for a sweep's best. Each layer becomes
    one picture of all its channels; channels whose ReLU is 0 for all test images are crossed out.
    MLflow's page of the run steps through the pictures.

    \b
      python -m suite.activations models:/quickstart@champion
      python -m suite.activations 3f2a... --image car.jpg --layers 'layer1.*,conv1' --no-log
    """
    names = [name.strip() for group in layers for name in group.split(",") if name.strip()]
    with exit_codes():
        for line in activations(
            tracking_uri_of(tracking_uri),
            run,
            image,
            names or None,
            out,
            checkpoint,
            log=not no_log,
        ):
            click.echo(line)


def activations(
    uri: str,
    run: str,
    image: Path | None = None,
    layers: Sequence[str] | None = None,
    out: Path | None = None,
    checkpoint: Path | None = None,
    *,
    log: bool = True,
) -> Iterator[str]:
    """Draw, write and log; yields a line about each step.

    Raises:
        UsageError: no such run, layer or image file.
        EnvironmentProblem: the image cannot be decoded; the run's files, its data set or the store
            are missing.
    """
    import torch

    from suite import data
    from suite.restore import restore
    from suite.visuals import activation_maps

    restored = restore(uri, run)
    trained = restored.trained(checkpoint)
    network, mean, std = trained.network.network, trained.network.mean, trained.network.std
    pixels = data.read_image(image, trained.side) if image else None
    dataset = None
    try:
        dataset = restored.dataset()
    except ProblemsError as error:
        if pixels is None:
            raise
        yield (
            f"dead channels are not counted, the run's images are missing: {error.problems[0].rule}"
        )
    about = image.name if image else ""
    if pixels is None and dataset is not None:
        index = activation_maps.example(dataset.test_labels, dataset.classes)
        pixels = dataset.test_images[index]
        about = f"test image {index} ({dataset.classes[dataset.test_labels[index]]})"
    shown = ((torch.tensor(pixels).float() / 255 - mean) / std)[0]
    # Draw once in small: a wrong layer name is reported before the long count of dead channels.
    activation_maps.draw(network, shown, layers, width=activation_maps.TRACKED_WIDTH)
    dead = None
    if dataset is not None:
        rows = data.split(
            dataset.train_labels, dataset.test_labels, restored.config.data, dataset.classes
        ).test
        parts = (
            dataset.test_images[rows[start : start + BATCH]] for start in range(0, len(rows), BATCH)
        )
        dead = activation_maps.find_dead(
            network, ((torch.from_numpy(part).float() / 255 - mean) / std for part in parts)
        )
    drawn = activation_maps.draw(network, shown, layers, dead=dead)
    folder = out or Path(activation_maps.KEY) / restored.run.run_id
    try:
        files = activation_maps.save(
            folder, drawn, dead, run=restored.run.run_id, epoch=trained.epoch, image=about
        )
        if dead:
            (folder / DEAD_FILE).write_bytes(dead_figure(dead.counts, dead.images))
    except OSError as error:
        raise EnvironmentProblem(
            f"{folder} cannot be written: {error.strerror or error}", remedy="Give another --out."
        ) from error
    yield f"{len(files)} sheets of {about} at epoch {trained.epoch}: {folder}"
    if dead:
        total = sum(channels for _, channels in dead.counts.values())
        silent = sum(number for number, _ in dead.counts.values())
        yield f"{silent} of {total} channels never fire on {dead.images:,} test images"
    if log:
        _log(uri, restored.run.run_id, folder, files, dead.shares if dead else {}, trained.epoch)
        yield f"logged to run {restored.run.run_id}"


def _log(
    uri: str,
    run_id: str,
    folder: Path,
    files: Sequence[str],
    shares: Mapping[str, float],
    epoch: int,
) -> None:
    """Log the maps, the plot if there is one, the facts and the metrics, in place of earlier
    ones.
    """
    from suite.visuals.activation_maps import FACTS_FILE, KEY

    paths = [folder / name for name in files]
    tracking.log_images(
        uri, run_id, KEY, paths, beside=[folder / FACTS_FILE], metrics=shares, step=epoch
    )
    if shares:
        tracking.log_images(uri, run_id, DEAD_KEY, [folder / DEAD_FILE])


def dead_figure(counts: Mapping[str, tuple[int, int]], images: int) -> bytes:
    """A PNG: the share of dead channels of each ReLU, by depth.

    Args:
        counts: layer -> (dead channels, channels), in forward order.
        images: the number of test images.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = [100 * dead / total for dead, total in counts.values()]
    figure = Figure(
        figsize=(max(5.0, min(14.0, 2 + 0.35 * len(counts))), 4.2), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(counts))
    axes.bar(places, shares, color="#0072B2", width=0.8)
    if len(counts) <= NAMED_LAYERS:
        for place, share, (dead, _) in zip(places, shares, counts.values(), strict=True):
            axes.annotate(str(dead), (place, share), ha="center", va="bottom", fontsize=8)
    every = max(1, math.ceil(len(counts) / NAMED_LAYERS))
    axes.set_xticks([*places][::every], [*counts][::every], rotation=90, fontsize=8)
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.set_ylim(0, max(1.0, 1.12 * max(shares, default=0.0)))
    axes.set_ylabel("dead channels, % of the layer")
    axes.set_xlabel("ReLU, from the input to the output")
    axes.set_title(f"Channels that are 0 for all of {images:,} test images", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


if __name__ == "__main__":
    main()
