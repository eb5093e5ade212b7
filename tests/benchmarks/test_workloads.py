from dataclasses import replace

import pytest
from contestants.limit import batch_sizes
from contestants.ours import compose_settings
from contestants.pytorch import build
from workloads import EPSILON, IMAGE_SIZE, LEARNING_RATE, ROTATION, SHEAR, SHIFT, WORKLOADS, ZOOM, Job

from emotion.data.augment import RandomAffine
from emotion.settings import NetworkSettings
from emotion.training.optimizer import KERAS_EPSILON

AFFINE = ROTATION, ZOOM, SHIFT, SHEAR
IMAGE_SETTINGS = ("flip", "brightness", "contrast", "erase", "mixup", "cutmix", "plain_epochs", "augmentation")
LOSS_SETTINGS = ("label_smoothing", "focal_gamma", "logit_adjustment", "loss")
STEP_SETTINGS = ("weight_decay", "sam_rho", "ema_decay", "warmup_epochs")
JOB = Job("cnn", "faces", batch_size=64, epochs=3, precision="32-true", workers=0, feature_views=0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_match_the_configuration(name: str) -> None:
    settings = compose_settings(replace(JOB, workload=name))
    values = settings.flat()
    assert settings.network == NetworkSettings.of(WORKLOADS[name].network_settings())
    assert (values["optimizer"], values["lr"]) == ("adam", LEARNING_RATE)
    assert tuple(values[key] for key in ("augment", "rotation", "zoom", "shift", "shear")) == (True, *AFFINE)
    assert not any(values[key] for key in (*IMAGE_SETTINGS, *LOSS_SETTINGS, *STEP_SETTINGS))
    assert values["balance"] == "class_weights"


@pytest.mark.parametrize(("name", "trainable"), [("cnn", 1_027_559), ("vgg16_ft", 13_112_327), ("vgg16_fe", 133_127)])
def test_parameters_are_those_of_the_network(name: str, trainable: int) -> None:
    count = build(WORKLOADS[name]).count_parameters()
    assert count.total == WORKLOADS[name].parameters
    assert count.trainable == trainable


def test_constants_match_the_project() -> None:
    assert RandomAffine() == RandomAffine(*AFFINE)
    assert EPSILON == KERAS_EPSILON
    assert IMAGE_SIZE == 48


def test_a_job_survives_the_command_line() -> None:
    job = replace(JOB, data='a "quoted" folder', script="train.py", started=1.5)
    assert Job.from_json(job.to_json()) == job


def test_batches_of_the_limit_cover_all_images() -> None:
    assert batch_sizes(128, 64) == [64, 64]
    assert batch_sizes(130, 64) == [64, 64, 2]
    assert batch_sizes(16, 64) == [16]
