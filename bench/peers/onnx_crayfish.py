"""The network of `crayfish` in onnxruntime, one thread: rows already numbers, one at a time, then 1,024 at a time.

Arguments: layer widths (784,32,…,10), a file of float32 weights and biases in order of layers, a file of float32 rows,
where to write the scores of all rows, seconds to time each way (0: none).
"""

import json
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def network(widths, weights):
    nodes, tensors, at, name = [], [], 0, "input"
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        matrix = weights[at : at + inputs * outputs].reshape(inputs, outputs)
        at += inputs * outputs
        bias = weights[at : at + outputs]
        at += outputs
        tensors += [numpy_helper.from_array(matrix, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"sum{i}"]))
        name = f"sum{i}"
        last = i == len(widths) - 2
        nodes.append(helper.make_node("Softmax" if last else "Relu", [name], ["scores" if last else f"out{i}"]))
        name = f"out{i}"
    assert at == len(weights), f"{at} weights are wanted, {len(weights)} came"
    graph = helper.make_graph(
        nodes,
        "crayfish",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", widths[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", widths[-1]])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def timed(session, rows, batch, seconds):
    batches = [{"input": rows[i : i + batch]} for i in range(0, len(rows), batch)]
    done, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for feed in batches:
            session.run(None, feed)
        done += len(rows)
    return (time.process_time() - cpu) * 1e9 / done, done / (time.perf_counter() - began)


widths = [int(w) for w in sys.argv[1].split(",")]
weights, rows = np.fromfile(sys.argv[2], "<f4"), np.fromfile(sys.argv[3], "<f4").reshape(-1, widths[0])
seconds = float(sys.argv[5])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(network(widths, weights).SerializeToString(), options, ["CPUExecutionProvider"])
np.concatenate([session.run(None, {"input": row[None, :]})[0] for row in rows]).astype("<f8").tofile(sys.argv[4])
answer = {"onnx": onnx.__version__}
if seconds:
    answer["one_ns"], answer["one_rate"] = timed(session, rows, 1, seconds)
    answer["many_ns"], answer["many_rate"] = timed(session, rows, 1024, seconds)
print(json.dumps(answer))
