"""The network that ships with the package: small, complete, and as accurate as its card says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import recall_score

import emotion
from emotion.analysis.predictions import Predictions, load_predictions
from emotion.analysis.protocol import protocol_metrics, protocol_parts
from emotion.data.classes import CLASSES
from emotion.data.packed import PackedImages
from emotion.data.splits import make_split
from emotion.models.views import Views
from emotion.shipped import SHIPPED

ROOT = Path(__file__).parents[1]
FILE = SHIPPED / "small.safetensors"
CARD = (SHIPPED / "small.md").read_text(encoding="utf-8")
RUN = next((ROOT / "results/recipes/two_teachers").glob("*-seed1-*"))
PARTS = ("PublicTest", "PrivateTest", "PrivateTest without copies", "All")


def test_it_is_small() -> None:
    assert FILE.stat().st_size <= 8_000_000
    network = emotion.load_pretrained().averaged.network
    assert sum(parameter.numel() for parameter in network.parameters()) <= 5_000_000


def test_it_loads_without_a_download_or_code() -> None:
    with safe_open(FILE, "pt") as file:
        card = json.loads(file.metadata()["emotion"])
    classifier = emotion.load_pretrained()
    assert vars(classifier.card) == {"side": 48, "channels": 1, "classes": [*CLASSES]} | card
    probabilities = classifier(torch.randint(256, (3, 1, 48, 48), dtype=torch.uint8))
    assert torch.allclose(probabilities.sum(1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("path", [FILE, SHIPPED / "small.onnx"], ids=lambda path: path.name)
def test_no_file_says_where_it_was_made(path: Path) -> None:
    content = path.read_bytes()
    for word in (b"/work/", b".venv", b"site-packages", b"stack_trace"):
        assert word not in content


def test_the_card_states_the_figures_of_the_file() -> None:
    figures = emotion.load_pretrained().card.facts["figures"]
    assert tuple(figures) == PARTS
    for part, own in figures.items():
        cells = [f"{own[name]:.4f}" for name in ("acc", "f1_macro", "nll", "ece")]
        assert f"| {part} | {own['images']:,} | {' | '.join(cells)} |" in CARD


def test_the_shipped_network_is_calibrated() -> None:
    figures = emotion.load_pretrained().card.facts["figures"]
    assert max(own["ece"] for own in figures.values()) < 0.03


def test_the_card_states_how_well_each_class_is_recognised() -> None:
    run = load_predictions(RUN / "predictions.npz")
    everything = protocol_parts({"val": run["val_tta"], "test": run["test_tta"]})["All"]
    recall = dict(zip(CLASSES, recall_score(everything.labels, everything.predicted, average=None), strict=True))
    stated = re.findall(rf"({'|'.join(CLASSES)}) (0\.\d\d)\b", CARD)
    assert stated == [(name, f"{recall[name]:.2f}") for name in sorted(recall, key=recall.__getitem__)]


@pytest.mark.parametrize(
    "word", ["FER2013", "recipe=small", "temperature", "Limits", "must not", "Licence", "emotion.load()"]
)
def test_the_card_says_what_it_is_and_what_it_is_not_for(word: str) -> None:
    assert word in CARD


@pytest.mark.real
def test_its_probabilities_are_those_of_the_run_that_its_figures_are_from(real_packed: PackedImages) -> None:
    network = emotion.load().networks[0]
    stored = load_predictions(RUN / "predictions.npz")["test_tta"]
    rows = np.random.default_rng(0).choice(len(stored), 300, replace=False)
    places = {name: row for row, name in enumerate(real_packed.names.tolist())}
    images = real_packed.images[[places[name] for name in stored.ids[rows]]]
    scaled = stored.probabilities[rows].astype(float) ** (1 / emotion.load_pretrained().card.temperature)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    assert np.abs(network(images[:, 0]) - expected).max() < 0.02  # its weights have half precision


@pytest.mark.check
@pytest.mark.real
def test_its_figures_measured_again(real_packed: PackedImages) -> None:
    classifier, recognizer = emotion.load_pretrained(), emotion.load()
    split = make_split(real_packed, "official", val_fraction=0.2, seed=0, group_duplicates=False)

    def predict(rows: np.ndarray) -> Predictions:
        images = real_packed.images[rows]
        probabilities = np.concatenate([recognizer.networks[0](batch[:, 0]) for batch in np.array_split(images, 60)])
        assert np.abs(classifier(torch.from_numpy(images[:64])).numpy() - probabilities[:64]).max() < 1e-5
        packed = real_packed
        return Predictions(
            packed.names[rows], packed.labels[rows], probabilities, packed.parts[rows], packed.copied[rows]
        )

    parts = protocol_parts({stage: predict(getattr(split, stage)) for stage in ("val", "test")})
    for part in PARTS:
        stated = classifier.card.facts["figures"][part]
        for name, value in protocol_metrics(parts[part]).items():
            assert value == pytest.approx(stated[name], abs=2e-3), f"{part}: {name}"


def test_views_of_the_file_are_those_of_the_recipe() -> None:
    classifier = emotion.load_pretrained()
    assert isinstance(classifier.averaged, Views)
    settings = (RUN / "config.yaml").read_text(encoding="utf-8")
    match = re.search(r"^tta: (\w+)$", settings, re.MULTILINE)
    assert match
    assert classifier.card.views == match[1]
