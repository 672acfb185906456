"""The main job left what it must: checkpoint, metrics, picture, and an accuracy of at least 92.5%.

Usage: check_main_job.py RUNS_FOLDER SECONDS. Time is printed and not judged: machines differ.
"""

import json
import sys
from pathlib import Path

runs, seconds = Path(sys.argv[1]), float(sys.argv[2])
(path,) = runs.glob("*/result.json")
for name in ("checkpoint.npz", "metrics.jsonl", "report.png"):
    if not (path.parent / name).is_file():
        sys.exit(f"the main job left no {name} in {path.parent}")
result = json.loads(path.read_text())
accuracy, epochs = result["test_accuracy"], result["epochs"]
print(f"main job: test accuracy {accuracy:.4f} after {epochs} epochs, {seconds:.0f} s with installation")
if accuracy < 0.925 or epochs > 10:
    sys.exit("main job: expected a test accuracy of at least 0.925 in at most 10 epochs")
