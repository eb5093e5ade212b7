"""What every contestant trains: the networks, and the job that one process is given.

Needs Python alone, since Keras runs in an environment without PyTorch.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

IMAGE_SIZE = 48
LEARNING_RATE = 1e-3
EPSILON = 1e-7
"""Of Adam: Keras's default, which the report used."""
ROTATION, ZOOM, SHIFT, SHEAR = 10.0, 0.15, 0.1, 0.15
"""The report's augmentation in the terms of Keras's ImageDataGenerator: degrees, shares, shares, degrees."""


@dataclass(frozen=True)
class Workload:
    """A network and how much of it trains.

    Attributes:
        model: `model=` of `train.py`.
        images: training images of an epoch unless the command line says otherwise.
        parameters: values of the network as Keras counts them; a contestant that has another number does not count.
        backbone: `vgg16`, or None for the report's CNN.
        blocks: convolutions of each block of the CNN.
        unfreeze: last convolutions of the backbone that train.
        features: whether ours trains on features of the frozen part, computed once.
    """

    model: str
    images: int
    parameters: int
    backbone: str | None = None
    blocks: tuple[int, ...] | None = None
    unfreeze: int | None = None
    features: bool = False

    @property
    def channels(self) -> int:
        """Colour channels of what the network computes on."""
        return 3 if self.backbone else 1

    def network_settings(self) -> dict[str, Any]:
        """Returns the arguments of `emotion.models.registry.build_network`."""
        return {
            "family": "torchvision" if self.backbone else "cnn",
            "backbone": self.backbone,
            "blocks": self.blocks,
            "unfreeze": self.unfreeze,
            "image_size": IMAGE_SIZE,
            "normalize": "imagenet" if self.backbone else "unit",
        }


WORKLOADS = {
    "cnn": Workload("cnn", images=3840, parameters=1_029_223, blocks=(2, 2, 1, 1)),
    "vgg16_ft": Workload("vgg16_ft", images=1280, parameters=14_847_815, backbone="vgg16", unfreeze=6),
    "vgg16_fe": Workload("vgg16_fe", images=2560, parameters=14_847_815, backbone="vgg16", unfreeze=0, features=True),
}


@dataclass(frozen=True)
class Job:
    """What one process is asked to do.

    Attributes:
        workload: a key of `WORKLOADS`.
        data: a folder with `train/<class>/*.jpg` and `val/<class>/*.jpg`.
        batch_size: images of a step.
        epochs: how many to train, the warm-up among them.
        precision: `32-true` or `bf16-mixed`.
        workers: processes that load images, for contestants that have such.
        feature_views: augmented views of each image, for ours on features.
        script: path of the script that the contestant runs, if it runs one of others.
        started: when the process was started, seconds since 1970.
    """

    workload: str
    data: str
    batch_size: int
    epochs: int
    precision: str
    workers: int
    feature_views: int
    script: str = ""
    started: float = 0.0

    @property
    def network(self) -> Workload:
        """What is trained."""
        return WORKLOADS[self.workload]

    @property
    def mixed(self) -> bool:
        """Whether bfloat16 is used where it suffices."""
        return self.precision == "bf16-mixed"

    def to_json(self) -> str:
        """Returns the job as the argument of a contestant's program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))
