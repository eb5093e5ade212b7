"""The `emotion` command. Modules are imported inside the commands, so that `--help` is shown at once."""

import os
import re
import runpy
import sys
import warnings
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from emotion import __version__
from emotion.errors import MISSING_GLYPH, UserError, exit_on_user_error, printable, require_choice
from emotion.extras import require_extra
from emotion.inference.limits import Limits
from emotion.privacy import keep_private

if TYPE_CHECKING:
    from emotion.data.datamodule import EmotionDataModule

USE, TRAIN, DATA = "Use a network", "Train a network", "Inspect data"
"""Groups of commands in the help."""
VIDEOS, NETWORKS, ADDRESS, LIMITS = "Videos", "Networks", "Address", "Limits"
DETECTION = "Detection, unless a request says otherwise"
"""Groups of options in the help, the last four of `emotion serve`."""
MOST = 1_000_000
"""Largest limit of `emotion serve` in seconds or megabytes."""
CONFIDENCE, FRAME_STRIDE, SMOOTH, MOST_SMOOTH = 0.7, 5, 1.0, 60.0
"""Defaults of options; tests compare them with those of the modules, which take long to import."""
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
RENAMED = {"--every": "--frame-stride", "--smallest": "--min-face", "--near": "--threshold"}
"""Old names of options, which still work, and their new names."""
ADDRESS_HELP = "Address to listen on; 0.0.0.0 accepts other machines."
CONFIDENCE_HELP = "Lowest confidence of the detector that a face is one, 0.1 to 1; clear faces get about 0.9."

