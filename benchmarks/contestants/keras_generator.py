"""Keras as in the paper: ImageDataGenerator over class folders and `fit` with class weights, without our package.

The program runs in a separate environment (see `environments.keras_python`).
"""

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # type: ignore[import-not-found]
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]
from keras import layers
from measurement import Clock, measurement, run_contestant
from workloads import EPSILON, IMAGE_SIZE, LEARNING_RATE, ROTATION, SHEAR, SHIFT, ZOOM, Job, Workload

CLASSES = 7


class ClockCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls the clock when steps, epochs and validations begin and end."""

    def __init__(self, clock: Clock, images: int) -> None:
        super().__init__()
        self.clock, self.images = clock, images

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.clock.epoch_begins(self.images)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.clock.step_ends()

    def on_test_begin(self, logs: Any = None) -> None:
        self.clock.validation_begins()

    def on_test_end(self, logs: Any = None) -> None:
        self.clock.validation_ends()

    def on_train_end(self, logs: Any = None) -> None:
        self.clock.finish()


def main(job: Job) -> dict[str, Any]:
    """Trains for the epochs of the job and returns the measurement."""
    clock = Clock(job.started)
    keras.utils.set_random_seed(0)
    if job.mixed:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    train, val = _flow(job, "train"), _flow(job, "val")
    model = keras.Sequential([layers.Input((IMAGE_SIZE, IMAGE_SIZE, job.network.channels)), *build_layers(job.network)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON), loss="categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(
        train,
        validation_data=val,
        epochs=job.epochs,
        class_weight=dict(enumerate(_class_weights(train.classes).tolist())),
        callbacks=[ClockCallback(clock, train.samples)],
        verbose=2,
    )
    gpus = tf.config.list_physical_devices("GPU")
    return measurement(
        clock,
        parameters=model.count_params(),
        packages=["keras", "tensorflow" if tf.test.is_built_with_cuda() else "tensorflow-cpu"],
        note=f"ImageDataGenerator.flow_from_directory, on the {'GPU' if gpus else 'CPU'}; pixels scaled to 0..1",
        device_bytes=tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None,
    )


def _flow(job: Job, part: str) -> Any:
    augmentation = {
        "rotation_range": ROTATION,
        "zoom_range": ZOOM,
        "width_shift_range": SHIFT,
        "height_shift_range": SHIFT,
        "shear_range": SHEAR,
        "fill_mode": "nearest",
    }
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, **augmentation if part == "train" else {}
    )
    return generator.flow_from_directory(
        f"{job.data}/{part}",
        target_size=(IMAGE_SIZE, IMAGE_SIZE),
        color_mode="rgb" if job.network.backbone else "grayscale",
        batch_size=job.batch_size,
        shuffle=part == "train",
    )


def _class_weights(labels: Any) -> Any:
    return len(labels) / (CLASSES * np.bincount(labels, minlength=CLASSES))


def build_layers(workload: Workload) -> list[Any]:
    """Returns the layers of the paper's CNN, or of VGG16 with the paper's head."""
    if workload.blocks:
        blocks = [layer for number, depth in enumerate(workload.blocks) for layer in _block(32 * 2**number, depth)]
        hidden = [layers.Dense(256, activation="relu"), layers.BatchNormalization()]
        body = [*blocks, layers.Flatten(), *hidden]
    else:
        body = [_vgg16(workload.unfreeze or 0), layers.Flatten(), layers.Dense(256, activation="relu")]
    return [*body, layers.Dropout(0.5), layers.Dense(CLASSES, activation="softmax", dtype="float32")]


def _block(filters: int, depth: int) -> list[Any]:
    stack: list[Any] = []
    for number in range(depth):
        stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        if number < depth - 1:
            stack.append(layers.BatchNormalization())
    return [*stack, layers.MaxPooling2D(2), layers.BatchNormalization(), layers.Dropout(0.2)]


def _vgg16(unfreeze: int) -> Any:
    """Returns VGG16 without its head, with all but the last `unfreeze` convolutions frozen."""
    vgg = keras.applications.VGG16(weights=None, include_top=False, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3))
    convolutions = [layer for layer in vgg.layers if isinstance(layer, layers.Conv2D)]
    for layer in convolutions[: len(convolutions) - unfreeze]:
        layer.trainable = False
    return vgg


if __name__ == "__main__":
    run_contestant(main)
