"""Values published in the paper: "Emotion detection from images", Università di Pisa, 2022/23."""

from dataclasses import dataclass

HALF_UNIT = 0.005
"""Largest rounding error of a published test accuracy, which has two decimals."""
TEST_IMAGES = 7178
LARGEST_CLASS = 0.2471
"""Share of the test images that are happy: no network that gives every image the same class has a higher accuracy."""


@dataclass(frozen=True)
class PublishedRun:
    """A network that was trained for the paper.

    Attributes:
        network: name of the network; the digits of a CNN are the numbers of convolutions in its blocks.
        experiment: the file in `conf/experiment` that trains the network.
        model: the file in `conf/model` that describes the network.
        unfreeze: number of the backbone's last convolutions that are trained; None for a CNN from scratch.
        balance: treatment of rare classes, as in the setting `balance`.
        test: accuracy on the test images, 0..1, two decimals.
        train: accuracy on the training images, 0..1, if published.
        val: accuracy on the validation images, 0..1, if published.
    """

    network: str
    experiment: str
    model: str
    unfreeze: int | None
    balance: str
    test: float
    train: float | None = None
    val: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper, or a result that the paper states in its text."""

    title: str
    runs: tuple[PublishedRun, ...]


@dataclass(frozen=True)
class PublishedScores:
    """A classification report on the test images: triples of precision, recall and F1, 0..1, two decimals.

    Attributes:
        run: the run of the network.
        per_class: a triple for each class, in the order of `CLASSES`.
        macro: the mean over the classes.
        weighted: the mean over the classes, weighted by their images.
    """

    run: PublishedRun
    per_class: tuple[tuple[float, float, float], ...]
    macro: tuple[float, float, float]
    weighted: tuple[float, float, float]


def _cnn(
    network: str, model: str, test: float, balance: str = "class_weights", experiment: str = "table1"
) -> PublishedRun:
    return PublishedRun(network, experiment, model, None, balance, test)


def _frozen(network: str, experiment: str, train: float, val: float, test: float) -> PublishedRun:
    balance = "class_weights" if experiment == "table2" else "offline"
    return PublishedRun(f"{network} frozen", experiment, f"{network.lower()}_fe", 0, balance, test, train, val)


def _tuned(unfreeze: int, experiment: str, train: float, val: float, test: float) -> PublishedRun:
    balance = "class_weights" if experiment == "table3" else "offline"
    return PublishedRun(f"VGG16, last {unfreeze} unfrozen", experiment, "vgg16_ft", unfreeze, balance, test, train, val)


TABLES = (
    PublishedTable(
        "Table 1: CNNs from scratch, class weights",
        (
            _cnn("CNN 1-1-1", "cnn_111", 0.55),
            _cnn("CNN 1-1-1-1", "cnn_1111", 0.59),
            _cnn("CNN 1-1-1-1-1", "cnn_11111", 0.58),
            _cnn("CNN 2-1-1-1", "cnn_2111", 0.57),
            _cnn("CNN 2-2-1-1", "cnn", 0.64),
            _cnn("CNN 2-2-2-1", "cnn_2221", 0.62),
            _cnn("CNN 2-2-2-2", "cnn_2222", 0.61),
            _cnn("CNN 3-2-2-2", "cnn_3222", 0.63),
        ),
    ),
    PublishedTable(
        "Table 2: feature extraction, class weights",
        (
            _frozen("VGG16", "table2", 0.3076, 0.3548, 0.38),
            _frozen("VGG19", "table2", 0.2750, 0.3394, 0.20),
            _frozen("ResNet50", "table2", 0.1381, 0.1437, 0.19),
        ),
    ),
    PublishedTable(
        "Table 3: fine-tuning VGG16, class weights",
        (
            _tuned(3, "table3", 0.5487, 0.5310, 0.54),
            _tuned(6, "table3", 0.7071, 0.6021, 0.61),
            _tuned(9, "table3", 0.5039, 0.5061, 0.51),
        ),
    ),
    PublishedTable(
        "Section 4.1: the chosen CNN, oversampling",
        (_cnn("CNN 2-2-1-1", "cnn", 0.65, "offline", "cnn"),),
    ),
    PublishedTable(
        "Table 4: feature extraction, oversampling",
        (
            _frozen("VGG16", "table4", 0.7229, 0.4361, 0.43),
            _frozen("VGG19", "table4", 0.6277, 0.3893, 0.39),
            _frozen("ResNet50", "table4", 0.1424, 0.1428, 0.12),
        ),
    ),
    PublishedTable(
        "Table 5: fine-tuning VGG16, oversampling",
        (
            _tuned(3, "table5", 0.8339, 0.5644, 0.56),
            _tuned(6, "table5", 0.8375, 0.5954, 0.59),
            _tuned(9, "table5", 0.8574, 0.6229, 0.62),
        ),
    ),
)
RUNS = tuple(run for table in TABLES for run in table.runs)

# Sections 3.1.4, 4.1.4, 3.2.2 and 4.2.2 of the paper.
SCORES = (
    PublishedScores(
        TABLES[0].runs[4],
        (
            (0.57, 0.56, 0.56),
            (0.47, 0.76, 0.58),
            (0.58, 0.32, 0.41),
            (0.85, 0.84, 0.85),
            (0.51, 0.75, 0.61),
            (0.54, 0.46, 0.50),
            (0.76, 0.80, 0.78),
        ),
        macro=(0.61, 0.64, 0.61),
        weighted=(0.65, 0.64, 0.63),
    ),
    PublishedScores(
        TABLES[3].runs[0],
        (
            (0.56, 0.58, 0.57),
            (0.84, 0.37, 0.51),
            (0.57, 0.35, 0.43),
            (0.85, 0.87, 0.86),
            (0.56, 0.67, 0.61),
            (0.50, 0.55, 0.53),
            (0.77, 0.77, 0.77),
        ),
        macro=(0.66, 0.59, 0.61),
        weighted=(0.65, 0.65, 0.64),
    ),
    PublishedScores(
        TABLES[2].runs[1],
        (
            (0.47, 0.58, 0.52),
            (0.62, 0.60, 0.61),
            (0.49, 0.39, 0.44),
            (0.81, 0.81, 0.81),
            (0.52, 0.61, 0.56),
            (0.53, 0.43, 0.47),
            (0.73, 0.76, 0.74),
        ),
        macro=(0.60, 0.60, 0.59),
        weighted=(0.61, 0.61, 0.61),
    ),
    PublishedScores(
        TABLES[5].runs[2],
        (
            (0.55, 0.50, 0.53),
            (0.82, 0.45, 0.58),
            (0.48, 0.42, 0.45),
            (0.77, 0.87, 0.82),
            (0.56, 0.64, 0.59),
            (0.51, 0.49, 0.50),
            (0.78, 0.69, 0.73),
        ),
        macro=(0.64, 0.58, 0.60),
        weighted=(0.62, 0.62, 0.62),
    ),
)
