"""Reads the lake with PyPI `deltalake` and with DuckDB's Delta reader; prints what each saw as JSON.

usage: readers.py LAKE tables            protocol, columns and row counts of every table, by both readers
       readers.py LAKE daily             daily means and counts of silver.readings, by DuckDB
       readers.py - csv FILE TIME NULL   daily means and counts of a recording's columns, by DuckDB
"""

import json
import pathlib
import sys

import duckdb


def connect():
    import duckdb_extension_delta

    con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    folder = pathlib.Path(duckdb_extension_delta.__file__).parent
    extension = next(folder.rglob("delta.duckdb_extension"))
    con.execute(f"LOAD '{extension}'")
    con.execute("SET TimeZone = 'UTC'")
    return con


def delta_type(kind):
    """A type of the Delta log in one word: long, map<string,long>, array<string>."""
    if isinstance(kind, str):
        return kind
    if kind["type"] == "map":
        return f"map<{delta_type(kind['keyType'])},{delta_type(kind['valueType'])}>"
    if kind["type"] == "array":
        return f"array<{delta_type(kind['elementType'])}>"
    return json.dumps(kind)


def tables(lake):
    from deltalake import DeltaTable

    con = connect()
    seen = {}
    for log in sorted(pathlib.Path(lake).rglob("_delta_log")):
        path = log.parent
        table = DeltaTable(str(path))
        protocol = table.protocol()
        columns = [[field.name, delta_type(json.loads(field.type.to_json()))] for field in table.schema().fields]
        described = con.execute(f"DESCRIBE SELECT * FROM delta_scan('{path}')").fetchall()
        seen[str(path.relative_to(lake))] = {
            "reader": protocol.min_reader_version,
            "writer": protocol.min_writer_version,
            "columns": columns,
            "duckdb_columns": [[name, kind] for name, kind, *_ in described],
            "rows": table.to_pyarrow_table().num_rows,
            "duckdb_rows": con.execute(f"SELECT count(*) FROM delta_scan('{path}')").fetchone()[0],
        }
    return seen


def daily(lake):
    con = connect()
    rows = con.execute(
        f"""SELECT metric, CAST(CAST(event_time AS DATE) AS VARCHAR), count(*), avg(value)
            FROM delta_scan('{lake}/silver/readings') GROUP BY 1, 2 ORDER BY 1, 2"""
    ).fetchall()
    return [list(row) for row in rows]


def csv(file, time, null):
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
    answer = {"tables": tables, "daily": daily, "csv": lambda _, *args: csv(*args)}[verb](lake, *rest)
    json.dump(answer, sys.stdout)
