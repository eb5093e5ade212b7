"""Tables of speed, from what the benchmarks wrote to benchmarks/results/."""

import json
import re
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from layout import ROOT, markdown, spread

CONTESTANTS = {
    "limit": "the limit: bare steps on one batch in memory",
    "ours": "ours",
    "plain": "a plain PyTorch loop: ImageFolder, torchvision transforms, DataLoader",
    "timm": "timm's training script",
    "keras": "Keras with ImageDataGenerator, as in the paper",
}
INFERENCE = {
    "an image file: detect the faces, classify them": "predict a file",
    "an array: detect the faces, classify them": "predict an array",
    "1600 x 1200 pixels with one small face": "predict a large picture of a small face",
    "512 x 600 pixels without a face": "predict a picture without a face",
    "an array that is one face already": "predict an array, detect=False",
    "the network alone, ONNX": "the network, ONNX",
    "the network alone, ONNX, one core": "the network, ONNX, one core",
    "the network alone, ONNX in eight bits": "the network, ONNX, int8",
    "the network alone, PyTorch": "the network, PyTorch",
    "`emotion predict photo.jpg`, cold start": "emotion predict",
    "`emotion --help`, cold start": "emotion --help",
}


def fast() -> str:
    """The two speeds that people ask for first."""
    contestants = _workload("cnn")["summary"]
    rate = {key: f"{own['images_per_second']['median']:.0f}" for key, own in contestants.items()}
    others = f"timm's script {rate['timm']}, a plain PyTorch loop {rate['plain']}, Keras {rate['keras']}"
    milliseconds = _benchmark("inference")["milliseconds"]["predict a file"]
    rows = [
        (f"images a second, training the paper's CNN ({_processor('two-cores-cnn')})", rate["ours"], others),
        (
            f"milliseconds from an image file with one face to its probabilities ({_processor('inference')})",
            f"{milliseconds:.0f}",
            "not measured",
        ),
    ]
    return markdown(("On two CPU cores", "Ours", "Others"), "lrl", rows)


def inference() -> str:
    """Milliseconds of a classification."""
    measured = _benchmark("inference")["milliseconds"]
    rows = [(name, f"{measured[key]:.{0 if measured[key] >= 100 else 1}f}") for name, key in INFERENCE.items()]
    return markdown((f"One face, two cores ({_processor('inference')})", "Milliseconds"), "lr", rows)


def _processor(name: str) -> str:
    environment = _benchmark(name)["environment"]
    return str(environment["cpu"]).replace("(R)", "").removesuffix(" Processor")


over_seeds = partial(spread, form=".3f", middle=statistics.mean)


def service() -> str:
    """Requests a second of `emotion serve`."""
    rows = []
    for detect, name in ((True, "faces are detected and classified"), (False, "the image is one face already")):
        rates = [_rates(detect, clients) for clients in (1, 8)]
        rows.append((name, *(spread(own, ".0f") for own in rates)))
    return markdown(("Requests a second", "One client", "Eight clients"), "lrr", rows)


def load() -> str:
    """Requests a second and slowest answers of `emotion serve` under load, before and now."""
    measured, rows = _benchmark("service"), []
    for name in ("before", "now"):
        for run in measured[name]["runs"]:
            refused = run["refused"] / (run["answered"] + run["refused"])
            cells = (f"{run['per_second']:.0f}", f"{run['p99'] / 1000:.2f}", f"{refused:.0%}")
            rows.append((name, str(run["clients"]), *cells, f"{run['others_share']:.0%}"))
    header = ("", "Clients", "Answers a second", "99 % within, seconds", "Refused", "Taken by other programs")
    return markdown(header, "lrrrrr", rows)


