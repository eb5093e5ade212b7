import pytest
from summary import MAX_STOLEN_SHARE, least_disturbed, process_metrics, spread, stolen_share, summarise

from .conftest import Measure


def test_metrics_are_over_the_epochs_after_the_warm_up(measure: Measure) -> None:
    metrics = process_metrics(measure((8.0, 2.0), (3.0, 1.0), (5.0, 1.0), images=60))
    assert metrics is not None
    assert metrics["train_seconds"] == 5.0
    assert metrics["val_seconds"] == 1.0
    assert metrics["seconds_per_epoch"] == 6.0
    assert metrics["images_per_second"] == 10.0
    assert metrics["startup_seconds"] == 4.0
    assert "peak_device_mib" not in metrics


def test_a_failed_run_has_no_metrics() -> None:
    assert process_metrics({"error": "no such module"}) is None


def test_spread() -> None:
    assert spread(iter([3.0, 1.0, 10.0])) == {"median": 3.0, "min": 1.0, "max": 10.0}


def test_ratios_are_taken_within_rounds(measure: Measure) -> None:
    # Rounds of 1, 10 and 2 s: the machine was busy in the second round, for all contestants.
    ours = [measure((seconds, 0.0)) for seconds in (1.0, 10.0, 2.0)]
    plain = [measure((seconds, 0.0)) for seconds in (4.0, 20.0, 4.0)]
    limit = [measure((seconds, 0.0)) for seconds in (0.5, 8.0, 1.0)]
    summary = summarise({"ours": ours, "plain": plain, "limit": limit})
    assert summary["plain"]["times_ours"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert summary["ours"]["share_of_limit"] == {"median": 0.5, "min": 0.5, "max": pytest.approx(0.8)}
    assert summary["ours"]["times_ours"]["median"] == 1.0
    # The medians of each contestant alone, 2 s, 4 s and 1 s, would give other ratios.
    assert summary["ours"]["seconds_per_epoch"]["median"] == 2.0


def test_ratios_leave_out_rounds_that_either_side_failed(measure: Measure) -> None:
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
    assert stolen_share(runs) == 0.2  # without the 0.9 of the warm-up
    assert stolen_share([{"error": "killed"}]) == 0.0


def test_least_disturbed_rounds_are_chosen_and_of_undisturbed_ones_the_first(measure: Measure) -> None:
    shares = [0.5, MAX_STOLEN_SHARE, 0.2, 0.0, 0.1]
    ours = [measure((1.0, 0.0), stolen=share) for share in shares]
    runs = {"limit": [measure((9.0, 0.0))] * len(shares), "ours": ours}
    assert least_disturbed(runs, 1) == [1]
    assert least_disturbed(runs, 2) == [1, 3]
    assert least_disturbed(runs, 4) == [1, 2, 3, 4]
    assert least_disturbed(runs, 9) == [0, 1, 2, 3, 4]
