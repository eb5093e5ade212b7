"""onnxruntime with one thread."""


def use_one_thread() -> None:
    """Makes sessions of onnxruntime use one thread: by default they use all cores, even those denied to the process."""
    from emotion.privacy import import_onnxruntime

    onnxruntime = import_onnxruntime()

    class OneThread(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    onnxruntime.SessionOptions = OneThread
