import pytest
from summary import MOST_STOLEN, calmest, figures, spread, stolen_share, summarise

from .conftest import Measure


def test_epochs_after_the_warm_up_count(measure: Measure) -> None:
    own = figures(measure((8.0, 2.0), (3.0, 1.0), (5.0, 1.0), images=60))
    assert own is not None
    assert own["train_seconds"] == 5.0
    assert own["val_seconds"] == 1.0
    assert own["seconds_per_epoch"] == 6.0
    assert own["images_per_second"] == 10.0
    assert own["startup_seconds"] == 4.0
    assert "peak_device_mib" not in own


def test_a_failed_run_has_no_figures() -> None:
    assert figures({"error": "no such module"}) is None


def test_spread() -> None:
    assert spread(iter([3.0, 1.0, 10.0])) == {"median": 3.0, "min": 1.0, "max": 10.0}


def test_ratios_are_taken_within_rounds(measure: Measure) -> None:
    # Rounds of 1, 10 and 2 s: the machine was busy in the second, for all alike.
    ours = [measure((seconds, 0.0)) for seconds in (1.0, 10.0, 2.0)]
    plain = [measure((seconds, 0.0)) for seconds in (4.0, 20.0, 4.0)]
    limit = [measure((seconds, 0.0)) for seconds in (0.5, 8.0, 1.0)]
    summary = summarise({"ours": ours, "plain": plain, "limit": limit})
    assert summary["plain"]["times_ours"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert summary["ours"]["share_of_limit"] == {"median": 0.5, "min": 0.5, "max": pytest.approx(0.8)}
    assert summary["ours"]["times_ours"]["median"] == 1.0
    # The medians of each alone would say 2 s against 4 s, and against 1 s.
    assert summary["ours"]["seconds_per_epoch"]["median"] == 2.0


def test_rounds_that_failed_are_left_out_of_both_sides(measure: Measure) -> None:
    failed = {"error": "killed"}
    ours = [measure((1.0, 0.0)), failed, measure((2.0, 0.0))]
    plain = [failed, measure((1.0, 0.0)), measure((4.0, 0.0))]
    summary = summarise({"ours": ours, "plain": plain, "keras": [failed] * 3})
    assert summary["ours"]["rounds"] == 2
    assert summary["plain"]["times_ours"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert "share_of_limit" not in summary["ours"]
    assert "keras" not in summary


def test_without_ours_there_is_no_ratio_to_it(measure: Measure) -> None:
    summary = summarise({"plain": [measure((1.0, 1.0))]})
    assert summary["plain"]["images_per_second"]["median"] == 50.0
    assert "times_ours" not in summary["plain"]


def test_a_round_is_as_disturbed_as_its_most_disturbed_contestant(measure: Measure) -> None:
    runs = [measure((1.0, 0.0), stolen=0.01), measure((1.0, 0.0), stolen=0.2), {"error": "killed"}]
    assert stolen_share(runs) == 0.2  # and not the 0.9 of the warm-up
    assert stolen_share([{"error": "killed"}]) == 0.0


def test_the_rounds_that_lost_least_count_and_among_calm_ones_the_first(measure: Measure) -> None:
    shares = [0.5, MOST_STOLEN, 0.2, 0.0, 0.1]
    ours = [measure((1.0, 0.0), stolen=share) for share in shares]
    runs = {"limit": [measure((9.0, 0.0))] * len(shares), "ours": ours}
    assert calmest(runs, 1) == [1]
    assert calmest(runs, 2) == [1, 3]
    assert calmest(runs, 4) == [1, 2, 3, 4]
    assert calmest(runs, 9) == [0, 1, 2, 3, 4]