def detector() -> str:
    """Faces found and time of the face detector beside the one before it."""
    measured = _benchmark("detector")
    own = measured["photographs"]
    shown: dict[str, Callable[[str], str]] = {
        "faces found, all photographs": lambda name: _of(own[name]["found"]["all"]),
        "faces found, the half that chose no threshold": lambda name: _of(own[name]["found"]["test"]),
        "false detections, all photographs": lambda name: str(own[name]["false"]["all"]),
        "milliseconds, mean of all": lambda name: f"{own[name]['milliseconds']['all']['mean']:.0f}",
        "milliseconds, median of all": lambda name: f"{own[name]['milliseconds']['all']['median']:.0f}",
        "milliseconds, photographs of 1,900 pixels and more": lambda name: (
            f"{own[name]['milliseconds']['1900 px and more']['median']:.0f}"
        ),
        "milliseconds, photographs without a face": lambda name: (
            f"{own[name]['milliseconds']['without faces']['median']:.0f}"
        ),
    }
    rows = [(title, *(value(name) for name in ("MTCNN", "YuNet"))) for title, value in shown.items()]
    for scene, times in measured["milliseconds"].items():
        rows.append((f"milliseconds, {scene}", f"{times['MTCNN']:.0f}", f"{times['YuNet']:.1f}"))
        if followed := times.get("YuNet, followed"):
            rows.append((f"milliseconds, {scene}, followed from frame to frame", "", f"{followed:.1f}"))
    canvas = measured["PublicTest on a canvas"]
    for key, title in (("accuracy on these", "faces that both find"), ("right of all, a miss is wrong", "all faces")):
        rows.append(
            (
                f"accuracy on PublicTest through detection, {title}",
                *(f"{canvas[key][name]:.4f}" for name in ("MTCNN", "YuNet")),
            )
        )
    return markdown((measured["machine"], "MTCNN, before", "YuNet"), "lrr", rows)


def detector_kinds() -> str:
    """Faces found by kind of photograph."""
    own = _benchmark("detector")["photographs"]
    groups = ("all", "tune", "test", "without variants")
    rows = [
        (kind, *(_of(own[name]["found"][kind]) for name in ("MTCNN", "YuNet")))
        for kind in own["YuNet"]["found"]
        if kind not in groups
    ]
    return markdown(("Faces found", "MTCNN", "YuNet"), "lrr", rows)


def levelling() -> str:
    """Accuracy on turned images with and without turning the crops upright."""
    rows = [
        (f"{degrees}°", str(own["found"]), f"{own['as it is']:.4f}", f"{own['turned upright']:.4f}")
        for degrees, own in _benchmark("detector")["PublicTest on a canvas, turned"].items()
    ]
    return markdown(("PublicTest, turned by", "Faces found", "Accuracy as it is", "Turned upright"), "lrrr", rows)


def film() -> str:
    """How fast films are classified, and their memory."""
    measured = _benchmark("film")
    rows = []
    for title, own in measured["commands"].items():
        rows.append(
            (title, f"{own['seconds']:.0f}", f"{measured['film_seconds'] / own['seconds']:.1f}", f"{own['megabytes']}")
        )
    for minutes, own in measured["memory"].items():
        speed = 60 * int(minutes) / own["seconds"]
        title = f"every 25th frame, with a timeline, {minutes} min"
        rows.append((title, f"{own['seconds']:.0f}", f"{speed:.0f}", f"{own['megabytes']}"))
    return markdown(
        ("1280 x 720 pixels, two faces, two cores", "Seconds", "Times real time", "Peak memory, MB"), "lrrr", rows
    )


def _of(counts: list[int]) -> str:
    return f"{counts[0]} of {counts[1]}"


def batches() -> str:
    """Faces a second of the network in batches."""
    measured = _benchmark("inference")["faces_per_second"]
    return markdown(
        ("Faces in a batch", "Faces a second"), "rr", [(size, f"{rate:.0f}") for size, rate in measured.items()]
    )


def eight_bits() -> str:
    """Size and accuracy of the exported network."""
    line = _benchmark("inference")["export"][-1]
    (figures,) = re.findall(r"int8.onnx: (\S+) MiB; .*accuracy (\S+), (\S+) in", line)
    size, eight, float32 = figures
    full = (ROOT / "src/emotion/shipped/small.onnx").stat().st_size / 2**20
    rows = [("float32", f"{full:.1f}", float32), ("eight bits, `--int8`", size, eight)]
    return markdown(("`small` as ONNX", "MiB", "Accuracy on PublicTest"), "lrr", rows)


def speed(name: str) -> str:
    """Training images a second of all contestants, and how many times ours that is."""
    measured = _workload(name)["summary"]
    rows = [
        (text, _spread(own["images_per_second"], ".0f"), f"{own['times_ours']['median']:.2f}" if key != "ours" else "1")
        for key, text in CONTESTANTS.items()
        for own in [measured[key]]
    ]
    return markdown(("Contestant", "Images a second", "Beside ours"), "lrr", rows)