# Options of several commands.
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--ckpt",
        metavar="FILE",
        help="A .ckpt, .safetensors or .onnx file, hf://owner/repository, or `small`, the network of the package. "
        "Repeat it to average several networks.",
        show_default="small",
    ),
]
Weights = Annotated[str, typer.Option(help="A .ckpt or .safetensors file, or small.")]
Tta = Annotated[
    str | None,
    typer.Option(
        help="Test-time augmentation: none, flip, shifts, ten_crop. Another one than the file's needs PyTorch.",
        show_default="that of the file",
    ),
]
Detect = Annotated[
    bool,
    typer.Option(
        "--detect/--no-detect", help="Detect faces, or classify the central square of each image as one face."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or cuda:1 for the second GPU.")]
MinFace = Annotated[
    float | None,
    typer.Option(
        help="Size of the smallest face to detect, as a share of the image's longer side, 0.01 to 1: 0.1 stands for "
        "400 pixels in an image of 4000 x 3000.",
        show_default="any size",
    ),
]
Confidence = Annotated[float, typer.Option(help=CONFIDENCE_HELP)]
Smooth = Annotated[
    float,
    typer.Option(
        min=0,
        max=MOST_SMOOTH,
        help="Seconds over which a person's probabilities are averaged; 0 for none.",
        rich_help_panel=VIDEOS,
    ),
]
OutFile = Annotated[Path, typer.Option(help="The file to write.")]


def _served(panel: str, variable: str, text: str, *names: str, **options: Any) -> Any:
    """Returns an option of `emotion serve` that the environment variable `EMOTION_<variable>` sets, too."""
    return typer.Option(*names, envvar=f"EMOTION_{variable}", help=text, rich_help_panel=panel, **options)


class CommandLine(typer.core.TyperGroup):
    """All commands: expands `~` in their arguments, and turns a `UserError` into one line and exit status 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Expands `~`, also in `--out=~/annotated`, which bash does not expand, and replaces old names of options."""
        home = os.path.expanduser("~")  # noqa: PTH111, since Path.home() fails without a home folder
        expanded = [re.sub(r"^(--[\w-]+=)?~(?=/|$)", lambda start: (start[1] or "") + home, value) for value in args]
        names = (argument.partition("=") for argument in expanded)
        return super().parse_args(ctx, ["".join((RENAMED.get(name, name), *value)) for name, *value in names])

    def list_commands(self, ctx: Any) -> list[str]:
        """Lists the commands by groups, those for using a network first."""
        panels = [USE, TRAIN, DATA]
        return sorted(
            super().list_commands(ctx), key=lambda name: panels.index(vars(self.commands[name])["rich_help_panel"])
        )

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        with exit_on_user_error():
            return super().invoke(ctx)


app = typer.Typer(no_args_is_help=True, cls=CommandLine)
data = typer.Typer(no_args_is_help=True, help="Download and count images: emotion data info data=synthetic")
app.add_typer(data, name="data", rich_help_panel=DATA)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Facial emotion recognition: classify faces, train networks, inspect data.

    emotion predict photo.jpg

    emotion train model=vgg16_ft unfreeze=6

    emotion audit photos data=folder
    """


@app.command(context_settings=PASS_ON, add_help_option=False, rich_help_panel=TRAIN)
def train(context: typer.Context) -> None:
    """Train a network: `emotion train model=vgg16_ft unfreeze=6` (`emotion train --help` lists all settings)."""
    require_extra("train", "emotion train")
    from emotion.config import show_help

    if show_help(context.args):
        return
    # Run as a program: Lightning starts it again for every further device.
    sys.argv[1:] = context.args
    runpy.run_module("emotion.training.command", run_name="__main__", alter_sys=True)


@app.command(context_settings=PASS_ON, add_help_option=False, rich_help_panel=TRAIN)
def evaluate(context: typer.Context) -> None:
    """Test checkpoints: `emotion evaluate ckpt=runs/.../best.ckpt` (`emotion evaluate --help` lists the arguments)."""
    require_extra("train", "emotion evaluate")
    from emotion.training.evaluate import main as evaluate_main

    sys.argv = ["emotion evaluate", *context.args]
    evaluate_main()


@app.command(rich_help_panel=TRAIN)
def report(
    paths: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that contain them at any depth.")],
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, report.md, the figures, and the tables as CSV and LaTeX.")
    ] = Path("runs/report-page"),
    votes: Annotated[
        Path | None,
        typer.Option(
            help="File of FER+ with the votes of people on FER2013: the page then says how often they agree with each "
            "network.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one page about runs: metrics over seeds or folds, tests, curves, calibration, tables as CSV and LaTeX.

    Runs on other data, splits or classes have sections of their own; runs that repeat the paper are beside its values.

    emotion report runs/mine --out page
    """
    for path in paths:
        if not path.exists():  # checked before PyTorch is imported, which takes seconds
            raise UserError(f"{path}: no such folder")
    require_extra("train", "emotion report")
    from emotion.report.page import write_report

    page, verdict = write_report(paths, out, votes)
    typer.echo(f"{verdict}\nreport: {page}")


@app.command(rich_help_panel=TRAIN)
def teach(
    settings: Annotated[
        list[str],
        typer.Argument(help="Settings of the training that will learn: recipe=small teacher=a.ckpt ..."),
    ],
    out: OutFile = Path("teachers.safetensors"),
) -> None:
    """Record what trained networks say of the training images, in a file that teacher= takes in their place.

    emotion teach recipe=small teacher=a.ckpt --out teachers.safetensors
    """
    require_extra("train", "emotion teach")
    from emotion.training.teachers import record

    views, images, classes = record(settings, out).shape
    typer.echo(f"{out}: {images:,} images, {views} views, {classes} classes")


@app.command(rich_help_panel=TRAIN)
def publish(
    checkpoint: Annotated[Path, typer.Argument(help="A best.ckpt, or the folder of its run.")],
    out: OutFile = Path("network.safetensors"),
    tta: Annotated[
        str, typer.Option(help="Test-time augmentation of the file: none, flip, shifts, ten_crop.")
    ] = "flip",
    test: Annotated[bool, typer.Option("--test/--no-test", help="Measure on the test images, too.")] = True,
    device: Device = "cpu",
) -> None:
    """Turn a checkpoint into a small file that `emotion.load` reads: weights, temperature, metrics, no code.

    emotion publish runs/small/.../checkpoints/best.ckpt --out mine.safetensors
    """
    from typing import cast, get_args

    require_extra("train", "emotion publish")
    from emotion.models.onnx import ViewsName
    from emotion.training.publish import describe
    from emotion.training.publish import publish as publish_network

    require_choice("--tta", tta, get_args(ViewsName))
    classifier = publish_network(checkpoint, out, cast("ViewsName", tta), test, device)
    typer.echo(describe(classifier, out))


@app.command(rich_help_panel=USE)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos, folders of them, patterns in quotes, or - for an image on standard input."
        ),
    ],
    ckpt: Checkpoints = None,
    tta: Tta = None,
    detect: Detect = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print JSON Lines: an object in each line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for annotated images and videos, with boxes and labels.")
    ] = None,
    min_face: MinFace = None,
    confidence: Confidence = CONFIDENCE,
    frame_stride: Annotated[
        int, typer.Option(min=1, help="Classify every Nth frame of a video.", metavar="N", rich_help_panel=VIDEOS)
    ] = FRAME_STRIDE,
    smooth: Smooth = SMOOTH,
    by_second: Annotated[
        bool, typer.Option("--per-second", help="Give the mean of each second of a video.", rich_help_panel=VIDEOS)
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="File for a timeline of the persons of a video: .html, which plays the video, or .png.",
            rich_help_panel=VIDEOS,
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Detect faces in images and videos and classify their expressions.

    emotion predict photo.jpg

    emotion predict holiday/ --csv > faces.csv

    emotion predict interview.mp4 --csv --out annotated --timeline interview.html > interview.csv
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import track

    from emotion.inference.images import is_video
    from emotion.inference.predict import Prediction
    from emotion.inference.recognizer import load
    from emotion.inference.records import CsvWriter, JsonWriter, TableWriter, Writer, to_summary

    as_table = not (as_json or as_jsonl or as_csv)
    errors = Console(stderr=True)
    shown = Console() if as_table else errors  # for the summaries of films
    if as_json + as_jsonl + as_csv > 1:
        raise UserError("--json, --jsonl and --csv: use one of them")
    _require_limits(min_face, confidence)
    prediction = Prediction(
        load(ckpt or "small", tta=tta, device=device, min_face=min_face, confidence=confidence),
        detect=detect,
        out=out,
        frame_stride=frame_stride,
        smooth=smooth,
        by_second=by_second,
        timeline=timeline,
        progress=partial(
            track,
            description="classifying",
            console=errors,
            transient=True,
            # On one terminal, the bar would be drawn over rows and objects.
            disable=not errors.is_terminal or (not as_table and sys.stdout.isatty()),
        ),
        on_error=partial(_show, kind="error"),
        on_note=_show,
    )
    found = prediction.find(paths)
    if by_second and as_table and any(map(is_video, found)):
        _show("--per-second: the summary of a video stays the same; add --csv, --json or --jsonl")
    writer: Writer
    if as_csv:
        writer = CsvWriter(sys.stdout, any(map(is_video, found)), prediction.recognizer.classes)
    elif as_table:
        writer = TableWriter(shown)
    else:
        writer = JsonWriter(sys.stdout, lines=as_jsonl)
    try:
        for record in prediction.run(found):
            writer.write(record)
    except KeyboardInterrupt:
        _show("interrupted: these are the results so far")
        raise typer.Exit(130) from None
    finally:  # also after an error, the results so far are shown
        writer.close()
        if as_table or errors.is_terminal:
            for film in filter(len, prediction.films):
                shown.print(to_summary(film))
    if as_table and out is not None and out.is_dir():
        typer.echo(printable(f"annotated: {out}"))
    raise typer.Exit(2 if prediction.failed else 0)


def _require_limits(min_face: float | None, confidence: float) -> None:
    """Raises a `UserError` that names the option whose value is not legal."""
    from emotion.inference.faces import DetectionLimits

    try:
        DetectionLimits(min_face or 0.0, confidence)
    except UserError as error:
        key, _, rest = str(error).partition("=")
        raise UserError(f"--{key.replace('_', '-')} {rest}") from None


def _show(message: str, kind: str = "note") -> None:
    print(f"{kind}: {printable(message)}", file=sys.stderr)


@app.command(rich_help_panel=USE)
def webcam(
    camera: Annotated[
        str, typer.Argument(help="Number of the camera, or a video file or address (rtsp://...) in its place.")
    ] = "0",
    ckpt: Checkpoints = None,
    as_jsonl: Annotated[
        bool, typer.Option("--json", "--jsonl", help="Print JSON Lines: an object for each frame.")
    ] = False,
    min_face: MinFace = None,
    confidence: Confidence = CONFIDENCE,
    smooth: Smooth = SMOOTH,
    device: Device = "cpu",
) -> None:
    """Classify the expressions in front of a camera, live in the terminal. Ctrl-C ends it.

    emotion webcam

    emotion webcam 1 --json > session.jsonl
    """
    from rich.console import Console
    from rich.live import Live

    from emotion.inference.camera import open_camera
    from emotion.inference.film import Watcher
    from emotion.inference.recognizer import load
    from emotion.inference.records import JsonWriter, Record, to_live

    _require_limits(min_face, confidence)
    recognizer = load(ckpt or "small", device=device, min_face=min_face, confidence=confidence)
    video = open_camera(camera)
    frames = Watcher(recognizer, frame_stride=1, smooth=smooth, live=True).watch(video)
    try:
        if as_jsonl:
            writer = JsonWriter(sys.stdout, lines=True)
            for frame in frames:
                writer.write(Record(video.name, frame.faces, frame.number, frame.second))
        else:
            console = Console()
            with Live(console=console, auto_refresh=False) as live:
                for frame in frames:
                    live.update(to_live(frame), refresh=True)
            if not console.is_terminal:
                console.line()  # in a pipe, rich does not end the last line
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    _show(f"{video.name}: the video has ended")


@app.command(rich_help_panel=USE)
def explain(
    image: Annotated[Path, typer.Argument(help="An image.")],
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Explain this class too; may be repeated.")
    ] = None,
    ckpt: Weights = "small",
    detect: Detect = True,
    out: Annotated[Path, typer.Option(help="The figure to write: .png, .svg or .pdf.")] = Path("explained.png"),
    device: Device = "cpu",
) -> None:
    """Draw heatmaps of the regions that raise a class's score: Grad-CAM, Grad-CAM++ and HiResCAM.

    emotion explain photo.jpg --class fear --out why.png
    """
    from emotion.shipped import find_weights

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--out {out}: wrong suffix; use .png, .svg or .pdf")
    if not image.exists():
        raise UserError(f"{image}: no such file")
    if out.resolve() == image.resolve():
        raise UserError(f"--out {out}: would replace the image")
    find_weights(ckpt)
    require_extra("train", "emotion explain")
    from emotion.analysis.figures import save
    from emotion.inference.explain import MOST_FACES
    from emotion.inference.explain import explain as explain_image  # imports PyTorch, which takes seconds

    figure, faces = explain_image(image, ckpt, classes or (), detect=detect, device=device)
    save(figure, out)
    for number, face in enumerate(faces, 1):
        typer.echo(printable(f"face {number}: {face.label} {face.score:.0%}"))
    if len(faces) > MOST_FACES:
        typer.echo(f"heatmaps show only the first {MOST_FACES} faces, row by row from left to right")
    typer.echo(f"heatmaps: {out}")


