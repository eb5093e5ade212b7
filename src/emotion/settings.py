"""The settings of a run: names, types, legal ranges, defaults and meanings, each declared once."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from emotion.declarations import CONTROL, FIXED, NEW, SOURCE, Group, marks_of, options_of, setting, yaml_lines
from emotion.errors import UserError
from emotion.models.onnx import MAX_SIDE, ViewsName

SourceName = Literal["fer2013", "fer2013_csv", "folder", "table", "synthetic"]
OnBadImage = Literal["error", "skip"]
SplitName = Literal["report", "official", "clean", "random", "test_only"]
BalanceName = Literal["none", "class_weights", "weighted_sampler", "offline"]
Family = Literal["cnn", "resnet", "torchvision", "timm", "face", "custom"]
NormalizeName = Literal["imagenet", "unit", "keras_unit", "caffe"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["none", "plateau", "cosine"]
MonitorName = Literal["val/loss", "val/acc", "val/f1_macro"]
Unfreeze = Annotated[int, Field(ge=0)] | Literal["all"]

OWN_DATA = ("folder", "table")
"""Values of `data` that mean images of one's own, which `data_dir` names."""
FER_SIZE = 48
"""Height and width of the images of FER2013, pixels."""

# Numbers keep the type that they are written in (1 or 1.0), since the hash of a run depends on it.
Positive = Annotated[int | float, Field(gt=0, lt=math.inf)]
AtLeastZero = Annotated[int | float, Field(ge=0, lt=math.inf)]
BelowOne = Annotated[int | float, Field(ge=0, lt=1)]
Share = Annotated[int | float, Field(ge=0, le=1)]
Inside = Annotated[int | float, Field(gt=0, lt=1)]
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Endless = Annotated[int, Field(ge=-1)]
Precision = (
    Literal["auto", "16-mixed", "bf16-mixed", "32-true", "64-true", "16", "bf16", "32", "64"] | Literal[16, 32, 64]
)
Names = list[str | int]


class RunSettings(Group):
    """The run and its folder, runs/<name>/<model>-seed<seed>-<hash of the settings>."""

    recipe: str | None = setting(None, "name of a file in conf/recipe, which sets all that it needs", FIXED)
    model: str = setting("cnn", "name of a file in conf/model, which sets family and network", FIXED)
    name: str = setting("default", "runs/<name>/ holds the run")
    seed: Seed = setting(0, "of split, order, augmentation, initial weights, dropout", FIXED)
    logger: Literal["wandb", "mlflow"] | None = setting(
        None,
        "wandb | mlflow: log there too, beside TensorBoard and CSV; the extra of that name installs it",
        CONTROL,
        NEW,
    )
    resume: str | None = setting(
        None, "folder of a run to continue with its own settings and those given beside this one", CONTROL
    )
    overwrite: bool = setting(False, "true: replace the run in the folder, finished or not", CONTROL)
    runs_per_gpu: Count = setting(1, "hydra/launcher=ray: number of runs that share a GPU", CONTROL)


