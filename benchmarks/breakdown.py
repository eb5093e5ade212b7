"""Where the time of a bare training step goes: the shares of PyTorch's operations, as its profiler counts them.

    python benchmarks/breakdown.py --out benchmarks/results/breakdown.json

The JSON: for each of `workloads` the share of every operation that takes at least a hundredth of the step, on the GPU
where there is one, else on the CPU; `precision`, and in `environment` the versions and the hardware.
"""

import argparse
import json
from pathlib import Path

from bench import PRECISIONS, resolve_precision
from contestants.limit import step_of, trained_part
from contestants.pytorch import ON_GPU, build
from torch.profiler import ProfilerActivity, profile
from workloads import WORKLOADS, Job

from emotion.training.environment import describe_environment
from emotion.training.folder import write_json

WARM_UP, STEPS = 5, 20
LEAST = 0.01


def shares(job: Job) -> dict[str, float]:
    """Returns what part of the time of some steps each operation took by itself, the largest first."""
    network = build(job.network)
    trained, inputs = trained_part(network, job)
    step = step_of(trained.train(), inputs, job)
    for _ in range(WARM_UP):
        step(job.batch_size)
    with profile(activities=[ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step(job.batch_size)
    key = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    times = {event.key: getattr(event, key) for event in profiler.key_averages()}
    total = sum(times.values())
    ranked = sorted(times, key=lambda name: times[name], reverse=True)
    return {name: round(times[name] / total, 4) for name in ranked if times[name] >= LEAST * total}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="networks to train")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help="as for bench.py")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    precision = resolve_precision(options.precision)
    jobs = {name: Job(name, "", 64, 1, precision, 0, 0) for name in options.workloads}
    measured = {name: shares(job) for name, job in jobs.items()}
    result = {"precision": precision, "workloads": measured, "environment": describe_environment()}
    print(json.dumps(measured, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