@app.command(rich_help_panel=TRAIN)
def export(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images for the comparison with PyTorch, as data=synthetic; by default those of the training of a "
            ".ckpt, and FER2013 for other files, or drawn faces where these are missing."
        ),
    ] = None,
    ckpt: Weights = "small",
    out: OutFile = Path("network.onnx"),
    tta: Tta = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Also write a file in 8-bit integers, network-int8.onnx, and measure the loss of accuracy."
        ),
    ] = False,
) -> None:
    """Write a network as ONNX: pixels in, probabilities out; `emotion predict --ckpt` runs it without PyTorch.

    emotion export --ckpt mine.safetensors --out mine.onnx --int8

    emotion export data=synthetic --out small.onnx

    emotion export --ckpt runs/.../best.ckpt network=my_nets.py:TinyNet    (allows the code of your own network)
    """
    require_extra("export", "emotion export")
    from emotion.overrides import parse_arguments
    from emotion.training.export import export_network

    if out.suffix != ".onnx":
        raise UserError(f"--out {out}: wrong suffix; use .onnx")
    values = parse_arguments(settings or [], ["network"])
    own = values.pop("network", None)
    for line in export_network(ckpt, out, values, tta, int8, own):
        typer.echo(line)


@app.command(rich_help_panel=TRAIN)
def push(
    repository: Annotated[str, typer.Argument(help="<owner>/<name> on the Hugging Face hub.")],
    files: Annotated[list[Path], typer.Argument(help="An .onnx file, a .safetensors file, or both.")],
    card: Annotated[Path, typer.Option(help="A model card in Markdown: purpose, data, metrics, limits.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Upload a network with its card to the Hugging Face hub, from where `--ckpt hf://owner/name` loads it.

    emotion push me/faces network.onnx network.safetensors --card card.md
    """
    from emotion.shipped.hub import push as push_files

    for path in (card, *files):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    try:
        text = card.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--card {card}: not UTF-8; save the card as UTF-8") from None
    typer.echo(push_files(repository, files, text, private))


@app.command(rich_help_panel=USE)
def serve(
    ckpt: Annotated[
        list[str] | None,
        _served(
            NETWORKS,
            "CKPT",
            "A .ckpt, .safetensors or .onnx file, hf://owner/repository, or `small`. Repeat it (spaces in the "
            "variable) to average several networks.",
            metavar="FILE",
            show_default="small",
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A network under a name that requests choose with ?network=NAME. Repeat it to serve several; the "
            "first is the default.",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            help="Test-time augmentation: none, flip, shifts, ten_crop.",
            show_default="that of the file",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    host: Annotated[str, _served(ADDRESS, "HOST", ADDRESS_HELP)] = "127.0.0.1",
    port: Annotated[int, _served(ADDRESS, "PORT", "Port to listen on; 0 takes one.", min=0, max=65535)] = 8000,
    hosts: Annotated[
        str,
        _served(
            ADDRESS,
            "HOSTS",
            "Host names that are answered, with commas between; those of this machine always are.",
            show_default="every name; only those of this machine if no other can connect",
        ),
    ] = "",
    cors: Annotated[
        str,
        _served(
            ADDRESS,
            "CORS",
            "Origins of other sites whose pages may ask: https://a.example,https://b.example, or * for all.",
            show_default="none",
        ),
    ] = "",
    access_log: Annotated[
        bool, _served(ADDRESS, "ACCESS_LOG", "Print a line for each request.", "--access-log")
    ] = False,
    min_face: Annotated[
        float | None,
        _served(
            DETECTION,
            "MIN_FACE",
            "Size of the smallest face to detect, as a share of the image's longer side, 0.01 to 1.",
            show_default="any size",
        ),
    ] = None,
    confidence: Annotated[float, _served(DETECTION, "CONFIDENCE", CONFIDENCE_HELP)] = CONFIDENCE,
    max_faces: Annotated[
        int,
        _served(LIMITS, "MAX_FACES", "Classified faces of an image, the largest; requests may ask for fewer.", min=1),
    ] = Limits.faces,
    max_images: Annotated[int, _served(LIMITS, "MAX_IMAGES", "Images in a request.", min=1)] = Limits.images,
    max_mb: Annotated[
        float, _served(LIMITS, "MAX_MB", "Megabytes of a request.", min=0.001, max=MOST)
    ] = Limits.megabytes,
    timeout: Annotated[
        float, _served(LIMITS, "TIMEOUT", "Seconds from the last byte of a request to its answer.", min=0.1, max=MOST)
    ] = Limits.seconds,
    max_wait: Annotated[
        float,
        _served(
            LIMITS,
            "MAX_WAIT",
            "Longest wait for a free thread, seconds; a request that would wait longer is refused at once.",
            min=0,
            max=MOST,
        ),
    ] = Limits.wait,
    max_film_mb: Annotated[
        float, _served(LIMITS, "MAX_FILM_MB", "Megabytes of a film.", min=0.001, max=MOST)
    ] = Limits.film_megabytes,
    max_requests: Annotated[
        int,
        _served(
            LIMITS, "MAX_REQUESTS", "Uploads that arrive, and requests that are processed, at the same time.", min=1
        ),
    ] = Limits.requests,
) -> None:
    """Answer HTTP requests: POST /predict takes images and returns their faces as JSON, POST /film a film; see /docs.

    emotion serve --port 8000, then curl -F image=@photo.jpg localhost:8000/predict
    """
    from emotion.inference.access import parse_hosts, parse_origins
    from emotion.inference.recognizer import load
    from emotion.inference.service import run

    limits = Limits(
        megabytes=max_mb,
        images=max_images,
        faces=max_faces,
        seconds=timeout,
        wait=max_wait,
        uploads=max_requests,
        requests=max_requests,
        film_megabytes=max_film_mb,
    )
    access = {"hosts": parse_hosts(hosts), "origins": parse_origins(cors)}
    if network and ckpt:
        raise UserError("--ckpt (or EMOTION_CKPT) and --network: both are given; use one of them")
    files = _named_networks(network) if network else {"default": ckpt or "small"}
    _require_limits(min_face, confidence)
    recognizers = {name: load(file, tta=tta, min_face=min_face, confidence=confidence) for name, file in files.items()}
    run(recognizers, host, port, page=False, open_browser=False, limits=limits, access_log=access_log, **access)


def _named_networks(pairs: list[str]) -> dict[str, str]:
    """Splits `name=file` pairs."""
    files: dict[str, str] = {}
    for pair in pairs:
        name, _, file = pair.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not file:
            raise UserError(f"--network {pair}: NAME=FILE is needed, with a name of letters, digits, dots and dashes")
        if name in files:
            raise UserError(f"--network {pair}: the name {name} is given twice")
        files[name] = os.path.expanduser(file)  # noqa: PTH111, leaves ~nobody as it is
    return files


@app.command(name="app", rich_help_panel=USE)
def web_app(
    ckpt: Annotated[
        str, typer.Option(help="A .ckpt, .safetensors or .onnx file, hf://owner/repository, or small.")
    ] = "small",
    compare: Annotated[
        list[str] | None, typer.Option(help="A further network to show beside the first; repeat it for more.")
    ] = None,
    host: Annotated[str, typer.Option(help=ADDRESS_HELP)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page for photographs, films and the webcam; they stay on the machine that runs it.

    emotion app --ckpt runs/small/.../best.ckpt --compare small --compare other.onnx
    """
    from emotion.data.classes import require_same_classes
    from emotion.inference.limits import OWN_MACHINE
    from emotion.inference.recognizer import load
    from emotion.inference.service import run

    names = [ckpt, *(compare or [])]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"--compare {name}: given twice; name another network")
    recognizers = {label: load(name) for label, name in zip(_labels(names), names, strict=True)}
    require_same_classes(names, [recognizer.classes for recognizer in recognizers.values()])
    run(recognizers, host, port, page=True, open_browser=open_browser, limits=OWN_MACHINE)


def _labels(names: list[str]) -> list[str]:
    """Returns a short name for each network: that of its file without folder and suffix, numbered where it repeats.

    The page says what it knows of the network of the package if one is called `small`, so no file gets this name.
    """
    labels: list[str] = []
    for name in names:
        stem = Path(name).stem or name
        number = count(2)
        label = stem
        while label in labels or (label == "small" and name != label):
            label = f"{stem} ({next(number)})"
        labels.append(label)
    return labels


@app.command(rich_help_panel=DATA)
def audit(
    settings: Annotated[
        list[str] | None, typer.Argument(help="Folder of the images, and settings: photos data=folder pack_size=96 ...")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Lowest correlation of the pixels of two images that makes them near duplicates.")
    ] = 0.95,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="runs/audit/<data>-<hash>")
    ] = None,
) -> None:
    """Find duplicates of images, also across training and test, labels that contradict each other, and rare classes.

    emotion audit photos data=folder
    """
    from functools import partial

    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import track

    require_extra("train", "emotion audit")
    from emotion.analysis.document import to_markdown
    from emotion.data.datamodule import SOURCE_SETTINGS
    from emotion.data.labelled import digest
    from emotion.overrides import require_known
    from emotion.report.audit import run_audit

    console, errors = Console(), Console(stderr=True)
    progress = partial(track, description="comparing images", console=errors, disable=not errors.is_terminal)
    for argument in settings or []:
        if "=" in argument:
            require_known(argument.split("=", 1)[0], SOURCE_SETTINGS, "setting of a source")
    images = _data_module(settings, on_bad_image="skip")
    source = Path(images.hparams["data_dir"] or images.hparams["data"])
    folder = out or Path("runs/audit") / f"{source.resolve().name}-{digest(images.source.location)[:8]}"
    console.print(Markdown(to_markdown(run_audit(images, threshold, folder, progress), folder)))
    console.print(f"audit: {folder / 'audit.html'}", soft_wrap=True, markup=False, highlight=False)


