"""The transcription of the published values, checked for consistency and against the experiments."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from emotion.config import compose
from emotion.report.published import RUNS, SCORES, TEST_IMAGES, PublishedScores
from emotion.training.sweep import plan

SUPPORT = np.array([958, 111, 1024, 1774, 1233, 1247, 831])
ROUNDING = 0.0101
"""Largest difference between a value of two decimals and the same value computed from values of two decimals."""

scores = pytest.mark.parametrize("scores", SCORES, ids=lambda scores: scores.run.network)


def test_there_are_21_different_runs() -> None:
    assert len(RUNS) == len(set(RUNS)) == 21
    assert SUPPORT.sum() == TEST_IMAGES


def test_runs_are_those_of_the_experiment() -> None:
    composed = cache(lambda arguments: compose(*arguments, with_hydra=True))
    jobs = plan(["experiment=report"], lambda arguments: composed(tuple(arguments)))
    configs = [composed(tuple(job.overrides)) for job in jobs]
    trained = {(config.model, config.unfreeze, config.balance) for config in configs}
    assert trained == {(run.model, run.unfreeze, run.balance) for run in RUNS}


@scores
def test_f1_is_the_harmonic_mean(scores: PublishedScores) -> None:
    precision, recall, f1 = np.array(scores.per_class).T
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=ROUNDING)


@scores
def test_averages_follow_from_the_classes(scores: PublishedScores) -> None:
    assert scores.macro == pytest.approx(np.mean(scores.per_class, axis=0), abs=ROUNDING)
    assert scores.weighted == pytest.approx(np.average(scores.per_class, axis=0, weights=SUPPORT), abs=ROUNDING)


@scores
def test_weighted_recall_equals_the_accuracy(scores: PublishedScores) -> None:
    assert scores.weighted[1] == pytest.approx(scores.run.test, abs=ROUNDING)
