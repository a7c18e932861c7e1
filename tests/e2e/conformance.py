"""The gold models' own texts on Spark and Sail, against what the ingester's engine made of them.

usage: conformance.py models FOLDER          FOLDER/<model>/{model.sql,expected.parquet} and the relations it reads:
                                             relation.parquet (`windowed` or `readings`, as the header's mode says), or
                                             one file per relation, by its name
       conformance.py bundle LAKE FOLDER     the pipeline of `cloud-ingester export databricks` in FOLDER, over LAKE,
                                             against the gold tables there

Counts, min, max, first and last have to be equal, averages and deviations within 1e-9, percentiles within 1e-4, both
relative. Prints, per model and engine, the rows and what is wrong.
"""

import json
import math
import pathlib
import re
import sys
import tempfile

import engines

AVERAGES, PERCENTILES = 1e-9, 1e-4

# Sums in another order, and what is computed from them. The last line: columns of `functions`.
AVERAGED = (
    r"_(avg|stddev)$|^(expected|availability)$"
    r"|^(total|mean|spread\w*|variance\w*|exponential|logarithm|squared|root)$"
)
PERCENTILE = r"_p\d+(_s)?$|^(p\d+|middle)$"


def tolerance(column):
    if re.search(AVERAGED, column):
        return AVERAGES
    return PERCENTILES if re.search(PERCENTILE, column) else 0.0


def same(column, ours, theirs):
    if ours is None or theirs is None or not isinstance(ours, float):
        return ours == theirs
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return math.isclose(ours, theirs, rel_tol=tolerance(column), abs_tol=0.0) or ours == theirs


def header(sql):
    """The header of a model: TOML in its leading comment."""
    import tomllib

    lines = []
    for line in sql.splitlines():
        if not line.strip().startswith("--"):
            break
        text = line.strip()[2:].strip()
        if text.startswith("[") or " = " in text:
            lines.append(text)
    return tomllib.loads("\n".join(lines))


def keyed(arrow, columns, keys):
    rows = {}
    for row in arrow.select(columns).to_pylist():
        key = tuple(str(row[name]) for name in keys)
        if key in rows:
            raise ValueError(f"two rows of {key}")
        rows[key] = row
    return rows


def compare(expected, got, keys):
    # What the engine adds beside the SELECT (the partition column) is not the SELECT's.
    columns = [name for name in expected.column_names if name in got.column_names]
    keys = [name for name in keys if name in columns]
    ours, theirs = keyed(expected, columns, keys), keyed(got, columns, keys)
    wrong = [f"missing {key}" for key in sorted(ours.keys() - theirs.keys())]
    wrong += [f"unknown {key}" for key in sorted(theirs.keys() - ours.keys())]
    for key in sorted(ours.keys() & theirs.keys()):
        for name in columns:
            if not same(name, ours[key][name], theirs[key][name]):
                wrong.append(f"{key} {name}: {ours[key][name]!r} for us, {theirs[key][name]!r} for them")
    return {"rows": len(theirs), "columns": len(columns), "wrong": wrong[:5]}


def run(cases):
    """`cases`: name -> (statements that make the relations, the SELECT, what we make of it, keys)."""
    spark = engines.spark()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        jobs = []
        for at, (before, select, _, _) in enumerate(cases.values()):
            jobs.append(([*before, select], f"{scratch}/{at}.arrow"))
        sail = engines.start_sail(jobs)
        for name, (before, select, expected, keys) in cases.items():
            for statement in before:
                spark.sql(statement)
            found[name] = {"spark": compare(expected, spark.sql(select).toArrow(), keys)}
        for (name, case), got in zip(cases.items(), engines.answers(sail, jobs), strict=True):
            found[name]["sail"] = compare(case[2], got, case[3])
    return found


def keys_of(head):
    return [*head.get("keys", []), "window_start", "window_end", "hub", "incarnation", "partition_id"]


def models(folder):
    import pyarrow.parquet

    cases = {}
    for text in sorted(pathlib.Path(folder).glob("*/model.sql")):
        sql = text.read_text()
        head = header(sql)
        before = []
        for file in sorted(text.parent.glob("*.parquet")):
            view = file.stem
            if view == "expected":
                continue
            if view == "relation":
                view = "windowed" if head["mode"] == "window" else "readings"
            before.append(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM parquet.`{file}`")
        expected = pyarrow.parquet.read_table(text.parent / "expected.parquet")
        cases[text.parent.name] = (before, sql.rstrip().rstrip(";"), expected, keys_of(head))
    return run(cases)


def bundle(lake, folder):
    cases = {}
    for text in sorted((pathlib.Path(folder) / "src/gold").glob("*.sql")):
        whole = text.read_text()
        # Behind `create or refresh materialized view NAME as` stands a query of Spark's.
        select = re.split(r"^as (?=with )", whole, maxsplit=1, flags=re.MULTILINE)[1]
        head = header(select[select.index("\n--") :].lstrip())
        select = re.sub(r"\b(from|join) (silver|gold)\.(\w+)", rf"\1 delta.`{lake}/\2/\3`", select)
        expected = engines.by_deltalake(f"{lake}/gold/{text.stem}")
        cases[text.stem] = ([], select.rstrip().rstrip(";"), expected, keys_of(head))
    return run(cases)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    json.dump({"models": models, "bundle": bundle}[verb](*rest), sys.stdout)