def speed_on_features() -> str:
    """Seconds of an epoch where the frozen part ran once, before."""
    measured, rows = _workload("vgg16_fe")["summary"], []
    for key, text in CONTESTANTS.items():
        own = measured[key]
        fast = key in ("limit", "ours")
        once = f"{own['preparation_seconds']['median']:.0f}" if key == "ours" else ""
        times = "" if fast else f"{1 / own['times_ours']['median']:.0f}"
        rows.append((text, once, _spread(own["seconds_per_epoch"], ".2f" if fast else ".1f"), times))
    header = ("Contestant", "Preparation, seconds", "Seconds an epoch", "Our epochs in the time of one")
    return markdown(header, "lrrr", rows)


def floors() -> str:
    """What a training step of 64 images takes, beside what the processor could do."""
    rows = []
    for key, name in {"cnn": "the CNN", "vgg16_ft": "VGG16"}.items():
        own = _benchmark("breakdown")["workloads"][key]
        times = [f"{1e3 * own[part]:.0f}" for part in ("step_seconds", "flops_seconds", "bytes_seconds")]
        shares = own["shares"]
        convolutions = shares["aten::convolution_backward"] + shares["aten::mkldnn_convolution"]
        rows.append((name, *times, f"{convolutions:.0%}", f"{shares.get('aten::bernoulli_', 0):.0%}"))
    ceilings = _benchmark("breakdown")["ceilings"]
    header = (
        "Network",
        "Step, ms",
        f"FLOPs at {ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s, ms",
        f"Bytes at {ceilings['bytes_per_second'] / 1e9:.0f} GB/s, ms",
        "Share of convolutions",
        "Share of dropout masks",
    )
    return markdown(header, "lrrrrr", rows)


def scaling() -> str:
    """Seconds and memory of an epoch as the data grows."""
    measured = _benchmark("scaling")["measurements"]
    names = {"resident": "in memory", "streamed": "streamed from disk"}
    rows = [
        (f"{one['images']:,}", names[one["storage"]], f"{one['seconds']:.1f}", str(one["memory_mib"]))
        for one in sorted(measured, key=lambda one: (one["storage"], one["images"]))
    ]
    return markdown(("Images", "Stored", "Seconds an epoch", "MiB above the start"), "rlrr", rows)


def overhead() -> str:
    """What a step costs beyond the network."""
    measured = _benchmark("step")
    rows = [
        (
            *(f"{statistics.median(measured[key]):.0f}" for key in ("step_ms", "network_ms")),
            f"{measured['overhead_share']:.1%}",
        )
    ]
    return markdown(("A step of training, ms", "Network and optimiser alone, ms", "Overhead"), "rrr", rows)


def curves() -> str:
    """Accuracy after ten epochs on features and on images."""
    rows = [
        (f"`{views}`", over_seeds([seed[-1] for seed in seeds]), str(len(seeds)))
        for views, seeds in _benchmark("curves")["curves"].items()
    ]
    return markdown(("`feature_views`", "Validation accuracy", "Seeds"), "lrr", rows)


def activation_scale() -> str:
    """Dead channels and accuracy of VGG16 with three trained convolutions, whose epochs have ten steps."""
    measured = _benchmark("activation-scale")
    rows = [
        (
            f"`{scale}`",
            *(over_seeds([seed[epoch] for seed in measured["dead_channels"][scale]]) for epoch in (0, -1)),
            over_seeds([seed[-1] for seed in seeds]),
            str(len(seeds)),
        )
        for scale, seeds in measured["curves"].items()
    ]
    header = ("`activation_scale`", "Dead after 10 steps", "Dead after 100 steps", "Validation accuracy", "Seeds")
    return markdown(header, "lrrrr", rows)


def _benchmark(name: str) -> Any:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text(encoding="utf-8"))


def _workload(name: str) -> Any:
    return _benchmark(f"two-cores-{name.replace('_', '-')}")["workloads"][name]


def _rates(detect: bool, clients: int) -> list[float]:
    runs = _benchmark("inference")["service"]
    return [run["requests_per_second"] for run in runs if (run["detect"], run["clients"]) == (detect, clients)]


def _spread(values: Mapping[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['min']:{form}} to {values['max']:{form}})"
