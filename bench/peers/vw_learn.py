"""The models of `learn` in Vowpal Wabbit, from its own binary cache, so that no text is parsed while time counts.

Arguments: case, a file of JSON lines with `label`, a folder to write to, turns. Answers CPU nanoseconds a row of all
its threads, and the progressive log loss. What starting costs is taken off: the time is that of the rows four times
over, less that of the rows once, by the least of the turns.
"""

import json
import os
import sys
import time

import vowpalwabbit

OPTIONS = {
    "dense-20-sgd": "--sgd --power_t 0 -l 0.01",
    "dense-20-adagrad": "--adaptive --power_t 0.5 -l 0.05",
    "hashed-2^18-adagrad": "-b 18 --adaptive --power_t 0.5 -l 0.05",
    "hashed-2^24-adagrad": "-b 24 --adaptive --power_t 0.5 -l 0.05",
}

case, folder, lines, labels = sys.argv[1], sys.argv[3], [], 0
for line in open(sys.argv[2]):
    row = json.loads(line)
    label = 1 if row.pop("label") else -1
    words = (f"{k}:{v}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
    lines.append(f"{label} | {' '.join(words)}\n")
common = f"--loss_function logistic --quiet --no_stdin {OPTIONS[case]}"


def data(times):
    """Options that read the rows, so many times over, from a binary cache; which is made first."""
    text = os.path.join(folder, f"rows{times}.vw")
    with open(text, "w") as out:
        for _ in range(times):
            out.writelines(lines)
    options = f"{common} -d {text} --cache_file {text}.cache"
    vowpalwabbit.Workspace(options + " -k").finish()
    return options


def timed(options, count):
    """A workspace reads its data when it is made."""
    began = time.process_time()
    workspace = vowpalwabbit.Workspace(options)
    seconds = time.process_time() - began
    assert workspace.get_weighted_examples() == count, (workspace.get_weighted_examples(), count)
    loss = workspace.get_sum_loss() / count
    workspace.finish()
    return seconds, loss


once, often, times = data(1), data(4), []
for _ in range(int(sys.argv[4])):
    seconds, loss = timed(once, len(lines))
    times.append((seconds, timed(often, 4 * len(lines))[0]))
seconds = min(often for _, often in times) - min(once for once, _ in times)
print(json.dumps({"ns": seconds * 1e9 / (3 * len(lines)), "loss": loss}))
