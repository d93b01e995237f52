"""A client for Millstream's binary socket format (docs/protocol.md). Standard library only.

    with Client("127.0.0.1", 7070, ["float", "float", "category", "bool"]) as client:
        for answer in client.ask([(0.1, 2.0, "red", None), (0.3, None, "blue", True)]):
            print(answer["sequence"], answer.get("score"), answer.get("error"))

Types and values are those of the schema's fields, in its order. A field that is the schema's `key` or
`id` is a "text" here, whatever its type. None is missing.
"""

import json
import math
import socket
import struct
import threading

MISSING = 0xFFFFFFFF


def frame(sequence, types, values):
    """One event as bytes. `sequence` from 1 on is echoed in the answer."""
    if len(types) != len(values):
        raise ValueError(f"{len(values)} values for {len(types)} fields")
    parts = [struct.pack("<Q", sequence)]
    for kind, value in zip(types, values):
        if kind in ("category", "text"):
            data = b"" if value is None else str(value).encode()
            parts.append(struct.pack("<I", MISSING if value is None else len(data)) + data)
        else:
            parts.append(struct.pack("<d", math.nan if value is None else float(value)))
    rest = b"".join(parts)
    return struct.pack("<I", len(rest)) + rest


class Client:
    """One connection. Answers come back in the order of the events, one JSON object each."""

    def __init__(self, host, port, types):
        self.types, self.sequence = list(types), 0
        self.socket = socket.create_connection((host, port))
        self.answers = self.socket.makefile("rb")

    def send(self, rows):
        """Sends rows without waiting for their answers; returns how many."""
        frames = []
        for row in rows:
            self.sequence += 1
            frames.append(frame(self.sequence, self.types, row))
        self.socket.sendall(b"".join(frames))
        return len(frames)

    def ask(self, rows):
        """Sends rows and yields their answers. Sends on a thread of its own: the daemon stops reading
        from a client that doesn't read its answers."""
        rows = list(rows)
        sender = threading.Thread(target=self.send, args=(rows,), daemon=True)
        sender.start()
        for _ in rows:
            line = self.answers.readline()
            if not line:
                raise ConnectionError("the daemon closed the connection")
            yield json.loads(line)
        sender.join()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
