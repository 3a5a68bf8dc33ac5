"""Start-up and throughput of `vramplan estimate`, as ratios in one run: `python benchmarks/startup.py [--json]`.

Prints the CPU time of `vramplan estimate --gpu-mem 85` against that of a two-command Typer program written to a
temporary folder, the modules that it must not load and did, and the seconds that 1,000 runs take through `--jsonl`.
Exits 1 when a promise is broken. Processor time rather than wall time, and the least of several runs, so that a busy
machine gives the same answer as a quiet one. Both programs run from compiled bytecode, as pip installs them: under
PYTHONDONTWRITEBYTECODE an editable install would be compiled anew at every start, and typer and rich would not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MOST_RATIO = 1.6
MOST_SECONDS = 5.0
NUM_LINES = 1000
HEAVY = ("torch", "transformers", "pandas", "numpy", "huggingface_hub", "pynvml")

TWO_COMMANDS = '''\
import typer

app = typer.Typer()


@app.command()
def hello(name: str = "world", times: int = 1) -> None:
    """Say hello."""
    for _ in range(times):
        typer.echo(f"hello {name}")


@app.command()
def goodbye(name: str = "world", formal: bool = False) -> None:
    """Say goodbye."""
    typer.echo(f"goodbye {name}" if formal else f"bye {name}")


if __name__ == "__main__":
    app()
'''

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B", "google/gemma-2-9b")
METHODS = (
    {"method": "inference"},
    {"method": "score"},
    {"method": "sft", "tuning": "lora", "quantization": "nf4"},
    {"method": "sft", "tuning": "full"},
    {"method": "grpo", "tuning": "lora", "generations": 8},
)


def compiled(folder: str) -> dict[str, str]:
    """The environment with bytecode kept in `folder`: the first run of a program compiles it, the others read it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": folder}


def cpu_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):  # 3: answered, and it does not fit
        sys.exit(f"{' '.join(command)} exited {done.returncode}: {done.stderr}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def least(commands: Sequence[Sequence[str]], times: int, environment: dict[str, str]) -> list[float]:
    """The least CPU time of each command, the commands taking turns."""
    best = [float("inf")] * len(commands)
    for _ in range(times):
        best = [
            min(seconds, cpu_seconds(command, environment)) for seconds, command in zip(best, commands, strict=True)
        ]
    return best


def heavy_modules() -> list[str]:
    """Heavy packages that an estimate loads."""
    code = (
        "import sys; from vramplan.cli.app import run; run(['estimate', '--gpu-mem', '85']);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(set(done.stderr.splitlines()[-1].split()) & set(HEAVY))


def lines() -> str:
    """1,000 runs, no two alike: models × methods × lengths × batch sizes."""
    lengths = range(512, 8192, 128)
    grid = itertools.product(lengths, MODELS, METHODS)
    runs = [
        {
            "model": model,
            **method,
            "max_seq_length" if "tuning" in method and method["method"] == "sft" else "context": length,
        }
        for length, model, method in grid
    ]
    return "".join(json.dumps({"id": number, "run": run}) + "\n" for number, run in enumerate(runs[:NUM_LINES]))


def jsonl_seconds(environment: dict[str, str]) -> tuple[float, float, int]:
    """Wall and processor seconds for all lines in one process and its workers, and how many were answered."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "vramplan.cli.app", "estimate", "--jsonl", "-"],
        input=lines(),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, processor, sum("error" not in json.loads(line) for line in done.stdout.splitlines())


def main() -> int:
    """Measure, print, and say by the exit code whether the promises hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=15, help="runs of each program")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    vramplan = [sys.executable, "-m", "vramplan.cli.app", "estimate", "--gpu-mem", "85"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "two_commands.py")
        program.write_text(TWO_COMMANDS, encoding="utf-8")
        environment = compiled(str(Path(folder, "bytecode")))
        two, table, as_json = least(
            [[sys.executable, str(program), "hello"], vramplan, [*vramplan, "--json"]], asked.times, environment
        )
        seconds, processor, num_answered = jsonl_seconds(environment)
    heavy = heavy_modules()
    found = {
        "two_commands_seconds": round(two, 4),
        "estimate_seconds": round(table, 4),
        "estimate_json_seconds": round(as_json, 4),
        "ratio": round(table / two, 3),
        "json_ratio": round(as_json / two, 3),
        "most_ratio": MOST_RATIO,
        "heavy_modules": heavy,
        "jsonl_lines": NUM_LINES,
        "jsonl_answered": num_answered,
        "jsonl_seconds": round(seconds, 2),
        "jsonl_processor_seconds": round(processor, 2),
        "most_jsonl_seconds": MOST_SECONDS,
        "num_cores": os.cpu_count(),
    }
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        answered = f"{num_answered} answered (at most {MOST_SECONDS} s)"
        print(f"two-command Typer program         {two * 1000:6.0f} ms")
        print(f"vramplan estimate --gpu-mem 85    {table * 1000:6.0f} ms  {table / two:.2f} x (at most {MOST_RATIO})")
        print(f"the same with --json              {as_json * 1000:6.0f} ms  {as_json / two:.2f} x")
        print(f"heavy modules loaded              {', '.join(heavy) or 'none'}")
        print(f"{NUM_LINES:,} runs through --jsonl        {seconds:6.2f} s   {answered}")
        print(f"  processor time of all its processes {processor:4.2f} s")
    return int(table / two > MOST_RATIO or bool(heavy) or seconds > MOST_SECONDS or num_answered < NUM_LINES)


if __name__ == "__main__":
    sys.exit(main())
