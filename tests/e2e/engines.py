"""Engines that are not ours, each as a function that gives a Delta table, or the answer to a query, as Arrow.

Spark runs in this process, one session for all; Sail is a server that PySpark's other face (Spark Connect) speaks to,
and the two faces do not share a process.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile

# Delta's own jars, which PyPI does not bring.
JARS = "DELTA_JARS"


def log_folders(lake):
    """Every Delta table below `lake`: its name (silver/readings) and its path."""
    logs = sorted(pathlib.Path(lake).rglob("_delta_log"))
    return {str(log.parent.relative_to(lake)): str(log.parent) for log in logs}


@functools.cache
def spark():
    from pyspark.sql import SparkSession

    jars = sorted(str(jar) for jar in pathlib.Path(os.environ[JARS]).glob("*.jar"))
    settings = {
        "spark.jars": ",".join(jars),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        # Small tables on two cores: fifty tasks to replay a log of ten commits would be most of the time.
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
        # Never written to, but made where Spark starts: in the clone.
        "spark.sql.warehouse.dir": f"{tempfile.gettempdir()}/spark-warehouse",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
    }
    builder = SparkSession.builder.master("local[2]").appName("readers")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


@functools.cache
def duckdb():
    import duckdb as library
    import duckdb_extension_delta

    con = library.connect(config={"allow_unsigned_extensions": "true"})
    folder = pathlib.Path(duckdb_extension_delta.__file__).parent
    extension = next(folder.rglob("delta.duckdb_extension"))
    con.execute(f"LOAD '{extension}'")
    con.execute("SET TimeZone = 'UTC'")
    return con


def by_spark(path):
    return spark().read.format("delta").load(path).toArrow()


def by_duckdb(path):
    return duckdb().execute(f"SELECT * FROM delta_scan('{path}')").to_arrow_table()


def by_deltalake(path):
    from deltalake import DeltaTable

    return DeltaTable(path).to_pyarrow_table()


def by_polars(path):
    import polars

    return polars.read_delta(path).to_arrow()


# Within one process, in this order.
HERE = {"deltalake": by_deltalake, "duckdb": by_duckdb, "polars": by_polars, "spark": by_spark}


def by_sail(jobs):
    """Runs `jobs`, pairs of a statement list and a file for the last one's answer, in a Sail server of their own."""
    import pyarrow
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _, port = server.listening_address
    session = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    for statements, file in jobs:
        for statement in statements:
            answer = session.sql(statement)
        table = answer.toArrow()
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    session.stop()
    server.stop()


def start_sail(jobs):
    """The same in a process of its own; `answers` waits for it."""
    import json

    code = "import json, sys; import engines; engines.by_sail(json.load(sys.stdin))"
    folder = str(pathlib.Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=sys.stderr, cwd=folder)
    process.stdin.write(json.dumps([[statements, str(file)] for statements, file in jobs]).encode())
    process.stdin.close()
    return process


def answers(process, jobs):
    import pyarrow

    if process.wait() != 0:
        raise RuntimeError("Sail failed; see above")
    for _, file in jobs:
        with pyarrow.memory_map(str(file)) as source:
            yield pyarrow.ipc.open_file(source).read_all()
