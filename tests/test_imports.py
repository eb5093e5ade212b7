"""Importing emotion changes nothing for the program that imports it."""

import subprocess
import sys
from pathlib import Path

import pytest

import emotion

CODE = """
import ast, logging, os, pkgutil, signal, sys, threading, warnings
from importlib import import_module
from pathlib import Path

source = Path(sys.argv[1])
names = ["hydra_plugins.emotion_sweeper"]
names += [name for _, name, _ in pkgutil.walk_packages([str(source)], "emotion.") if name != "emotion.__main__"]
assert len(names) > 90, names
# What other packages change when they are imported is theirs, so they come first.
for path in source.rglob("*.py"):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import) or isinstance(node, ast.ImportFrom) and not node.module.startswith("emotion"):
            exec(compile(ast.Module([node], []), str(path), "exec"), {})
import av, torch


def state():
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "level")}
    ours = {name for name in loggers if name.split(".")[0] == "emotion"}
    return {
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "levels": {name: (logger.level, logger.handlers, logger.disabled) for name, logger in loggers.items()
                   if name not in ours or logger.level or logger.handlers},
        "logging": (logging.root.level, logging.root.handlers, logging.root.manager.disable, logging.raiseExceptions),
        "FFmpeg": av.logging.get_level(),
        "PyTorch": (torch.get_num_threads(), torch.get_default_dtype(), torch.backends.cudnn.benchmark),
        "hooks": (sys.excepthook, threading.excepthook, [signal.getsignal(one) for one in signal.valid_signals()]),
    }


before = state()
for name in names:
    import_module(name)
after = state()
for key, value in before.items():
    assert after[key] == value, (key, value, after[key])
"""


@pytest.mark.process
def test_no_import_changes_warnings_logging_or_the_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(Path(emotion.__file__).parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
