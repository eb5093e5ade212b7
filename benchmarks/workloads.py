"""Workloads: the networks that every contestant trains, and the job that a process gets.

The module needs only Python, since Keras runs in an environment without PyTorch.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

IMAGE_SIZE = 48
LEARNING_RATE = 1e-3
EPSILON = 1e-7
"""Epsilon of Adam: Keras's default, which the paper used."""
ROTATION, ZOOM, SHIFT, SHEAR = 10.0, 0.15, 0.1, 0.15
"""The paper's augmentation as arguments of Keras's ImageDataGenerator: degrees, share, share of the size, degrees."""


@dataclass(frozen=True)
class Workload:
    """A network and its trained part.

    Attributes:
        model: value of the setting `model`.
        images: default number of training images of an epoch.
        parameters: number of parameters as Keras counts them; a contestant with another number has failed.
        backbone: `vgg16`, or None for the paper's CNN.
        blocks: numbers of convolutions in the blocks of the CNN.
        unfreeze: number of the backbone's last convolutions that are trained.
        features: whether ours trains on features of the frozen part, which are computed once.
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
        """Number of colour channels of the network's input."""
        return 3 if self.backbone else 1

    def network_settings(self) -> dict[str, Any]:
        """Returns the values of `emotion.settings.NetworkSettings`."""
        return {
            "family": "torchvision" if self.backbone else "cnn",
            "backbone": self.backbone,
            "blocks": list(self.blocks) if self.blocks else None,
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
    """The task of one process.

    Attributes:
        workload: a key of `WORKLOADS`.
        data: a folder with `train/<class>/*.jpg` and `val/<class>/*.jpg`.
        batch_size: number of images of a step.
        epochs: number of epochs, including the warm-up.
        precision: `32-true` or `bf16-mixed`.
        workers: number of processes that load images, for contestants with a DataLoader.
        feature_views: number of augmented views of each image whose features ours keeps.
        script: path of the external script that the contestant runs; empty for none.
        started: start time of the process, seconds since 1970.
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
        """The network to train."""
        return WORKLOADS[self.workload]

    @property
    def mixed(self) -> bool:
        """Whether training uses mixed precision with bfloat16."""
        return self.precision == "bf16-mixed"

    def to_json(self) -> str:
        """Returns the job as JSON, the argument of a contestant's program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Returns the job that `to_json` wrote."""
        return cls(**json.loads(text))
