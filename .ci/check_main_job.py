"""The main job left what it must: checkpoint, metrics, picture, and an accuracy of at least 92.5%.

Usage: check_main_job.py RUNS_FOLDER SECONDS. Time is printed and not judged: machines differ.
"""

import json
import sys
from pathlib import Path

runs, seconds = Path(sys.argv[1]), float(sys.argv[2])
(metrics,) = runs.glob("*/metrics.jsonl")
records = [json.loads(line) for line in metrics.read_text().splitlines()]
accuracy = next(record["test_accuracy"] for record in reversed(records) if "test_accuracy" in record)
epochs = max(record.get("epoch", 0) for record in records)
for kind in ("*.npz", "*.png"):
    if not list(metrics.parent.glob(kind)):
        sys.exit(f"the main job left no {kind} in {metrics.parent}")
print(f"main job: test accuracy {accuracy:.4f} after {epochs} epochs, {seconds:.0f} s with installation")
if accuracy < 0.925:
    sys.exit("main job: expected a test accuracy of at least 0.925")
