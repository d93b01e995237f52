"""Writes the data sets of this folder from the packages that carry them (see README.md).

    pip install river==0.26.1
    python extract.py linfa-datasets-0.8.1.crate    # the crate's archive, as published

Numbers are copied as the text they are; rows stay in the order in which River yields them.
"""

import gzip
import pathlib
import sys
import tarfile
import zipfile

import river.datasets

HERE = pathlib.Path(__file__).parent
RIVER = pathlib.Path(river.datasets.__file__).parent


def read(name):
    path = RIVER / name
    if name.endswith(".gz"):
        return gzip.decompress(path.read_bytes()).decode()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as z:
            return z.read(z.namelist()[0]).decode()
    return path.read_text()


def write(name, text):
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    (HERE / name).write_text("\n".join(lines) + "\n")
    print(name, len(lines) - 1, "rows")


def bananas():
    """From LIBSVM's format: `-1 1:0.5 2:0.25`; a value that is left out is 0."""
    lines = ["x1,x2,label"]
    for line in read("banana.zip").splitlines():
        label, *pairs = line.split()
        x = dict(pair.split(":") for pair in pairs)
        lines.append(f"{x.get('1', '0')},{x.get('2', '0')},{int(label == '1')}")
    return "\n".join(lines)


def linfa(crate, name):
    with tarfile.open(crate) as tar:
        member = next(m for m in tar.getnames() if m.endswith(f"/data/{name}.csv.gz"))
        return gzip.decompress(tar.extractfile(member).read()).decode().replace('"', "")


if __name__ == "__main__":
    write("phishing.csv", read("phishing.csv.gz"))
    write("bananas.csv", bananas())
    write("chick_weights.csv", read("chick-weights.csv"))
    write("trump_approval.csv", read("trump_approval.csv.gz"))
    write("image_segments.csv", read("segment.csv.zip"))
    write("solar_flare.csv", read("solar-flare.csv.zip"))
    write("water_flow.csv", read("water-flow.csv").replace("Time,Water flow [l/s]", "time,water_flow"))
    write("iris.csv", linfa(sys.argv[1], "iris"))
    header, rows = linfa(sys.argv[1], "winequality-red").split("\n", 1)
    write("wine_quality_red.csv", header.replace(" ", "_") + "\n" + rows)