class DataSettings(Group):
    """Data."""

    data: SourceName = setting("fer2013", "fer2013 | fer2013_csv | folder | table | synthetic", FIXED, SOURCE)
    data_dir: str | None = setting(None, "folder or file; null: $EMOTION_DATA, or data/fer2013 without it", SOURCE)
    classes: Literal["auto", "ferplus"] | Names = setting(
        "auto",
        "[name,...] in the order of the network's outputs | ferplus: eight, with contempt | auto: the seven of "
        "FER2013 where the data names no others, else the names in the data, sorted",
        FIXED,
        NEW,
        SOURCE,
    )
    exclude: Names = setting([], "[name,...]: classes to leave out", FIXED, NEW, SOURCE)
    path_column: str = setting("path", "data=table: column of the paths of the images", FIXED, NEW, SOURCE)
    label_column: str = setting("label", "data=table: column of the labels, names or numbers", FIXED, NEW, SOURCE)
    split_column: str = setting(
        "split", "data=table: column of train, val and test; it may be missing", FIXED, NEW, SOURCE
    )
    columns: list[str] | None = setting(
        None, "data=table: names of the columns of a file without header", FIXED, NEW, SOURCE
    )
    images: str | None = setting(
        None,
        "data=table: folder of the images, or a template as aligned/{stem}_aligned.jpg; null: that of the table",
        FIXED,
        NEW,
        SOURCE,
    )
    labels: Literal["ferplus"] | None = setting(
        None,
        "ferplus: the votes of ten people for each image of FER2013, from votes=; null: the labels of the data",
        FIXED,
        NEW,
        SOURCE,
    )
    votes: str = setting(
        "data/ferplus/votes.csv",
        "labels=ferplus: file of the votes of FER+; evaluate.py compares with them if it is given",
        NEW,
        FIXED,
        SOURCE,
    )
    soft_labels: bool = setting(
        True,
        "labels=ferplus: train on the shares of the votes; false: on the class with the most votes",
        FIXED,
        NEW,
        SOURCE,
    )
    on_bad_image: OnBadImage = setting("error", "error: stop at an unreadable image | skip: leave it out", SOURCE)
    pack_size: Annotated[int, Field(ge=8, le=MAX_SIDE)] | None = setting(
        None, "data=folder, table: height and width of the stored images, pixels; null: image_size", FIXED, SOURCE
    )
    channels: Literal[1, 3] | None = setting(
        None, "data=folder, table: 1 (grey) | 3 (RGB); null: 3 with a backbone or network=, else 1", FIXED, SOURCE
    )
    synthetic_images: Annotated[int, Field(ge=1, le=10**6)] = setting(
        3500, "data=synthetic: number of drawn faces, from 140", FIXED, SOURCE
    )
    extra_data: list[str] | None = setting(
        None, "[folder,...]: folders of class folders; their images are added to the training images", FIXED
    )
    split: SplitName = setting(
        "report",
        "report: the paper's | official: PublicTest validates, PrivateTest tests | clean: official without "
        "training images that are also validation or test images | random: of all images, stratified | "
        "test_only: all images test, for evaluate.py",
        FIXED,
    )
    val_fraction: Inside = setting(
        0.2,
        "share used for validation, of the training images with split=report (where the data has no test images, the "
        "test takes this share of them before), of all with split=random",
        FIXED,
    )
    test_fraction: BelowOne = setting(0.2, "split=random: share of the images used for the test", FIXED, NEW)
    folds: Annotated[int, Field(ge=2)] | None = setting(
        None, "split=random: number of parts of a cross-validation, each of which tests once; null: none", FIXED, NEW
    )
    fold: Whole = setting(0, "folds: number of the part that tests, from 0; -m fold=0,1,2,3,4 runs all", FIXED, NEW)
    group_by: str | None = setting(
        None,
        "split=random: keep the images of a person on one side; regular expression on the name, or column of the table",
        FIXED,
        NEW,
    )
    group_duplicates: bool = setting(False, "split=report, random: keep identical images on one side", FIXED)
    split_seed: Seed | None = setting(None, "seed of the split alone; null: seed", FIXED, NEW)


class BatchSettings(Group):
    """Class imbalance and batches."""

    balance: BalanceName = setting(
        "class_weights", "none | class_weights | weighted_sampler | offline: oversample with augmented copies"
    )
    offline_strength: Positive = setting(1, "balance=offline: factor on rotation, zoom, shift and shear of the copies")
    batch_size: Annotated[int, Field(ge=2)] = setting(64, "number of images of a training step")
    memory_budget: Whole | None = setting(
        None, "MiB for images on the device; null: half of its free memory. Larger sets are streamed"
    )


IMAGE_CHANGES = ("augment", "flip", "brightness", "contrast", "erase")
"""The settings that turn on augmentation of single images."""


class AugmentationSettings(Group):
    """Augmentation, which is drawn anew for every image and epoch."""

    augment: bool = setting(True, "random affine transforms; the defaults are the paper's")
    rotation: AtLeastZero = setting(10, "largest angle, degrees, either way")
    zoom: BelowOne = setting(0.15, "factor of each axis, from 1 - zoom to 1 + zoom")
    shift: BelowOne = setting(0.1, "largest shift, as a share of height and width")
    shear: AtLeastZero = setting(0.15, "largest shear angle, degrees, either way")
    flip: Share = setting(0, "probability of mirroring left to right")
    brightness: BelowOne = setting(0, "factor, from 1 - brightness to 1 + brightness")
    contrast: BelowOne = setting(0, "factor on the distance from the mean tone, from 1 - contrast to 1 + contrast")
    erase: Share = setting(0, "random erasing: probability of replacing a rectangle by mid grey")
    mixup: AtLeastZero = setting(0, "mixup, blends pairs of images: alpha of Beta(alpha, alpha); 0: off")
    cutmix: AtLeastZero = setting(0, "CutMix, pastes a rectangle of another image: alpha of Beta(alpha, alpha); 0: off")
    plain_epochs: Whole = setting(0, "number of last epochs without augmentation")
    augmentation: str | None = setting(
        None, "your own, after the others: <file>.py:<class> or <module>:<class>", FIXED, NEW
    )


