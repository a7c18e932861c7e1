"""Reads the lake with programs that are not ours; prints what each saw as JSON.

usage: readers.py LAKE tables            protocol, columns and row counts of every table, by deltalake and DuckDB
       readers.py LAKE rows FOLDER       every table, row for row, by five engines, against FOLDER/silver.readings.json
                                         and so on: the rows as `cloud-ingester query --format json` writes them
       readers.py LAKE checkpoint        how the pages of each table's newest checkpoint are encoded
       readers.py LAKE daily             daily means and counts of silver.readings, by DuckDB
       readers.py - csv FILE TIME NULL   daily means and counts of a recording's columns, by DuckDB
"""

import collections
import datetime
import json
import pathlib
import sys
import tempfile
import time

import engines


def delta_type(kind):
    """A type of the Delta log in one word: long, map<string,long>, array<string>."""
    if isinstance(kind, str):
        return kind
    if kind["type"] == "map":
        return f"map<{delta_type(kind['keyType'])},{delta_type(kind['valueType'])}>"
    if kind["type"] == "array":
        return f"array<{delta_type(kind['elementType'])}>"
    return json.dumps(kind)


def columns_of(table):
    return [[field.name, delta_type(json.loads(field.type.to_json()))] for field in table.schema().fields]


def tables(lake):
    from deltalake import DeltaTable

    con = engines.duckdb()
    seen = {}
    for name, path in engines.log_folders(lake).items():
        table = DeltaTable(path)
        protocol = table.protocol()
        described = con.execute(f"DESCRIBE SELECT * FROM delta_scan('{path}')").fetchall()
        seen[name] = {
            "reader": protocol.min_reader_version,
            "writer": protocol.min_writer_version,
            "columns": columns_of(table),
            "duckdb_columns": [[name, kind] for name, kind, *_ in described],
            "rows": table.to_pyarrow_table().num_rows,
            "duckdb_rows": con.execute(f"SELECT count(*) FROM delta_scan('{path}')").fetchone()[0],
        }
    return seen


def told(kind, value):
    """A value of our own JSON as a plain one that can be compared."""
    if value is None:
        return None
    if kind == "timestamp":
        return datetime.datetime.fromisoformat(value)
    if kind == "date":
        return datetime.date.fromisoformat(value)
    if kind == "binary":
        return bytes.fromhex(value)
    if kind == "double":
        return float(value)
    if kind.startswith("map"):
        return tuple(sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value


def seen(kind, value):
    """A value of Arrow as the same plain one: some engines have maps as lists of pairs or of two fields."""
    if value is None:
        return None
    if kind == "timestamp":
        return value.astimezone(datetime.timezone.utc)
    if kind == "binary":
        return bytes(value)
    if kind.startswith("map"):
        pairs = value.items() if isinstance(value, dict) else value
        return tuple(sorted(tuple(pair.values()) if isinstance(pair, dict) else tuple(pair) for pair in pairs))
    return tuple(value) if isinstance(value, list) else value


def rows_of(arrow, columns):
    values = [[seen(kind, value) for value in arrow.column(name).to_pylist()] for name, kind in columns]
    return collections.Counter(zip(*values, strict=True))


def rows(lake, folder):
    """What differs, per engine and table; all tables of an engine that agrees are named with their number of rows."""
    from deltalake import DeltaTable

    paths = engines.log_folders(lake)
    columns = {name: columns_of(DeltaTable(path)) for name, path in paths.items()}
    expected = {}
    for name in paths:
        text = (pathlib.Path(folder) / f"{name.replace('/', '.')}.json").read_text()
        ours = map(json.loads, text.splitlines())
        expected[name] = collections.Counter(tuple(told(k, row[c]) for c, k in columns[name]) for row in ours)

    with tempfile.TemporaryDirectory() as scratch:
        jobs = []
        for at, path in enumerate(paths.values()):
            jobs.append(([f"SELECT * FROM delta.`{path}`"], f"{scratch}/{at}.arrow"))
        sail = engines.start_sail(jobs)
        found, seconds = {}, {}
        for engine, read in engines.HERE.items():
            begun = time.monotonic()
            found[engine] = {name: compare(read(path), columns[name], expected[name]) for name, path in paths.items()}
            seconds[engine] = round(time.monotonic() - begun, 1)
        begun = time.monotonic()
        read = dict(zip(paths, engines.answers(sail, jobs), strict=True))
        found["sail"] = {name: compare(arrow, columns[name], expected[name]) for name, arrow in read.items()}
        seconds["sail"] = round(time.monotonic() - begun, 1)
    print(f"seconds: {seconds}", file=sys.stderr)
    return found


def compare(arrow, columns, expected):
    if arrow.column_names != [name for name, _ in columns]:
        return {"rows": arrow.num_rows, "wrong": [f"columns {arrow.column_names}"]}
    got = rows_of(arrow, columns)
    wrong = [f"missing {row}" for row in (expected - got)] + [f"unknown {row}" for row in (got - expected)]
    return {"rows": arrow.num_rows, "wrong": wrong[:3]}


def checkpoint(lake):
    """Of each table with a checkpoint: its version, and the columns of each set of encodings."""
    import pyarrow.parquet

    found = {}
    for name, path in engines.log_folders(lake).items():
        log = pathlib.Path(path) / "_delta_log"
        if not (log / "_last_checkpoint").exists():
            continue
        version = json.loads((log / "_last_checkpoint").read_text())["version"]
        metadata = pyarrow.parquet.ParquetFile(log / f"{version:020}.checkpoint.parquet").metadata
        encodings = collections.Counter()
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                encodings[" ".join(sorted(metadata.row_group(group).column(column).encodings))] += 1
        size = (log / f"{version:020}.checkpoint.parquet").stat().st_size
        found[name] = {"version": version, "encodings": encodings, "bytes": size}
    return found


def daily(lake):
    con = engines.duckdb()
    rows = con.execute(
        f"""SELECT metric, CAST(CAST(event_time AS DATE) AS VARCHAR), count(*), avg(value)
            FROM delta_scan('{lake}/silver/readings') GROUP BY 1, 2 ORDER BY 1, 2"""
    ).fetchall()
    return [list(row) for row in rows]


def csv(file, time, null):
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    con.execute(f"CREATE TABLE recording AS SELECT * FROM read_csv('{file}')")
    columns = [row[0] for row in con.execute("DESCRIBE recording").fetchall()]
    times = time.split(",")
    day = f'CAST("{times[0]}" AS DATE)'
    rows = []
    for column in columns:
        if column in times:
            continue
        rows += con.execute(
            f"""SELECT '{column}', CAST({day} AS VARCHAR), count(*), avg("{column}") FROM recording
                WHERE "{column}" IS NOT NULL AND "{column}" <> {null} GROUP BY 2 ORDER BY 2"""
        ).fetchall()
    return sorted(list(row) for row in rows)


if __name__ == "__main__":
    lake, verb, *rest = sys.argv[1:]
    verbs = {"tables": tables, "rows": rows, "checkpoint": checkpoint, "daily": daily}
    verbs["csv"] = lambda _, *args: csv(*args)
    json.dump(verbs[verb](lake, *rest), sys.stdout)
