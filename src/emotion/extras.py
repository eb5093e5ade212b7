"""The extras of `pip install`, their packages, and the error message for a missing package."""

from importlib.util import find_spec

from emotion.errors import UserError

EXTRAS = {
    "train": (
        "torch",
        "torchvision",
        "lightning",
        "hydra",
        "omegaconf",
        "torchmetrics",
        "timm",
        "pytorch_grad_cam",
        "sklearn",
        "scipy",
        "safetensors",
        "tensorboard",
        "matplotlib",
        "jinja2",
        "filelock",
        "psutil",
        "yaml",
        "lightning_utilities",
    ),
    "export": ("torch", "onnx", "onnxscript"),
    "hub": ("huggingface_hub",),
    "fetch": ("kagglehub",),
    "heic": ("pillow_heif",),
    "keras": ("h5py",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "joblib": ("hydra_plugins.hydra_joblib_launcher",),
    "ray": ("hydra_plugins.hydra_ray_launcher",),
    "slurm": ("hydra_plugins.hydra_submitit_launcher",),
    "optuna": ("hydra_plugins.hydra_optuna_sweeper",),
}
"""Import names of the packages that each extra installs."""


class MissingExtraError(UserError, ImportError):
    """A package of an extra is not installed; the message contains the command that installs the extra."""


def require_extra(extra: str, purpose: str) -> None:
    """Checks that all packages of an extra are installed, without importing them.

    Args:
        extra: name of the extra, a key of `EXTRAS`.
        purpose: command or setting that needs the extra; the subject of the message.

    Raises:
        MissingExtraError: a package is not installed.
    """
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            package = module.rpartition(".")[2]
            raise MissingExtraError(f"{purpose} needs the package {package}: pip install 'emotion[{extra}]'")