class NetworkSettings(Group):
    """Network."""

    family: Family = setting("cnn", "cnn | resnet | torchvision | timm | face | custom", FIXED)
    backbone: str | None = setting(None, "name of the backbone in that library", FIXED)
    blocks: list[int] | None = setting(
        None, "cnn: number of convolutions of each block; resnet: of residual blocks of each stage", FIXED
    )
    width: Annotated[int, Field(ge=1, le=1024)] | None = setting(
        None, "resnet: number of filters of the first stage", FIXED
    )
    stem_stride: Literal[1, 2] | None = setting(None, "resnet: stride of the first convolution, 1 | 2", FIXED)
    stem_width: Annotated[int, Field(ge=1, le=1024)] | None = setting(
        None, "resnet: number of filters of two more convolutions before it, at full resolution; null: none", FIXED, NEW
    )
    network: str | None = setting(None, "custom: your own, <file>.py:<class> or <module>:<class>", FIXED, NEW)
    dropout: BelowOne | None = setting(None, "probability, before the last layer; null: 0.5, for resnet 0")
    unfreeze: Unfreeze | None = setting(None, "number of last layers of the backbone to train | all", FIXED)
    image_size: Annotated[int, Field(ge=8, le=MAX_SIDE)] = setting(
        48, "height and width of the network's input, pixels; images are resized on the device", FIXED
    )
    normalize: NormalizeName = setting(
        "unit",
        "imagenet | unit: 0..1 | keras_unit: imagenet without its mean, divided by 255 | caffe: 0..255 minus the mean, "
        "for Keras's weights of VGG",
        FIXED,
    )
    activation_scale: Positive | None = setting(
        None, "VGG: factor on all feature maps of the backbone, which computes the same otherwise; null: 1", FIXED, NEW
    )


class LossSettings(Group):
    """Loss."""

    label_smoothing: BelowOne = setting(0, "share of each label that is spread evenly over all classes")
    focal_gamma: AtLeastZero = setting(0, "focal loss: weight (1 - probability of the label) ** focal_gamma")
    logit_adjustment: AtLeastZero = setting(
        0, "factor on the log of each class's share, added to the logits in training"
    )
    loss: str | None = setting(None, "your own: <file>.py:<class> or <module>:<class>", FIXED, NEW)


class DistillationSettings(Group):
    """Distillation: learn from trained networks, the teachers, beside the labels."""

    teacher: str | list[str] | None = setting(
        None,
        "[file or folder,...]: trained networks, whose mean probability is learned, or a pattern for their files; or "
        "the file that emotion teach writes",
        NEW,
    )
    distill: Annotated[int | float, Field(gt=0, le=1)] = setting(
        0.9, "share of the teachers in the loss; the labels have the rest", NEW
    )
    distill_temperature: Positive = setting(
        3, "divisor of the logits of teachers and network before they are compared", NEW
    )
    distill_views: Count = setting(
        20, "number of augmented views of an image that the teachers judge; epochs take turns with them", FIXED, NEW
    )


class OptimizerSettings(Group):
    """Optimisation."""

    optimizer: OptimizerName = setting("adam", "adam | adamw | sgd (Nesterov)", FIXED)
    lr: Positive = setting(1e-3, "learning rate")
    momentum: BelowOne = setting(0.9, "optimizer=sgd")
    weight_decay: AtLeastZero = setting(0, "on weights, not on biases and normalisation layers")
    layer_decay: Annotated[int | float, Field(gt=0, le=1)] = setting(
        1, "learning rate of a block of layers, as a factor of that of the block after it; the head is the last"
    )
    sam_rho: AtLeastZero = setting(0, "radius of sharpness-aware minimisation; 0: off")
    ema_decay: BelowOne = setting(
        0, "use the moving average of the weights, with this decay, usually 0.99 to 0.9999; 0: off", FIXED
    )
    schedule: ScheduleName = setting("none", "none | plateau | cosine", FIXED)
    warmup_epochs: AtLeastZero = setting(0, "schedule=cosine: number of first epochs in which the learning rate rises")
    lr_factor: Inside = setting(0.5, "schedule=plateau: factor on the learning rate ...")
    lr_patience: Count = setting(3, "... after this number of validations (one an epoch) without a lower val/loss")


