import pytest
from lightning import Callback

from emotion.training.callbacks import ProgressBar


class Seen(Callback):
    """Records how far the bar of each epoch came, and the metrics beside it."""

    def __init__(self):
        self.bars = []

    def on_train_epoch_end(self, trainer, pl_module):
        bar = trainer.progress_bar_callback
        self.bars.append((bar.train_progress_bar.completed, bar.train_progress_bar.total))
        self.metrics = bar.get_metrics(trainer, pl_module)


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:The number of training batches")
def test_the_bar_reaches_its_end_in_every_epoch(make_task, make_loader, make_trainer, tmp_path):
    seen = Seen()
    trainer = make_trainer(tmp_path, max_epochs=2, enable_progress_bar=True, callbacks=[ProgressBar(), seen])
    trainer.fit(make_task(), make_loader(), make_loader())
    assert seen.bars == [(3, 3), (3, 3)]
    assert {"val/loss", "val/acc", "val/f1_macro"} <= seen.metrics.keys()
    assert "v_num" not in seen.metrics
