"""Measures a bare training step: its time, the time that its FLOPs and bytes need, and the share of each operation.

    python benchmarks/breakdown.py --out benchmarks/results/breakdown.json

Contents of the JSON file:

    ceilings     `flops_per_second` of a large matrix product and `bytes_per_second` of a large copy on this device
    workloads    for each workload: `step_seconds`, the median over bare steps; `flops` and `bytes_moved` of a step (see
                 `roofline`); `flops_seconds` and `bytes_seconds`, the times that these need at the ceilings; `shares`,
                 the share of the time that each PyTorch operation takes without those it calls, if 0.01 or more,
                 measured by PyTorch's profiler
    precision, batch_size, environment
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from bench import PRECISIONS, resolve_precision
from contestants.limit import step_of, trained_part
from contestants.pytorch import ON_GPU, build
from roofline import bytes_per_second, count, flops_per_second, seconds
from torch.profiler import ProfilerActivity, profile
from workloads import WORKLOADS, Job

from emotion.errors import exit_on_user_error
from emotion.training.environment import describe_environment
from emotion.training.folder import write_json

BATCH_SIZE = 64
WARM_UP, STEPS = 5, 20
MIN_SHARE = 0.01


def measure(job: Job, ceilings: dict[str, float]) -> dict[str, Any]:
    """Returns the entry of a workload in the JSON file."""
    network = build(job.network)
    trained, inputs = trained_part(network, job)
    step = step_of(trained.train(), inputs, job)
    seconds(lambda: step(job.batch_size), WARM_UP)
    work = count(lambda: step(job.batch_size))
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * ON_GPU]) as profiler:
        seconds(lambda: step(job.batch_size), STEPS)
    return {
        "step_seconds": statistics.median(seconds(lambda: step(job.batch_size), STEPS)),
        "flops": work.flops,
        "bytes_moved": work.bytes_moved,
        "flops_seconds": work.flops / ceilings["flops_per_second"],
        "bytes_seconds": work.bytes_moved / ceilings["bytes_per_second"],
        "shares": shares(profiler),
    }


def shares(profiler: profile) -> dict[str, float]:
    """Returns the share of the time of each operation without those it calls, on the GPU if any, largest first."""
    key = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    # The list has GPU kernels twice: on their own, which are left out, and in the operation that started them.
    events = [
        event for event in profiler.key_averages() if event.device_type.name == "CPU" and not event.is_user_annotation
    ]
    times = {event.key: getattr(event, key) for event in events}
    total = sum(times.values())
    ranked = sorted(times, key=lambda name: times[name], reverse=True)
    return {name: round(times[name] / total, 4) for name in ranked if times[name] >= MIN_SHARE * total}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="networks to train")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help="as for bench.py")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    precision = resolve_precision(options.precision)
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    ceilings = {"flops_per_second": flops_per_second(dtype), "bytes_per_second": bytes_per_second()}
    jobs = {name: Job(name, "", BATCH_SIZE, 1, precision, 0, 0) for name in options.workloads}
    result = {
        "precision": precision,
        "batch_size": BATCH_SIZE,
        "ceilings": ceilings,
        "workloads": {name: measure(job, ceilings) for name, job in jobs.items()},
        "environment": describe_environment(),
    }
    print(json.dumps(result["workloads"], indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