class TrainingSettings(Group):
    """Start, end and speed of training."""

    weights: str | None = setting(
        "none",
        "of the backbone: imagenet | none | path of a .safetensors, state dict or Keras .h5 file | folder of "
        ".safetensors files",
        FIXED,
    )
    init: str | None = setting(
        None,
        "start from a trained network: small | a checkpoint | a published file; weights that fit are taken",
        FIXED,
        NEW,
    )
    feature_views: Whole | Literal["auto"] = setting(
        "auto",
        "K: run the frozen layers once, on K augmented views of each image, and train the other layers on their "
        "output; 0: off; auto: 1 where images are not augmented, else 0",
    )
    monitor: MonitorName = setting(
        "val/loss", "val/loss | val/acc | val/f1_macro: decides on early stopping and the best checkpoint", FIXED
    )
    patience: Count | None = setting(
        10, "number of validations (one an epoch) without improvement before training stops; null: no early stopping"
    )
    min_delta: AtLeastZero = setting(0.0, "smallest improvement that counts for early stopping")
    tta: ViewsName = setting(
        "none", "test-time augmentation: none | flip | shifts | ten_crop; tests with and without it"
    )
    test: bool = setting(True, "false: do not read the test images, while settings are still being chosen", CONTROL)
    compile: Literal["auto"] | bool = setting(
        "auto", "torch.compile: auto (on CUDA, for runs that do not stop early) | true | false"
    )
    cuda_graph: Literal["auto"] | bool = setting(
        "auto", "record the training step on CUDA and replay it: auto | true | false"
    )


class TrainerSettings(Group):
    """Arguments of Lightning's Trainer; null: its default."""

    prefix = "trainer."

    max_epochs: Endless | None = setting(200, "-1: no limit")
    min_epochs: Whole | None = setting(None, "")
    max_steps: Endless | None = setting(-1, "-1: no limit")
    max_time: str | None = setting(None, "DD:HH:MM:SS of training in all; the epoch under way is finished")
    accelerator: str | None = setting("auto", "auto | cpu | gpu")
    devices: Any = setting(1, "number of devices, or [number of a device,...]")
    num_nodes: Count | None = setting(1, "")
    strategy: str | None = setting("auto", "auto | ddp ...")
    precision: Precision | None = setting(
        "auto",
        "auto: bf16-mixed on CUDA (16-mixed on GPUs without bf16) and on CPUs with AMX or AVX512_BF16, else 32-true",
    )
    limit_train_batches: AtLeastZero | None = setting(None, "number, or below 1 the share, of batches of an epoch")
    limit_val_batches: AtLeastZero | None = setting(None, "the same for validation")
    overfit_batches: AtLeastZero | None = setting(
        0.0, "number, or below 1 the share, of batches; every epoch has the same ones"
    )
    check_val_every_n_epoch: Count = setting(1, "")
    log_every_n_steps: Whole = setting(50, "")
    gradient_clip_val: AtLeastZero | None = setting(None, "largest norm of the gradient (Pascanu et al., ICML 2013)")
    gradient_clip_algorithm: Literal["norm", "value"] | None = setting(None, "norm | value")
    accumulate_grad_batches: Count = setting(1, "")
    deterministic: Literal["warn"] | bool | None = setting(None, "")
    benchmark: bool | None = setting(None, "")
    sync_batchnorm: bool = setting(False, "")
    detect_anomaly: bool = setting(False, "")
    profiler: Literal["simple", "advanced", "pytorch"] | None = setting(
        None, "simple | advanced | pytorch: write fit-profile.txt into the run's folder"
    )


TABLE_SETTINGS = ("path_column", "label_column", "split_column", "columns", "images")
"""The settings of `data=table` alone."""


class Settings(BaseModel):
    """All settings of a run, in groups.

    In files, on the command line and in hashes they are flat, but for those of `trainer`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    batches: BatchSettings = BatchSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    network: NetworkSettings = NetworkSettings()
    loss: LossSettings = LossSettings()
    distillation: DistillationSettings = DistillationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    trainer: TrainerSettings = TrainerSettings()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Builds the settings from flat values; those that are absent have their defaults.

        Raises:
            UserError: a value is not legal, alone or beside the others; the message names the legal ones.
        """
        if not isinstance(values.get("trainer", {}), Mapping):
            raise UserError(
                f"trainer={values['trainer']}: not a setting itself; set its parts, as trainer.max_epochs=5"
            )
        groups = {
            name: group.of(values.get("trainer", {}) if name == "trainer" else values) for name, group in GROUPS.items()
        }
        made = cls.model_validate(groups)
        _check_trainer(made.trainer)
        _check_together(made)
        return made

    def flat(self) -> dict[str, Any]:
        """Returns the settings as flat, plain values; those of the Trainer are one mapping, `trainer`."""
        groups = {name: getattr(self, name).flat() for name in GROUPS}
        trainer = groups.pop("trainer")
        return {key: value for group in groups.values() for key, value in group.items()} | {"trainer": trainer}