@data.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="fer2013, or ferplus: the votes of ten people for each image of FER2013.")
    ] = "fer2013",
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to create, with train/ and test/ in it; for ferplus, the file to write.",
            show_default="data/fer2013 or data/ferplus/fer2013new.csv",
        ),
    ] = None,
) -> None:
    """Download FER2013 as image folders, or the votes of FER+.

    emotion data fetch --to data/fer2013
    emotion data fetch ferplus
    """
    from emotion.data import fetch as downloads

    require_choice("name", name, ("fer2013", "ferplus"))
    if name == "fer2013":
        typer.echo(f"FER2013 is in {downloads.fetch(to or Path('data/fer2013'))}")
    else:
        file = downloads.fetch_votes(to or Path("data/ferplus/fer2013new.csv"))
        typer.echo(f"the votes of FER+ (Microsoft, MIT licence) are in {file}")


@data.command()
def info(
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, as for training: data=folder data_dir=photos split=official ..."),
    ] = None,
) -> None:
    """Count the images of every split and class.

    emotion data info data=folder data_dir=photos
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    require_extra("train", "emotion data info")
    images = _data_module(settings)
    counts = images.counts()
    table = Table("class", *counts, "all")
    for name, *row in zip((*images.classes, "all"), *counts.values(), strict=True):
        table.add_row(Text(printable(name)), *map(str, row), str(sum(row)))
    Console().print(table)


def _data_module(arguments: list[str] | None, **defaults: str) -> "EmotionDataModule":
    """Builds the data of `key=value` arguments; an argument without `=` is the folder or file of the images."""
    from emotion.data.datamodule import EmotionDataModule
    from emotion.overrides import parse_arguments, require_effect

    paths = [argument for argument in arguments or [] if "=" not in argument]
    if len(paths) > 1:
        raise UserError(f"{' '.join(paths)}: more than one folder or file; give one and settings as key=value")
    given = [argument for argument in arguments or [] if "=" in argument]
    values = {**defaults, **parse_arguments(given), **({"data_dir": paths[0]} if paths else {})}
    require_effect(given, values)
    return EmotionDataModule.of(values)


def main() -> None:
    """Runs the command line."""
    keep_private()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files can contain bytes that are not text
    # Pillow warns of damaged images, which the commands read or refuse with a message of their own.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", MISSING_GLYPH)
    app()
