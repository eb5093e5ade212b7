"""Analysis of predictions: metrics, statistics, calibration, heatmaps, plots and the report of a run."""
