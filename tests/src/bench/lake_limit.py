"""The limit of the medallion: the bodies of bronze decoded and encoded as Parquet by Arrow C++, and nothing else.

No deduplication, no rules, no gold, no disk, no log; one thread per core, each with its part of the bodies.

usage: lake_limit.py BRONZE ROUNDS    one line of JSON per round
"""

import concurrent.futures
import io
import json
import os
import sys
import time

import deltalake
import pyarrow
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

READING = pyarrow.struct(
    [("s", pyarrow.int64()), ("d", pyarrow.string()), ("m", pyarrow.string()), ("v", pyarrow.float64())]
    + [("u", pyarrow.string()), ("t", pyarrow.int64()), ("r", pyarrow.int64()), ("q", pyarrow.string())]
    + [("n", pyarrow.int64())]
)
ENVELOPE = pyarrow.schema(
    [("gw", pyarrow.string()), ("epoch", pyarrow.string()), ("high", pyarrow.int64()), ("rules", pyarrow.string())]
    + [("readings", pyarrow.list_(READING))]
)


def decode_and_encode(lines):
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=4 << 20)
    parse = pyarrow.json.ParseOptions(explicit_schema=ENVELOPE, unexpected_field_behavior="ignore")
    envelopes = pyarrow.json.read_json(io.BytesIO(lines), read_options=read, parse_options=parse)
    rows = 0
    sink = pyarrow.BufferOutputStream()
    writer = None
    for batch in envelopes.to_batches():
        readings = batch.column("readings")
        of = pc.list_parent_indices(readings)
        columns = pc.list_flatten(readings).flatten()
        names = [field.name for field in READING]
        for name in ["gw", "epoch", "high", "rules"]:
            columns.append(batch.column(name).take(of))
            names.append(name)
        table = pyarrow.Table.from_arrays(columns, names=names)
        writer = writer or pyarrow.parquet.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(table)
        rows += table.num_rows
    if writer:
        writer.close()
    return rows


if __name__ == "__main__":
    bronze, rounds = sys.argv[1], int(sys.argv[2])
    bodies = deltalake.DeltaTable(bronze).to_pyarrow_table(columns=["body"]).column("body").to_pylist()
    cores = len(os.sched_getaffinity(0))
    parts = [b"\n".join(bodies[at::cores]) for at in range(cores)]
    size = sum(map(len, parts))
    del bodies
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        for _ in range(rounds):
            begun = time.monotonic()
            rows = sum(pool.map(decode_and_encode, parts))
            print(json.dumps({"readings": rows, "seconds": time.monotonic() - begun, "bytes": size}), flush=True)
