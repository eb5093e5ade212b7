"""From predictions to figures: metrics, plots, the summary of a run."""