GROUPS: dict[str, type[Group]] = {
    name: cast(type[Group], field.annotation) for name, field in Settings.model_fields.items()
}
"""The groups by their names in `Settings`."""


@cache
def fields() -> dict[str, FieldInfo]:
    """Returns the declaration of every setting by its name; names of the Trainer's begin with `trainer.`."""
    return {f"{group.prefix}{key}": field for group in GROUPS.values() for key, field in group.model_fields.items()}


def marked(mark: str) -> list[str]:
    """Returns the names of the settings that bear a mark."""
    return [key for key, field in fields().items() if mark in marks_of(field)]


def texts() -> list[str]:
    """Returns the names of the settings that are texts, such as names and paths."""
    return [key for key, field in fields().items() if str in options_of(field.annotation)]


def lists() -> list[str]:
    """Returns the names of the settings that can be lists of names or paths."""
    return [key for key, field in fields().items() if {list[str], Names} & {*options_of(field.annotation)}]


def as_yaml() -> str:
    """Returns the part of `conf/config.yaml` that lists the settings, with headings and comments."""
    return "\n".join(line for name, group in GROUPS.items() for line in yaml_lines(name, group))


def _check_trainer(trainer: TrainerSettings) -> None:
    epochs = trainer.max_epochs
    if epochs not in (None, -1) and not (type(epochs) is int and epochs >= 1):
        raise UserError(f"trainer.max_epochs={epochs}: a whole number from 1 is needed, or -1 for no limit")
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0: validation chooses the best checkpoint; use at least 1 batch")
    if trainer.limit_train_batches == 0:
        raise UserError("trainer.limit_train_batches=0: nothing would be trained; use at least 1 batch")
    for key in ("min_epochs", "check_val_every_n_epoch"):
        value = getattr(trainer, key)
        if type(value) is type(epochs) is int and value > epochs > 0:
            raise UserError(f"trainer.{key}={value}: at most trainer.max_epochs={epochs} is legal")


def _check_together(made: Settings) -> None:
    plain, network, weights = made.augmentation.plain_epochs, made.network, made.training.weights
    if plain and made.trainer.max_epochs == -1:
        raise UserError(f"plain_epochs={plain}: needs a last epoch; set trainer.max_epochs")
    if made.optimizer.schedule == "cosine" and made.trainer.max_epochs == made.trainer.max_steps == -1:
        raise UserError("schedule=cosine: needs an end of training; set trainer.max_epochs or trainer.max_steps")
    if made.optimizer.sam_rho and made.trainer.accumulate_grad_batches > 1:
        raise UserError("sam_rho: gradients cannot be accumulated; use trainer.accumulate_grad_batches=1")
    if weights not in (None, "none") and network.backbone is None:
        raise UserError(
            f"weights={weights}: models of family {network.family} have no backbone; use weights=none, or a model of "
            "family torchvision, timm or face"
        )
    if made.distillation.teacher == []:
        raise UserError("teacher=[]: names no network; leave it out")
    if made.distillation.teacher and made.augmentation.augmentation:
        raise UserError("teacher: your own augmentation= cannot be repeated for the teachers; remove one of them")
    if made.distillation.teacher and made.training.feature_views not in ("auto", 0):
        raise UserError("teacher: judges images, but the network would train on features; set feature_views=0")
    if network.unfreeze not in (None, "all") and network.backbone is None and made.training.init is None:
        raise UserError(f"unfreeze={network.unfreeze}: would freeze random weights; start from trained ones with init=")
    if made.batches.balance == "offline":
        strength, zoom, shift = made.batches.offline_strength, made.augmentation.zoom, made.augmentation.shift
        check_zoom(strength, zoom, shift)
    if made.data.folds is not None and made.data.fold >= made.data.folds:
        raise UserError(f"fold={made.data.fold}: folds={made.data.folds} has the folds 0 to {made.data.folds - 1}")


def check_zoom(factor: float, zoom: float, shift: float) -> None:
    """Checks that a multiple of zoom and shift, as shares of the image, leaves a part of it in sight.

    Raises:
        UserError: it does not.
    """
    if factor * max(zoom, shift) >= 1:
        raise UserError(
            f"zoom={factor * zoom:g} shift={factor * shift:g}, {factor:g} times the settings: values below 1 are needed"
        )
